/** Many files as one tar archive, without reading any of them: the browser takes their bytes as it sends them. */

/**
 * @typedef {{name: string, file: Blob}} NamedFile
 */

const BLOCK = 512;
const MAX_NAME_BYTES = 100;
const REGULAR = '0';
const LONG_NAME = 'L';

/**
 * @param {NamedFile[]} files
 * @returns {Blob}
 */
export function tarOf(files) {
  const parts = files.flatMap(({ name, file }) => [...header(name, file.size), file, padding(file.size)]);
  return new Blob([...parts, new Uint8Array(2 * BLOCK)], { type: 'application/x-tar' });
}

/**
 * @param {string} name
 * @param {number} size
 * @returns {BlobPart[]}
 */
function header(name, size) {
  const bytes = new TextEncoder().encode(name);
  if (bytes.length <= MAX_NAME_BYTES) return [block(bytes, size, REGULAR)];
  const marker = new TextEncoder().encode('././@LongLink'); // GNU's way, which every reader knows
  return [
    block(marker, bytes.length, LONG_NAME),
    bytes,
    padding(bytes.length),
    block(bytes.slice(0, MAX_NAME_BYTES), size, REGULAR),
  ];
}

/**
 * One header block; the checksum is taken with spaces in its place.
 *
 * @param {Uint8Array} name
 * @param {number} size
 * @param {string} type
 */
function block(name, size, type) {
  const bytes = new Uint8Array(BLOCK);
  const write = (/** @type {number} */ offset, /** @type {string} */ text) =>
    bytes.set(new TextEncoder().encode(text), offset);
  bytes.set(name, 0);
  write(100, '0000644\0');
  write(108, '0000000\0');
  write(116, '0000000\0');
  write(124, `${octal(size, 11)}\0`);
  write(136, `${octal(0, 11)}\0`);
  write(148, ' '.repeat(8));
  write(156, type);
  write(257, 'ustar\x0000');
  const sum = bytes.reduce((total, byte) => total + byte, 0);
  write(148, `${octal(sum, 6)}\0 `);
  return bytes;
}

/**
 * @param {number} value
 * @param {number} digits
 */
function octal(value, digits) {
  return value.toString(8).padStart(digits, '0');
}

/** @param {number} size */
function padding(size) {
  return new Uint8Array((BLOCK - (size % BLOCK)) % BLOCK);
}
