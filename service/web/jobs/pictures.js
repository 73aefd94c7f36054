/** Photos of a job: those that this window has sent itself, else the service's thumbnails. */

import { RequestFailed, requested } from '../http.js';
import { offers } from '../offered.js';

/** @typedef {import('./jobs.js').Job} Job */

const THUMBNAILS = '/v1/datasets/{dataset}/thumbnails/{item}';

/** @type {Map<string, Map<string, Blob>>} photos by the dataset that they were sent as */
const sentPhotos = new Map();

/**
 * Keeps hold of files that were sent, not of their bytes.
 *
 * @param {string} dataset
 * @param {import('./tar.js').NamedFile[]} files
 */
export function rememberPhotos(dataset, files) {
  sentPhotos.set(dataset, new Map(files.map(({ name, file }) => [name, file])));
}

/**
 * Shows the photo when its place comes into sight; the place stays empty where there is none to be had.
 *
 * @param {HTMLImageElement} image
 * @param {{job: Job, item: number, fileName: string}} photo
 */
export function showPicture(image, photo) {
  const place = /** @type {Element} */ (image.parentElement);
  const watcher = new IntersectionObserver(
    async (entries) => {
      if (!entries.some(({ isIntersecting }) => isIntersecting)) return;
      watcher.disconnect();
      const picture = await pictureOf(photo);
      if (picture === null) return;
      const address = URL.createObjectURL(picture);
      image.addEventListener('load', () => URL.revokeObjectURL(address), { once: true });
      image.src = address;
      image.hidden = false;
    },
    { rootMargin: '300px' },
  );
  watcher.observe(place);
}

/**
 * @param {{job: Job, item: number, fileName: string}} photo
 * @returns {Promise<Blob | null>}
 */
async function pictureOf({ job, item, fileName }) {
  const sent = sentPhotos.get(job.dataset)?.get(fileName);
  if (sent) return sent;
  if (!(await offers('GET', THUMBNAILS))) return null;
  const address = THUMBNAILS.slice(1).replace('{dataset}', job.dataset).replace('{item}', String(item));
  try {
    return await requested(address, {}, (response) => response.blob());
  } catch (error) {
    if (!(error instanceof RequestFailed)) throw error;
    return null;
  }
}
