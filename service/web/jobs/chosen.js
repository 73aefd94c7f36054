/** Which files a new job is to work on, before they are sent. */

/**
 * @typedef {import('./tar.js').NamedFile} NamedFile
 */

const ARCHIVE = /\.(zip|tar|tgz|tar\.gz)$/i;
/** What a folder has besides photos; the service would only list it as left out. */
const HIDDEN = /(^|\/)(\.|__MACOSX\/|Thumbs\.db$|desktop\.ini$)/;

/** @param {string} name */
export function isHidden(name) {
  return HIDDEN.test(name);
}

/** @param {string} name */
export function isArchive(name) {
  return ARCHIVE.test(name);
}

/**
 * Whether a file may be a photo; browsers know no type for some formats.
 *
 * @param {NamedFile} named
 */
export function mayBePhoto({ name, file: { type } }) {
  return !isArchive(name) && (type === '' || type.startsWith('image/'));
}

/**
 * Whether a file is one of those that a phone or a camera puts beside its photos, and that are large.
 *
 * @param {File | Blob} file
 */
export function isFilm({ type }) {
  return /^(video|audio)\//.test(type);
}

/**
 * The files of what came in, folders with all that is below them.
 *
 * @param {import('../intake.js').Intake} intake
 * @returns {Promise<NamedFile[]>}
 */
export async function filesOf({ files, folders }) {
  const named = files.map((file) => ({ name: file.webkitRelativePath || file.name, file }));
  const inFolders = await Promise.all(folders.map(filesBelow));
  return [...named, ...inFolders.flat()].filter(({ name }) => !isHidden(name));
}

/**
 * Both lists as one, each name once: a second “cat.jpg” becomes “cat (2).jpg”.
 *
 * @param {NamedFile[]} chosen
 * @param {NamedFile[]} added
 * @returns {NamedFile[]}
 */
export function withAdded(chosen, added) {
  const names = new Set(chosen.map(({ name }) => name));
  const renamed = added.map(({ name, file }) => {
    const free = freeName(name, names);
    names.add(free);
    return { name: free, file };
  });
  return [...chosen, ...renamed];
}

/**
 * @param {string} name
 * @param {Set<string>} taken
 */
function freeName(name, taken) {
  const dot = name.lastIndexOf('.');
  const [stem, suffix] = dot > 0 ? [name.slice(0, dot), name.slice(dot)] : [name, ''];
  let free = name;
  for (let count = 2; taken.has(free); count += 1) free = `${stem} (${count})${suffix}`;
  return free;
}

/**
 * @param {FileSystemDirectoryEntry} folder
 * @returns {Promise<NamedFile[]>}
 */
async function filesBelow(folder) {
  const reader = folder.createReader();
  const found = [];
  for (;;) {
    /** @type {FileSystemEntry[]} */
    const entries = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (entries.length === 0) return found;
    for (const entry of entries) found.push(...(await filesOfEntry(entry)));
  }
}

/**
 * @param {FileSystemEntry} entry
 * @returns {Promise<NamedFile[]>}
 */
async function filesOfEntry(entry) {
  if (entry.isDirectory) return filesBelow(/** @type {FileSystemDirectoryEntry} */ (entry));
  const file = await new Promise((resolve, reject) =>
    /** @type {FileSystemFileEntry} */ (entry).file(resolve, reject),
  );
  return [{ name: entry.fullPath.slice(1), file }];
}
