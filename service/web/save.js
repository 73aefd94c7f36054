/** Files that the page gives to the browser to keep. */

/** The browser reads the address after the click has returned. */
const KEPT_MS = 10_000;

/**
 * Offers `blob` as a download.
 *
 * @param {string} fileName
 * @param {Blob} blob
 */
export function downloadBlob(fileName, blob) {
  const link = document.createElement('a');
  link.href = URL.createObjectURL(blob);
  link.download = fileName;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), KEPT_MS);
}
