/** The ways photos come in: dropped anywhere, pasted, picked. */

/**
 * @typedef {object} Intake
 * @property {File[]} files
 * @property {string[]} folders names of folders among what was dropped; a page cannot send those
 */

/**
 * Calls `take` with whatever comes in.
 *
 * @param {(intake: Intake) => void} take
 */
export function openIntake(take) {
  acceptDrops(take);
  acceptPastes(take);
  acceptPicks(take);
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

/** @param {(intake: Intake) => void} take */
function acceptPicks(take) {
  const picker = /** @type {HTMLInputElement} */ (document.getElementById('picker'));
  for (const id of ['choose', 'add']) {
    document.getElementById(id)?.addEventListener('click', () => picker.click());
  }
  picker.addEventListener('change', () => {
    const files = [...(picker.files ?? [])];
    picker.value = ''; // so that picking the same file again is a change
    if (files.length > 0) take({ files, folders: [] });
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
    if (item.webkitGetAsEntry()?.isDirectory) intake.folders.push(file.name);
    else intake.files.push(file);
  }
  return intake;
}
