/** Requests to the service. Addresses are relative, so the page also works below a proxy's path. */

import { askForKey, wantsKey, withKey } from './access.js';
import { readEvents } from './events.js';

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
 * @typedef {object} Model
 * @property {string} id
 * @property {string} name
 * @property {string} version
 * @property {boolean} is_active
 * @property {string} stage
 * @property {number} step
 * @property {string | null} parent
 * @property {string} language
 * @property {number} created seconds since 1970
 * @property {{name: string, revision: string}} scorer
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
 * @param {(drafts: string[]) => void} onDrafts is told what is written of each caption so far
 * @returns {Promise<Answer>}
 * @throws {RequestFailed}
 */
export async function requestCaptions(file, options, signal, onDrafts) {
  const body = new FormData();
  body.append('image', file, file.name);
  for (const [name, value] of Object.entries(options)) body.append(name, String(value));
  const limit = AbortSignal.timeout(ANSWER_LIMIT_MS);
  const init = { method: 'POST', body, signal: AbortSignal.any([signal, limit]) };
  const { results, model, scorer, timing } = await requestResult('v1/captions/stream', init, onDrafts);
  const [result] = results;
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
 * The models that the service has.
 *
 * @returns {Promise<Model[]>}
 * @throws {RequestFailed}
 */
export async function fetchModels() {
  return (await requestJson('v1/models', { signal: AbortSignal.timeout(CHECK_LIMIT_MS) })).data;
}

/**
 * A model's card, Markdown.
 *
 * @param {string} id
 * @returns {Promise<string>}
 * @throws {RequestFailed}
 */
export async function fetchCard(id) {
  const address = `v1/models/${encodeURIComponent(id)}`;
  return (await requestJson(address, { signal: AbortSignal.timeout(CHECK_LIMIT_MS) })).card;
}

/**
 * @param {string} address
 * @param {RequestInit} init
 * @returns {Promise<any>}
 */
function requestJson(address, init) {
  return requested(address, init, (response) => response.json());
}

/**
 * @param {string} address of a stream of captions
 * @param {RequestInit} init
 * @param {(drafts: string[]) => void} onDrafts
 * @returns {Promise<any>} the data of its result
 */
function requestResult(address, init, onDrafts) {
  return requested(address, init, async (response) => {
    /** @type {string[]} */
    const drafts = [];
    let result;
    for await (const { name, data } of readEvents(response)) {
      if (name === 'error') throw new RequestFailed(data);
      if (name === 'result') {
        result = data;
      } else {
        const { index = 0, text } = data;
        drafts[index] = name === 'token' ? (drafts[index] ?? '') + text : text;
        onDrafts([...drafts].map((draft) => draft ?? ''));
      }
    }
    if (result === undefined) throw new TypeError('the stream ended without a result');
    return result;
  });
}

/**
 * @template T
 * @param {string} address
 * @param {RequestInit} init
 * @param {(response: Response) => Promise<T>} read
 * @returns {Promise<T>}
 */
async function requested(address, init, read) {
  try {
    const response = await fetch(address, withKey(init));
    if (wantsKey(response.status)) askForKey();
    if (!response.ok) throw new RequestFailed(await readProblem(response), retryAfterS(response));
    return await read(response);
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
