/** How far the photos on the page have got, to see and to hear. */

import { announce } from '../announce.js';
import { byId, create } from '../dom.js';

/** @typedef {import('./photo.js').Photo} Photo */

/**
 * Shows the counts.
 *
 * @param {Photo[]} photos
 */
export function showProgress(photos) {
  const { captioned, failed, settled } = count(photos);
  const isSettled = settled === photos.length;
  const text = isSettled
    ? settledParts(captioned, failed)
    : [`${settled} of ${numberOfPhotos(photos.length)} done`];
  byId('progress-text').replaceChildren(...text);
  const bar = /** @type {HTMLProgressElement} */ (byId('progress'));
  bar.max = Math.max(photos.length, 1);
  bar.value = settled;
  bar.classList.toggle('is-settled', isSettled);
  byId('invitation').hidden = photos.length > 0;
  byId('photos').hidden = photos.length === 0;
  for (const id of ['save-text', 'save-json-lines']) {
    /** @type {HTMLButtonElement} */ (byId(id)).disabled = captioned === 0;
  }
}

/**
 * Says once that everything is done: the caption of a single photo, else the counts.
 *
 * @param {Photo[]} photos
 */
export function announceWhenSettled(photos) {
  const { captioned, failed, settled } = count(photos);
  if (photos.length === 0 || settled < photos.length) return;
  const [only] = photos;
  const isSingle = photos.length === 1;
  if (isSingle && only.answer) announce(`${only.file.name}: ${only.answer.captions[0]?.text ?? ''}`);
  else if (isSingle && only.problem)
    announce(`${only.file.name}: ${only.problem.title}. ${only.problem.detail}`);
  else announce(`${settledText(captioned, failed)}.`);
}

/** @param {number} total */
export function numberOfPhotos(total) {
  return total === 1 ? '1 photo' : `${total} photos`;
}

/**
 * @param {number} captioned
 * @param {number} failed
 */
function settledText(captioned, failed) {
  const done = `${numberOfPhotos(captioned)} captioned`;
  if (failed === 0) return done;
  return captioned === 0 ? `${numberOfPhotos(failed)} not captioned` : `${done}, ${failed} not`;
}

/**
 * The same, with a button for those that failed where they stand among others.
 *
 * @param {number} captioned
 * @param {number} failed
 */
function settledParts(captioned, failed) {
  const text = settledText(captioned, failed);
  if (captioned === 0 || failed === 0) return [text];
  const textContent = `${failed} not`;
  const title = 'Show the next photo that was not captioned';
  return [text.slice(0, -textContent.length), create('button', { type: 'button', textContent, title })];
}

/** @param {Photo[]} photos */
function count(photos) {
  const captioned = photos.filter(({ state }) => state === 'captioned').length;
  const failed = photos.filter(({ state }) => state === 'failed').length;
  return { captioned, failed, settled: captioned + failed };
}
