/** Requests to the service. Addresses are relative, so the page also works below a proxy's path. */

import { askForKey, currentKey, wantsKey, withKey } from './access.js';
import { asSentence } from './dom.js';

/**
 * @typedef {object} Problem an RFC 9457 problem document
 * @property {string} title
 * @property {string} detail
 * @property {string} [type]
 * @property {number} [status] HTTP status; none where there was no answer at all
 */

const ANSWER_LIMIT_MS = 10_000;
const DEFAULT_RETRY_AFTER_S = 2;
const MAX_RETRY_AFTER_S = 60;
const TOO_MANY_REQUESTS = 429;
const NOT_AUTHENTICATED = 401;
/** No answer at all, that of a proxy whose service is gone, or that of a service that ends or begins. */
const AWAY = [undefined, 502, 503];
/** The service's own words on 401 are for programs. */
const ENTER_KEY = 'Enter one in the field at the top of this page.';

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
 * What went wrong, in a sentence or two; other errors are the page's own and go on.
 *
 * @param {unknown} error
 */
export function messageOf(error) {
  if (!(error instanceof RequestFailed)) throw error;
  const { title, detail } = error.problem;
  return [title, detail].filter(Boolean).map(asSentence).join(' ');
}

/**
 * Whether a request failed because the service is away for a while.
 *
 * @param {unknown} error
 */
export function isAway(error) {
  return error instanceof RequestFailed && AWAY.includes(error.problem.status);
}

/**
 * What a request brings, or null when it fails: for what is asked for again with the next news.
 *
 * @template T
 * @param {Promise<T>} reading
 * @returns {Promise<T | null>}
 */
export async function orNothing(reading) {
  try {
    return await reading;
  } catch (error) {
    if (!(error instanceof RequestFailed)) throw error;
    return null;
  }
}

/**
 * An answer of JSON, within seconds.
 *
 * @param {string} address
 * @param {RequestInit} init
 * @returns {Promise<any>}
 * @throws {RequestFailed}
 */
export function requestJson(address, init = {}) {
  const limit = { signal: AbortSignal.timeout(ANSWER_LIMIT_MS) };
  return requested(address, { ...limit, ...init }, (response) => response.json());
}

/**
 * Sends JSON; the answer is JSON.
 *
 * @param {string} method
 * @param {string} address
 * @param {unknown} [body]
 * @param {{limitMs?: number, headers?: Record<string, string>}} [how]
 * @returns {Promise<any>}
 * @throws {RequestFailed}
 */
export function sendJson(method, address, body, { limitMs = ANSWER_LIMIT_MS, headers = {} } = {}) {
  const signal = AbortSignal.timeout(limitMs);
  if (body === undefined) return requestJson(address, { method, signal, headers });
  const typed = { ...headers, 'Content-Type': 'application/json' };
  return requestJson(address, { method, signal, headers: typed, body: JSON.stringify(body) });
}

/**
 * @template T
 * @param {string} address
 * @param {RequestInit} init
 * @param {(response: Response) => Promise<T>} read
 * @returns {Promise<T>}
 * @throws {RequestFailed}
 */
export async function requested(address, init, read) {
  try {
    const key = currentKey();
    const response = await fetch(address, withKey(init));
    if (wantsKey(response.status) && key === currentKey()) askForKey();
    if (!response.ok) throw new RequestFailed(await readProblem(response), retryAfterS(response));
    return await read(response);
  } catch (error) {
    throw error instanceof RequestFailed ? error : new RequestFailed(unexpected(error));
  }
}

/**
 * @param {number} status
 * @param {string} statusText
 * @param {string | null | undefined} contentType
 * @param {string} body
 * @returns {Problem}
 */
export function problemOf(status, statusText, contentType, body) {
  const fallback = { status, title: `The service answered with ${status}`, detail: statusText };
  const isProblem = contentType?.startsWith('application/problem+json');
  const problem = isProblem ? { ...fallback, ...JSON.parse(body) } : fallback;
  return status === NOT_AUTHENTICATED ? { ...problem, detail: ENTER_KEY } : problem;
}

/**
 * @param {unknown} error what fetch threw
 * @returns {Problem}
 */
export function unexpected(error) {
  if (error instanceof DOMException && error.name === 'TimeoutError') {
    return { title: 'The service took too long', detail: 'No answer came in time.' };
  }
  return {
    title: 'The service did not answer',
    detail: 'Check that it is running and that you are connected.',
  };
}

/** @param {Response} response */
async function readProblem(response) {
  const { status, statusText, headers } = response;
  return problemOf(status, statusText, headers.get('content-type'), await response.text());
}

/** @param {Response} response */
function retryAfterS(response) {
  if (response.status !== TOO_MANY_REQUESTS) return null;
  const asked = Number.parseInt(response.headers.get('retry-after') ?? '', 10);
  return Number.isNaN(asked) ? DEFAULT_RETRY_AFTER_S : Math.min(Math.max(asked, 1), MAX_RETRY_AFTER_S);
}
