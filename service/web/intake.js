/** The ways photos come in: dropped anywhere, pasted, picked. */

import { byId } from './dom.js';

/**
 * @typedef {object} Intake
 * @property {File[]} files
 * @property {FileSystemDirectoryEntry[]} folders folders among what was dropped
 */

/**
 * Calls `take` with whatever comes in by dropping and pasting.
 *
 * @param {(intake: Intake) => void} take
 */
export function openIntake(take) {
  acceptDrops(take);
  acceptPastes(take);
}

/**
 * Makes buttons open a file picker.
 *
 * @param {string} pickerId
 * @param {string[]} buttonIds
 * @param {(intake: Intake) => void} take
 */
export function openPicker(pickerId, buttonIds, take) {
  const picker = /** @type {HTMLInputElement} */ (byId(pickerId));
  for (const id of buttonIds) byId(id).addEventListener('click', () => picker.click());
  picker.addEventListener('change', () => {
    const files = [...(picker.files ?? [])];
    picker.value = ''; // so that picking the same file again is a change
    if (files.length > 0) take({ files, folders: [] });
  });
}

/** @param {(intake: Intake) => void} take */
function acceptDrops(take) {
  let depth = 0; // dragenter and dragleave also fire between the elements of the page
  const setDepth = (/** @type {number} */ value) => {
    depth = Math.max(value, 0);
    document.documentElement.classList.toggle('is-dragging', depth > 0);
  };
  addEventListener('dragenter', (event) => hasFiles(event) && setDepth(depth + 1));
  addEventListener('dragleave', (event) => hasFiles(event) && setDepth(depth - 1));
  addEventListener('dragover', (event) => hasFiles(event) && event.preventDefault());
  addEventListener('drop', (event) => {
    if (!hasFiles(event) || !event.dataTransfer) return;
    event.preventDefault();
    setDepth(0);
    take(sort(event.dataTransfer));
  });
}

/** @param {(intake: Intake) => void} take */
function acceptPastes(take) {
  addEventListener('paste', (event) => {
    if (!event.clipboardData?.files.length) return;
    event.preventDefault();
    take(sort(event.clipboardData));
  });
}

/** @param {DragEvent} event */
function hasFiles(event) {
  return event.dataTransfer?.types.includes('Files') ?? false;
}

/**
 * @param {DataTransfer} transfer
 * @returns {Intake}
 */
function sort(transfer) {
  /** @type {Intake} */
  const intake = { files: [], folders: [] };
  for (const item of transfer.items) {
    const file = item.kind === 'file' ? item.getAsFile() : null;
    if (!file) continue;
    const entry = item.webkitGetAsEntry();
    if (entry?.isDirectory) intake.folders.push(/** @type {FileSystemDirectoryEntry} */ (entry));
    else intake.files.push(file);
  }
  return intake;
}
