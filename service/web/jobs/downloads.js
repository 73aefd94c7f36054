/** The files that a job has made. */

import { hasKey } from '../access.js';
import { create } from '../dom.js';
import { requested } from '../http.js';
import { downloadBlob } from '../save.js';
import { hasEnded, jobAddress } from './jobs.js';

/** @typedef {import('./jobs.js').Job} Job */
/** @typedef {{label: string, address: string, fileName: string}} File */

/** @type {Record<string, {label: string, fileName: string}>} */
const OUTPUTS = {
  csv: { label: 'CSV table', fileName: 'captions.csv' },
  txt: { label: 'Text files', fileName: 'captions-txt.tar' },
  caption: { label: 'Caption files', fileName: 'captions-caption.tar' },
  xmp: { label: 'XMP sidecars', fileName: 'captions-xmp.tar' },
  metadata: { label: 'metadata.jsonl', fileName: 'metadata.jsonl' },
  webdataset: { label: 'WebDataset', fileName: 'webdataset.tar' },
};

/**
 * Links to everything that a job has to offer by now.
 *
 * @param {Job} job
 * @param {(error: unknown) => void} onFailure
 */
export function downloadLinks(job, onFailure) {
  return filesOf(job).map((file) => create('li', {}, link(file, onFailure)));
}

/**
 * @param {Job} job
 * @returns {File[]}
 */
function filesOf(job) {
  const { id, kind, counts, outputs = [] } = job;
  const results = jobAddress(id, '/results');
  const made = hasEnded(job) ? outputs : [];
  const hasCaptions = kind === 'captions' && counts.done > 0;
  return [
    ...(hasCaptions ? [{ label: 'JSON lines', address: results, fileName: `${id}-captions.jsonl` }] : []),
    ...made.map((kind) => ({
      label: OUTPUTS[kind]?.label ?? kind,
      address: `${results}?output=${encodeURIComponent(kind)}`,
      fileName: `${id}-${OUTPUTS[kind]?.fileName ?? kind}`,
    })),
    ...(counts.failed > 0
      ? [{ label: 'Errors', address: jobAddress(id, '/errors'), fileName: `${id}-errors.jsonl` }]
      : []),
  ];
}

/**
 * @param {File} file
 * @param {(error: unknown) => void} onFailure
 */
function link({ label, address, fileName }, onFailure) {
  const element = create('a', { href: address, download: fileName, textContent: label });
  element.addEventListener('click', async (event) => {
    if (!hasKey()) return; // the browser fetches it; only a key needs a request of our own
    event.preventDefault();
    try {
      downloadBlob(fileName, await requested(address, {}, (response) => response.blob()));
    } catch (error) {
      onFailure(error);
    }
  });
  return element;
}
