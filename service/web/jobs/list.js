/** The list of jobs, looked at again every few seconds while it is shown. */

import { byId, fromTemplate, part, showText } from '../dom.js';
import { messageOf } from '../http.js';
import { fetchJobs, hasEnded } from './jobs.js';
import { moment, outcomeOf, progressOf, shareOf, stateOf, titleOf } from './words.js';

/** @typedef {import('./jobs.js').Job} Job */

const PAGE = 20;
const MAX_SHOWN = 100; // the most that the service tells at once
const LOOK_MS = 3000;
const LOOK_WHEN_IDLE_MS = 15_000;

let numShown = PAGE;
let timer = 0;
let isShown = false;

/** Makes the list work; it is alive between enter and leave. */
export function openJobs() {
  byId('jobs-more').addEventListener('click', () => {
    numShown = MAX_SHOWN;
    look();
  });
  return { enter, leave };
}

function enter() {
  isShown = true;
  look();
}

function leave() {
  isShown = false;
  clearTimeout(timer);
}

async function look() {
  clearTimeout(timer);
  try {
    const { data, next_cursor } = await fetchJobs({ limit: numShown });
    show(data, { isAll: next_cursor === null || numShown === MAX_SHOWN });
    showText(byId('jobs-problem'), '');
    lookAfter(data.every(hasEnded) ? LOOK_WHEN_IDLE_MS : LOOK_MS);
  } catch (error) {
    showText(byId('jobs-problem'), messageOf(error));
    lookAfter(LOOK_WHEN_IDLE_MS);
  }
}

/** @param {number} ms */
function lookAfter(ms) {
  clearTimeout(timer);
  if (isShown) timer = setTimeout(look, ms);
}

/**
 * @param {Job[]} jobs
 * @param {{isAll: boolean}} page
 */
function show(jobs, { isAll }) {
  byId('jobs-empty').hidden = jobs.length > 0;
  byId('jobs-more').hidden = isAll;
  const list = byId('job-list');
  const rows = new Map([...list.children].map((row) => [/** @type {HTMLElement} */ (row).dataset.job, row]));
  // A row that is there stays, so that the focus on its link does too.
  const kept = jobs.map((job) => showRow(/** @type {HTMLElement} */ (rows.get(job.id)) ?? newRow(job), job));
  for (const [index, row] of kept.entries()) {
    if (list.children[index] !== row) list.insertBefore(row, list.children[index] ?? null);
  }
  while (list.children.length > kept.length) list.lastElementChild?.remove();
}

/** @param {Job} job */
function newRow(job) {
  const row = fromTemplate('job-template');
  row.dataset.job = job.id;
  part(row, '.job-link').setAttribute('href', `#jobs/${encodeURIComponent(job.id)}`);
  return row;
}

/**
 * @param {HTMLElement} row
 * @param {Job} job
 */
function showRow(row, job) {
  const isOver = hasEnded(job);
  row.dataset.state = job.state;
  part(row, '.job-link').textContent = titleOf(job);
  part(row, '.badge').textContent = stateOf(job);
  const bar = part(row, 'progress', HTMLProgressElement);
  bar.value = shareOf(job);
  bar.hidden = isOver;
  bar.setAttribute('aria-label', titleOf(job));
  const facts = [moment(job.created), isOver ? outcomeOf(job) : progressOf(job)];
  part(row, '.job-meta').textContent = facts.filter(Boolean).join(' · ');
  return row;
}
