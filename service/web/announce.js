/** Words for people who do not see the page change. */

import { byId } from './dom.js';

const REPEAT_GAP_MS = 50;

/**
 * Has screen readers say `text`, also when it is what they said last.
 *
 * @param {string} text
 */
export function announce(text) {
  const announcer = byId('announcer');
  announcer.textContent = '';
  setTimeout(() => {
    announcer.textContent = text;
  }, REPEAT_GAP_MS);
}
