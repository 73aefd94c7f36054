/** One job: how far it is, what can be done about it, what came of it. */

import { announce } from '../announce.js';
import { asSentence, byId, fromTemplate, part, showText, whileBusy } from '../dom.js';
import { messageOf } from '../http.js';
import { offers } from '../offered.js';
import { summarise } from '../options.js';
import { downloadLinks } from './downloads.js';
import { showFinetune } from './finetune.js';
import { followJob } from './follow.js';
import { changeJob, hasEnded } from './jobs.js';
import { createFailures, createLeftOut } from './reasons.js';
import { createResults } from './results.js';
import { moment, outcomeOf, progressOf, shareOf, stateOf, titleOf } from './words.js';

/**
 * @typedef {import('./jobs.js').Job} Job
 * @typedef {'cancel' | 'retry' | 'pause' | 'resume'} Change
 */

const QUARTERS = 4;

/** The view, alive between enter and leave. */
export function jobView() {
  let following = new AbortController();

  return {
    /** @param {string} id */
    enter(id) {
      following.abort();
      following = new AbortController();
      show(id, following.signal);
    },
    leave() {
      following.abort();
      byId('job').replaceChildren();
    },
  };
}

/**
 * @param {string} id
 * @param {AbortSignal} signal
 */
function show(id, signal) {
  const page = fromTemplate('job-page-template');
  byId('job').replaceChildren(page);
  byId('job').hidden = true;
  showText(byId('job-problem'), '');
  byId('job-title').textContent = 'Job';
  byId('job-about').textContent = '';
  const results = createResults(part(page, '.job-results'), id);
  const [failures, leftOut] = [createFailures(id), createLeftOut()];
  part(page, '.job-results').before(failures.section, leftOut.section);
  const tell = createTeller();
  let state = '';

  const follow = () =>
    followJob(id, {
      signal,
      onJob(job) {
        byId('job').hidden = false;
        showText(byId('job-problem'), '');
        showState(page, job);
        showDownloads(page, job);
        showFinetune(page, job);
        results.show(job);
        failures.show(job);
        leftOut.show(job);
        tell(job);
        if (job.state !== state) showChanges(page, job);
        state = job.state;
      },
      onProblem: (error) => showText(byId('job-problem'), messageOf(error)),
    });

  page.addEventListener('click', async (event) => {
    const button = event.target instanceof HTMLElement ? event.target : null;
    const change = button?.dataset.change;
    if (!button || change === undefined) return;
    await whileBusy(button, () => act(page, { id, change: /** @type {Change} */ (change) }));
    state = '';
    if (change === 'retry' && !signal.aborted) follow();
  });
  follow();
}

/**
 * @param {HTMLElement} page
 * @param {Job} job
 */
function showState(page, job) {
  page.dataset.state = job.state;
  byId('job-title').textContent = titleOf(job);
  byId('job-about').textContent = aboutOf(job);
  part(page, '.badge').textContent = stateOf(job);
  part(page, '.job-progress-text').textContent = hasEnded(job) ? outcomeOf(job) : progressOf(job);
  const bar = part(page, '.job-bar', HTMLProgressElement);
  bar.value = job.state === 'succeeded' ? 1 : shareOf(job);
  const notes = [job.error ?? '', job.note ?? ''].filter(Boolean);
  showText(part(page, '.job-error'), notes.map(asSentence).join(' '));
}

/** @param {Job} job */
function aboutOf({ kind, created, options = {}, attempt, base }) {
  const facts = [
    `Started ${moment(created)}`,
    base ? `from ${base}` : '',
    kind === 'captions' ? summarise(options) : '',
    kind === 'captions' && options.prefix ? `each begins with “${options.prefix}”` : '',
    attempt > 1 ? `attempt ${attempt}` : '',
  ];
  return facts.filter(Boolean).join(' · ');
}

/**
 * The buttons that make sense now and that this service knows.
 *
 * @param {HTMLElement} page
 * @param {Job} job
 */
async function showChanges(page, job) {
  const isOver = hasEnded(job);
  const { total, done, skipped } = job.counts;
  const hasLeft = job.state !== 'succeeded' || (job.kind === 'captions' && done + skipped < total);
  const canPause = !isOver && (await offers('POST', '/v1/jobs/{job}/pause'));
  const wanted = {
    pause: canPause && job.state !== 'paused',
    resume: job.state === 'paused',
    cancel: !isOver && !job.cancel_requested,
    retry: isOver && hasLeft,
  };
  for (const [change, isWanted] of Object.entries(wanted)) {
    const button = part(page, `[data-change="${change}"]`);
    const hadFocus = button === document.activeElement;
    button.hidden = !isWanted;
    if (hadFocus && button.hidden) byId('job-title').focus();
  }
  part(page, '[data-change="retry"]').textContent =
    job.state === 'canceled' ? 'Do the rest' : 'Try again what failed';
}

/**
 * @param {HTMLElement} page
 * @param {{id: string, change: Change}} what
 */
async function act(page, { id, change }) {
  try {
    const job = await changeJob(id, change);
    showText(part(page, '.job-refusal'), '');
    showState(page, job);
    await showChanges(page, job);
    announce(`${stateOf(job)}.`);
  } catch (error) {
    showText(part(page, '.job-refusal'), messageOf(error));
  }
}

/**
 * @param {HTMLElement} page
 * @param {Job} job
 */
function showDownloads(page, job) {
  const list = part(page, '.downloads');
  const links = downloadLinks(job, (error) => showText(part(page, '.job-refusal'), messageOf(error)));
  part(page, '.job-files').hidden = links.length === 0;
  // Links that have not changed stay, so that the focus on one of them does too.
  if (list.children.length !== links.length) list.replaceChildren(...links);
}

/** Says each quarter of the way and the end, once. */
function createTeller() {
  let said = -1;
  return (/** @type {Job} */ job) => {
    const quarter = hasEnded(job) ? QUARTERS : Math.min(Math.floor(QUARTERS * shareOf(job)), QUARTERS - 1);
    if (said >= 0 && quarter > said) {
      announce(hasEnded(job) ? `${stateOf(job)}. ${outcomeOf(job)}.` : `${(100 / QUARTERS) * quarter} percent done.`);
    }
    said = quarter;
  };
}
