/** A photo on the page, from the moment it is added. */

import { RequestFailed, isAway } from '../http.js';
import { requestCaptions } from './captions.js';

const MAX_ATTEMPTS = 20;
/** A photo that ends the service each time is not sent for ever. */
const MAX_LOST_ATTEMPTS = 3;
const UNREADABLE_ANSWER = {
  title: 'The answer could not be read',
  detail: 'It is not what this page expects. Load the page again, in case the service was updated.',
};

/**
 * @typedef {import('./captions.js').Answer} Answer
 * @typedef {import('../http.js').Problem} Problem
 * @typedef {Record<string, string | number>} RequestOptions
 *
 * @typedef {object} Photo
 * @property {File} file
 * @property {string} url of the thumbnail, an object URL
 * @property {RequestOptions} options that its captions are asked for with
 * @property {'waiting' | 'working' | 'resting' | 'held' | 'captioned' | 'failed'} state `held` until the service is ready
 * @property {number} attempts
 * @property {number} lostAttempts those that a service that was away cost
 * @property {number} restS seconds until the next attempt, while resting
 * @property {string[]} drafts what is written of the captions so far, while working
 * @property {Answer | null} answer
 * @property {string} answeredAt ISO 8601
 * @property {Problem | null} problem
 * @property {AbortController} giveUp
 */

/**
 * @param {File} file
 * @param {RequestOptions} options
 * @returns {Photo}
 */
export function createPhoto(file, options) {
  return { file, url: URL.createObjectURL(file), options, answeredAt: '', ...untouched() };
}

/**
 * Makes a photo wait for captions again.
 *
 * @param {Photo} photo
 * @param {RequestOptions} options
 */
export function resetPhoto(photo, options) {
  photo.giveUp.abort();
  Object.assign(photo, untouched(), { options });
}

/**
 * Ends what is going on for a photo that leaves the page.
 *
 * @param {Photo} photo
 */
export function discardPhoto(photo) {
  photo.giveUp.abort();
  URL.revokeObjectURL(photo.url);
}

/**
 * Asks for a photo's captions once and notes what came of it.
 *
 * @param {Photo} photo
 * @param {() => void} onChange
 * @returns {Promise<number>} 0, or the seconds after which to ask again, because the service is busy
 */
export async function captionPhoto(photo, onChange) {
  const { signal } = photo.giveUp;
  const { file, options } = photo;
  Object.assign(photo, { state: 'working', attempts: photo.attempts + 1 });
  onChange();
  try {
    const answer = await requestCaptions(file, options, signal, (drafts) => {
      Object.assign(photo, { drafts });
      if (!signal.aborted) onChange();
    });
    if (!signal.aborted)
      Object.assign(photo, {
        state: 'captioned',
        drafts: [],
        answer,
        answeredAt: new Date().toISOString(),
      });
  } catch (error) {
    if (!signal.aborted) noteFailure(photo, error);
  }
  if (signal.aborted) return 0;
  onChange();
  return photo.state === 'resting' ? photo.restS : 0;
}

/** @returns {Omit<Photo, 'file' | 'url' | 'options' | 'answeredAt'>} */
function untouched() {
  return {
    state: 'waiting',
    attempts: 0,
    lostAttempts: 0,
    restS: 0,
    drafts: [],
    answer: null,
    problem: null,
    giveUp: new AbortController(),
  };
}

/**
 * @param {Photo} photo
 * @param {unknown} error
 */
function noteFailure(photo, error) {
  photo.drafts = [];
  if (!(error instanceof RequestFailed)) {
    console.error(error);
    Object.assign(photo, { state: 'failed', problem: UNREADABLE_ANSWER });
  } else if (error.retryAfterS !== null && photo.attempts < MAX_ATTEMPTS) {
    Object.assign(photo, { state: 'resting', restS: error.retryAfterS });
  } else if (isAway(error) && photo.lostAttempts + 1 < MAX_LOST_ATTEMPTS) {
    Object.assign(photo, { state: 'held', lostAttempts: photo.lostAttempts + 1 });
  } else {
    Object.assign(photo, { state: 'failed', problem: error.problem });
  }
}
