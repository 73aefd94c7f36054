/** Server-sent events read through fetch: the browser's EventSource can neither POST nor send a key. */

/**
 * @typedef {{name: string, id: string, data: any}} ServerEvent
 */

/**
 * The events of an answer, as they come.
 *
 * @param {Response} response
 * @returns {AsyncGenerator<ServerEvent>}
 */
export async function* readEvents(response) {
  const reader = /** @type {ReadableStream} */ (response.body)
    .pipeThrough(new TextDecoderStream())
    .getReader();
  let text = '';
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const blocks = (text + value).split('\n\n');
      text = blocks.pop() ?? '';
      for (const block of blocks) {
        const event = readEvent(block);
        if (event) yield event;
      }
    }
  } finally {
    await reader.cancel(); // whoever stops reading lets go of the connection
  }
}

/**
 * @param {string} block the lines of one event, or a comment that keeps the connection open
 * @returns {ServerEvent | null}
 */
function readEvent(block) {
  const fields = block.split('\n').map((line) => line.split(/: (.*)/s, 2));
  const { event = 'message', id = '', data } = Object.fromEntries(fields);
  return data === undefined ? null : { name: event, id, data: JSON.parse(data) };
}
