/** The files that a job has no captions of, and why: those that failed, and those that it never had. */

import { asSentence, create, fromTemplate, part, showText } from '../dom.js';
import { orNothing } from '../http.js';
import { isHidden } from './chosen.js';
import { fetchDataset, jobAddress } from './jobs.js';
import { readLines } from './lines.js';

/**
 * @typedef {import('./jobs.js').Job} Job
 * @typedef {{file_name: string, problem: {title: string, detail?: string}}} Failure
 */

const MAX_SHOWN = 50;

/**
 * The photos that failed.
 *
 * @param {string} id of the job
 */
export function createFailures(id) {
  const section = fromTemplate('reasons-template');
  let read = '';

  /** @param {Job} job */
  async function show({ kind, attempt, counts }) {
    const state = `${attempt} ${counts.failed}`;
    section.hidden = counts.failed === 0;
    if (section.hidden || state === read) return;
    read = state;
    const page = await orNothing(readLines(jobAddress(id, '/errors'), MAX_SHOWN));
    if (page === null) {
      read = '';
      return;
    }
    const more = page.hasMore ? 'There are more: see the file of errors.' : '';
    fill(section, kind === 'captions' ? 'Not captioned' : 'Not learnt from', page.lines.map(failureRow), more);
  }
  return { section, show };
}

/** The files that were no photos when the service got them; hidden ones are of no interest. */
export function createLeftOut() {
  const section = fromTemplate('reasons-template');
  let isRead = false;

  /** @param {Job} job */
  async function show({ dataset }) {
    if (isRead) return;
    isRead = true;
    const found = await orNothing(fetchDataset(dataset));
    isRead = found !== null;
    const leftOut = found?.rejected.filter(({ file_name }) => !isHidden(file_name)) ?? [];
    section.hidden = leftOut.length === 0;
    const more = leftOut.length > MAX_SHOWN ? `And ${(leftOut.length - MAX_SHOWN).toLocaleString()} more.` : '';
    fill(section, 'Left out of the job', leftOut.slice(0, MAX_SHOWN).map(leftOutRow), more);
  }
  return { section, show };
}

/**
 * @param {HTMLElement} section
 * @param {string} title
 * @param {HTMLElement[]} rows
 * @param {string} more
 */
function fill(section, title, rows, more) {
  part(section, '.section-title').textContent = title;
  part(section, '.table-scroll').setAttribute('aria-label', title);
  part(section, 'tbody').replaceChildren(...rows);
  showText(part(section, '.more-reasons'), more);
}

/** @param {Failure} failure */
function failureRow({ file_name, problem: { title, detail = '' } }) {
  return row(file_name, [title, detail].filter(Boolean).map(asSentence).join(' '));
}

/** @param {import('./upload.js').LeftOut} file */
function leftOutRow({ file_name, problem }) {
  return row(file_name, asSentence(problem.detail)); // its title says the same in general
}

/**
 * @param {string} fileName
 * @param {string} why
 */
function row(fileName, why) {
  return create('tr', {}, create('td', { textContent: fileName }), create('td', { textContent: why }));
}
