/** What the page asks of captions, and whether the service is ready. */

import { readEvents } from '../events.js';
import { RequestFailed, requestJson, requested, unexpected } from '../http.js';

/**
 * @typedef {object} Caption
 * @property {string} text
 * @property {number} clip_similarity cosine, -1..1
 * @property {number} clip_score 0..2.5
 * @property {number} log_likelihood
 * @property {number} num_tokens
 * @property {'stop' | 'length'} finish_reason
 *
 * @typedef {object} Answer what the service said of one photo
 * @property {Caption[]} captions best first
 * @property {{width: number, height: number, format: string, sha256: string} | null} image
 * @property {string[]} warnings
 * @property {{name: string, version: string}} model
 * @property {{name: string, revision: string}} scorer
 * @property {{total_ms: number}} timing
 */

const ANSWER_LIMIT_MS = 180_000;

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
 * @returns {Promise<import('../http.js').Problem | null>}
 */
export async function findReadinessProblem() {
  try {
    await requestJson('health/ready', { cache: 'no-store' });
    return null;
  } catch (error) {
    return error instanceof RequestFailed ? error.problem : unexpected(error);
  }
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
