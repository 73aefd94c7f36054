/** A strip of thumbnails of the files at hand, the first of many. */

import { create } from '../dom.js';

const MAX_SHOWN = 10;

/**
 * @param {HTMLElement} list
 */
export function openStrip(list) {
  /** @type {string[]} */
  let addresses = [];

  return {
    /** @param {import('./tar.js').NamedFile[]} files */
    show(files) {
      for (const address of addresses) URL.revokeObjectURL(address);
      const shown = files.slice(0, MAX_SHOWN);
      addresses = shown.map(({ file }) => URL.createObjectURL(file));
      const more = files.length - shown.length;
      list.replaceChildren(
        ...addresses.map(thumbnail),
        ...(more > 0 ? [create('li', { className: 'strip-more', textContent: `+ ${more.toLocaleString()}` })] : []),
      );
      list.hidden = shown.length === 0;
    },
  };
}

/** @param {string} src */
function thumbnail(src) {
  const image = create('img', { src, alt: '', decoding: 'async', draggable: false });
  const item = create('li', {}, image);
  image.addEventListener('error', () => item.remove()); // a format that only the service reads
  return item;
}
