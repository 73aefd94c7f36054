/** Requests to the service. Addresses are relative, so the page also works below a proxy's path. */

import { askForKey, wantsKey, withKey } from './access.js';

/**
 * @typedef {object} Caption
 * @property {string} text
 * @property {number} clip_similarity cosine, -1..1
 * @property {number} clip_score 0..2.5
 * @property {number} log_likelihood
 * @property {number} num_tokens
 * @property {'stop' | 'length'} finish_reason
 *
 * @typedef {object} Problem an RFC 9457 problem document
 * @property {string} title
 * @property {string} detail
 * @property {number} [status] HTTP status; none where there was no answer at all
 *
 * @typedef {object} Answer what the service said of one photo
 * @property {Caption[]} captions best first
 * @property {{width: number, height: number, format: string, sha256: string} | null} image
 * @property {string[]} warnings
 * @property {{name: string, version: string}} model
 * @property {{name: string, revision: string}} scorer
 * @property {{total_ms: number}} timing
 *
 * @typedef {{name: string, version: string, is_active: boolean, scorer: {name: string}}} Model
 */

const ANSWER_LIMIT_MS = 180_000;
const CHECK_LIMIT_MS = 10_000;
const DEFAULT_RETRY_AFTER_S = 2;
const MAX_RETRY_AFTER_S = 60;
const TOO_MANY_REQUESTS = 429;

/** A request that brought no answer; `problem` says why, in words for the person at the page. */
export class RequestFailed extends Error {
  /**
   * @param {Problem} problem
   * @param {number | null} retryAfterS seconds after which the service wants to be asked again
   */
  constructor(problem, retryAfterS = null) {
    super(problem.title);
    this.problem = problem;
    this.retryAfterS = retryAfterS;
  }
}

/**
 * Captions of one photo.
 *
 * @param {File} file
 * @param {Record<string, string | number>} options
 * @param {AbortSignal} signal gives the photo up
 * @returns {Promise<Answer>}
 * @throws {RequestFailed}
 */
export async function requestCaptions(file, options, signal) {
  const body = new FormData();
  body.append('image', file, file.name);
  for (const [name, value] of Object.entries(options)) body.append(name, String(value));
  const limit = AbortSignal.timeout(ANSWER_LIMIT_MS);
  const init = { method: 'POST', body, signal: AbortSignal.any([signal, limit]) };
  const { results, model, scorer, timing } = await requestJson('v1/captions', init);
  const [result] = results;
  if (result.error) throw new RequestFailed(result.error);
  return { captions: result.captions, image: result.image, warnings: result.warnings, model, scorer, timing };
}

/**
 * What keeps the service from captioning, or null when it is ready.
 *
 * @returns {Promise<Problem | null>}
 */
export async function findReadinessProblem() {
  try {
    await requestJson('health/ready', { signal: AbortSignal.timeout(CHECK_LIMIT_MS), cache: 'no-store' });
    return null;
  } catch (error) {
    return error instanceof RequestFailed ? error.problem : unexpected(error);
  }
}

/**
 * The model that answers when none is named.
 *
 * @returns {Promise<Model | undefined>}
 * @throws {RequestFailed}
 */
export async function fetchActiveModel() {
  const { data } = await requestJson('v1/models', { signal: AbortSignal.timeout(CHECK_LIMIT_MS) });
  return data.find((/** @type {Model} */ model) => model.is_active);
}

/**
 * @param {string} address
 * @param {RequestInit} init
 * @returns {Promise<any>}
 */
async function requestJson(address, init) {
  try {
    const response = await fetch(address, withKey(init));
    if (wantsKey(response.status)) askForKey();
    if (!response.ok) throw new RequestFailed(await readProblem(response), retryAfterS(response));
    return await response.json();
  } catch (error) {
    throw error instanceof RequestFailed ? error : new RequestFailed(unexpected(error));
  }
}

/** @param {Response} response */
async function readProblem(response) {
  const fallback = {
    status: response.status,
    title: `The service answered with ${response.status}`,
    detail: response.statusText,
  };
  const isProblem = response.headers.get('content-type')?.startsWith('application/problem+json');
  return isProblem ? { ...fallback, ...(await response.json()) } : fallback;
}

/** @param {Response} response */
function retryAfterS(response) {
  if (response.status !== TOO_MANY_REQUESTS) return null;
  const asked = Number.parseInt(response.headers.get('retry-after') ?? '', 10);
  return Number.isNaN(asked) ? DEFAULT_RETRY_AFTER_S : Math.min(Math.max(asked, 1), MAX_RETRY_AFTER_S);
}

/**
 * @param {unknown} error what fetch threw
 * @returns {Problem}
 */
function unexpected(error) {
  if (error instanceof DOMException && error.name === 'TimeoutError') {
    return { title: 'The service took too long', detail: 'No answer came in time. Try again.' };
  }
  return {
    title: 'The service did not answer',
    detail: 'Check that it is running and that you are connected.',
  };
}
