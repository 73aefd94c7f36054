/** The first lines of a file of JSON lines, however long it is. */

import { requested } from '../http.js';

/**
 * Reads no further than it has to.
 *
 * @param {string} address
 * @param {number} count
 * @returns {Promise<{lines: any[], hasMore: boolean}>}
 * @throws {import('../http.js').RequestFailed}
 */
export function readLines(address, count) {
  return requested(address, {}, async (response) => {
    const reader = /** @type {ReadableStream} */ (response.body)
      .pipeThrough(new TextDecoderStream())
      .getReader();
    const lines = [];
    let text = '';
    try {
      while (lines.length <= count) {
        const { value, done } = await reader.read();
        if (done) break;
        const complete = (text + value).split('\n');
        text = complete.pop() ?? '';
        lines.push(...complete.filter(Boolean));
      }
    } finally {
      await reader.cancel();
    }
    return { lines: lines.slice(0, count).map((line) => JSON.parse(line)), hasMore: lines.length > count };
  });
}
