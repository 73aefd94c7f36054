/** The way to a version's report: a page with photos, before and after. */

import { hasKey } from '../access.js';
import { announce } from '../announce.js';
import { create } from '../dom.js';
import { messageOf, requested } from '../http.js';
import { downloadBlob } from '../save.js';

/** @param {string} id of the version */
export function reportLink(id) {
  const href = `v1/models/${encodeURIComponent(id)}/report.html`;
  const link = create('a', { href, target: '_blank', rel: 'noopener', textContent: 'Report' });
  link.addEventListener('click', async (event) => {
    if (!hasKey()) return;
    event.preventDefault(); // a new window would ask without the key
    try {
      downloadBlob(`${id}-report.html`, await requested(href, {}, (response) => response.blob()));
    } catch (error) {
      announce(messageOf(error));
    }
  });
  return link;
}
