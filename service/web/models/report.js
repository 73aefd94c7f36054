/** The way to a version's report: a page with photos, before and after. */

import { create } from '../dom.js';

/** @param {string} id of the version */
export function reportLink(id) {
  const address = `v1/models/${encodeURIComponent(id)}/report.html`;
  return create('a', { href: address, target: '_blank', rel: 'noopener', textContent: 'Report' });
}
