/** Server-sent events of an answer to a POST, which the browser's EventSource cannot ask for. */

/**
 * @typedef {{name: string, data: any}} ServerEvent
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
      for (const block of blocks) yield readEvent(block);
    }
  } finally {
    await reader.cancel(); // whoever stops reading lets go of the connection
  }
}

/**
 * @param {string} block the lines of one event
 * @returns {ServerEvent}
 */
function readEvent(block) {
  const fields = block.split('\n').map((line) => line.split(/: (.*)/s, 2));
  const { event, data } = Object.fromEntries(fields);
  return { name: event, data: JSON.parse(data) };
}
