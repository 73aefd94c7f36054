/** Photos and archives on their way to the service. */

import { askForKey, keyHeaders, wantsKey } from '../access.js';
import { RequestFailed, problemOf, unexpected } from '../http.js';
import { isArchive } from './chosen.js';
import { tarOf } from './tar.js';

/**
 * @typedef {{file_name: string, problem: {detail: string}}} LeftOut a file that is not in the dataset
 *
 * @typedef {object} Dataset
 * @property {string} id
 * @property {number} items
 * @property {LeftOut[]} rejected the first 1,000 of them
 */

const CREATED = 201;
const STOPPED = { title: 'Stopped', detail: 'No job was started; the photos are still chosen.' };

/**
 * Sends files as one dataset. fetch does not tell how much has been sent, an XMLHttpRequest does.
 *
 * @param {import('./tar.js').NamedFile[]} files
 * @param {AbortSignal} signal stops it
 * @param {(share: number) => void} onProgress is told the share sent, 0 to 1
 * @returns {Promise<Dataset>}
 * @throws {RequestFailed}
 */
export function uploadDataset(files, signal, onProgress) {
  const request = new XMLHttpRequest();
  request.open('POST', 'v1/datasets');
  for (const [name, value] of Object.entries(keyHeaders())) request.setRequestHeader(name, value);
  request.upload.addEventListener('progress', ({ loaded, total }) => onProgress(loaded / total));
  signal.addEventListener('abort', () => request.abort());
  return new Promise((resolve, reject) => {
    request.addEventListener('abort', () => reject(new RequestFailed(STOPPED)));
    request.addEventListener('error', (error) => reject(new RequestFailed(unexpected(error))));
    request.addEventListener('load', () => {
      if (wantsKey(request.status)) askForKey();
      if (request.status === CREATED) resolve(JSON.parse(request.responseText));
      else reject(new RequestFailed(problemOfAnswer(request)));
    });
    request.send(formOf(files));
  });
}

/** @param {import('./tar.js').NamedFile[]} files */
function formOf(files) {
  const photos = files.filter(({ name }) => !isArchive(name));
  const form = new FormData();
  if (photos.length > 0) form.append('file', tarOf(photos), 'photos.tar');
  for (const { name, file } of files) if (isArchive(name)) form.append('file', file, name);
  return form;
}

/** @param {XMLHttpRequest} request */
function problemOfAnswer(request) {
  const contentType = request.getResponseHeader('content-type');
  return problemOf(request.status, request.statusText, contentType, request.responseText);
}
