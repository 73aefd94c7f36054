/** Words for people who do not see the page change. */

const REPEAT_GAP_MS = 50;

/**
 * Has screen readers say `text`, also when it is what they said last.
 *
 * @param {string} text
 */
export function announce(text) {
  const announcer = /** @type {HTMLElement} */ (document.getElementById('announcer'));
  announcer.textContent = '';
  setTimeout(() => {
    announcer.textContent = text;
  }, REPEAT_GAP_MS);
}
