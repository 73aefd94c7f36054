/** What a job has written so far, with its photos. */

import { fromTemplate, part } from '../dom.js';
import { orNothing } from '../http.js';
import { jobAddress } from './jobs.js';
import { readLines } from './lines.js';
import { showPicture } from './pictures.js';

/**
 * @typedef {import('./jobs.js').Job} Job
 * @typedef {{item: number, file_name: string, captions: {text: string, clip_score: number}[]}} Result
 */

const FIRST_SHOWN = 24;
const MORE_SHOWN = 48;

/**
 * @param {HTMLElement} section
 * @param {string} id of the job
 */
export function createResults(section, id) {
  const list = part(section, '.results');
  const more = part(section, '.show-more');
  /** @type {Map<number, HTMLElement>} */
  const shown = new Map();
  let wanted = FIRST_SHOWN;
  let read = '';

  /** @param {Job} job */
  async function show(job) {
    const state = `${job.attempt} ${job.counts.done} ${wanted}`;
    if (job.kind !== 'captions' || job.counts.done === 0 || state === read) return;
    read = state;
    const page = await orNothing(readLines(jobAddress(id, '/results'), wanted));
    if (page === null) {
      read = '';
      return;
    }
    for (const [index, result] of /** @type {Result[]} */ (page.lines).entries()) {
      const element = shown.get(result.item) ?? resultElement(result, job);
      shown.set(result.item, element);
      if (list.children[index] !== element) list.insertBefore(element, list.children[index] ?? null);
    }
    section.hidden = list.children.length === 0;
    more.hidden = !page.hasMore;
    more.onclick = () => {
      wanted += MORE_SHOWN;
      show(job);
    };
  }
  return { show };
}

/**
 * @param {Result} result
 * @param {Job} job
 */
function resultElement({ item, file_name, captions }, job) {
  const element = fromTemplate('result-template');
  const [best] = captions;
  part(element, '.result-text').textContent = best?.text ?? '';
  part(element, '.result-meta').textContent = `${file_name} · CLIP score ${best?.clip_score.toFixed(2) ?? ''}`;
  showPicture(part(element, 'img', HTMLImageElement), { job, item, fileName: file_name });
  return element;
}
