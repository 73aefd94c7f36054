/** Jobs: what the service tells of them and does with them. */

import { requestJson, sendJson } from '../http.js';

/**
 * @typedef {'queued' | 'running' | 'paused' | 'succeeded' | 'failed' | 'canceled'} JobState
 * @typedef {{total: number, done: number, failed: number, skipped: number}} Counts
 * @typedef {Record<string, number> & {step: number}} CurvePoint
 * @typedef {{id: string, gate: import('../models/models.js').Gate | null, is_activated: boolean}} MadeModel
 *
 * @typedef {object} Job
 * @property {string} id
 * @property {'captions' | 'finetune'} kind
 * @property {JobState} state
 * @property {string} dataset
 * @property {number} attempt
 * @property {Counts} counts photos by what became of them
 * @property {boolean} cancel_requested
 * @property {number | null} rate
 * @property {number | null} seconds_left
 * @property {string} created ISO 8601
 * @property {string | null} started
 * @property {string | null} ended
 * @property {Record<string, any>} [options]
 * @property {string[]} [outputs]
 * @property {string | null} error
 * @property {{phase: string, step: number, steps: number} | null} [progress] of a fine-tune
 * @property {CurvePoint[]} [curve] of a fine-tune
 * @property {MadeModel | null} [model] of a fine-tune
 * @property {string | null} [note] of a fine-tune: what else there is to know of its end
 * @property {string | null} [base] of a fine-tune: the version that it starts from
 */

/** Submitting looks at every photo of the dataset's list. */
const SUBMIT_LIMIT_MS = 60_000;
/** @type {JobState[]} */
const ENDED = ['succeeded', 'failed', 'canceled'];

/** @param {Job} job */
export function hasEnded({ state }) {
  return ENDED.includes(state);
}

/**
 * Where to read and act on a job.
 *
 * @param {string} id
 * @param {string} [below]
 */
export function jobAddress(id, below = '') {
  return `v1/jobs/${encodeURIComponent(id)}${below}`;
}

/**
 * A page of jobs, the newest first.
 *
 * @param {{limit: number, cursor?: string | null}} page
 * @returns {Promise<{data: Job[], next_cursor: string | null}>}
 */
export function fetchJobs({ limit, cursor }) {
  const query = new URLSearchParams({ limit: String(limit), ...(cursor ? { cursor } : {}) });
  return requestJson(`v1/jobs?${query}`);
}

/**
 * @param {string} id
 * @returns {Promise<Job>}
 */
export function fetchJob(id) {
  return requestJson(jobAddress(id));
}

/**
 * @param {string} id
 * @returns {Promise<import('./upload.js').Dataset>}
 */
export function fetchDataset(id) {
  return requestJson(`v1/datasets/${encodeURIComponent(id)}`);
}

/**
 * @param {'captions' | 'finetune'} kind
 * @param {Record<string, unknown>} asked
 * @param {string} key one for each job: sent again with it, after an answer that was lost, no second job starts
 * @returns {Promise<Job>}
 */
export function submitJob(kind, asked, key) {
  const route = kind === 'captions' ? 'v1/jobs/captions' : 'v1/jobs/finetunes';
  return sendJson('POST', route, asked, { limitMs: SUBMIT_LIMIT_MS, headers: { 'Idempotency-Key': key } });
}

/**
 * Has a job go on, rest or end.
 *
 * @param {string} id
 * @param {'cancel' | 'retry' | 'pause' | 'resume'} what
 * @returns {Promise<Job>}
 */
export function changeJob(id, what) {
  const limit = { limitMs: SUBMIT_LIMIT_MS };
  if (what === 'cancel') return sendJson('DELETE', jobAddress(id), undefined, limit);
  return sendJson('POST', jobAddress(id, `/${what}`), undefined, limit);
}
