/** Photos come in, captions appear. */

import { wantsKey } from '../access.js';
import { announce } from '../announce.js';
import { byId, part, showText } from '../dom.js';
import { openPicker } from '../intake.js';
import { requestOptions } from '../options.js';
import { downloadBlob } from '../save.js';
import { watchReadiness } from '../service_state.js';
import { toJsonLines, toText } from './export.js';
import { captionPhoto, createPhoto, discardPhoto, resetPhoto } from './photo.js';
import { createPlate, showPhoto } from './plates.js';
import { announceWhenSettled, numberOfPhotos, showProgress } from './progress.js';
import { createQueue } from './queue.js';

/** @typedef {import('./photo.js').Photo} Photo */

/** Enough to fill a batch of the engine's while the next photos are on their way. */
const REQUESTS_AT_ONCE = 4;
const MAX_PHOTOS = 500;
/** Between the service's return and the next attempt. */
const REST_AFTER_AWAY_S = 1;

/** @type {Map<Photo, HTMLElement>} the photos in the order they came, each with its plate */
const plates = new Map();
const queue = createQueue(REQUESTS_AT_ONCE, caption);
/** @type {() => import('../options.js').Options} */
let chosenOptions;
/** @type {HTMLElement | null} the plate of a failed photo that was shown last */
let lastFailed = null;

/**
 * Makes the view work.
 *
 * @param {() => import('../options.js').Options} options tells those that are chosen
 */
export function openPhotos(options) {
  chosenOptions = options;
  openPicker('picker', ['choose', 'add'], addPhotos);
  onClick('again', () => captionAgain([...plates.keys()]));
  for (const change of ['input', 'reset']) byId('options-form').addEventListener(change, showWhetherDue);
  onClick('clear', clear);
  byId('progress-text').addEventListener('click', ({ target }) => {
    if (target instanceof HTMLButtonElement) showNextFailed();
  });
  onClick('save-text', () => save('semicap-captions.txt', toText, 'text/plain'));
  onClick('save-json-lines', () => save('semicap-captions.jsonl', toJsonLines, 'application/jsonl'));
  return { add: addPhotos, tryWithKey };
}

/** @param {import('../intake.js').Intake} intake */
function addPhotos({ files, folders }) {
  const taken = files.slice(0, MAX_PHOTOS - plates.size);
  const options = requestOptions(chosenOptions());
  const added = taken.map((file) => createPhoto(file, options));
  for (const photo of added) {
    const plate = createPlate(photo, { remove, retry: (failed) => captionAgain([failed]) });
    plates.set(photo, plate);
    byId('plates').append(plate);
  }
  showIntakeNotice(
    folders.map(({ name }) => name),
    files.length - taken.length,
  );
  if (added.length === 0) return;
  announce(`${numberOfPhotos(added.length)} added.`);
  showProgress([...plates.keys()]);
  plates.get(added[0])?.scrollIntoView({ block: 'nearest' });
  queue.add(added);
}

/**
 * @param {string[]} folders
 * @param {number} numLeftOut
 */
function showIntakeNotice(folders, numLeftOut) {
  const notice = byId('notice');
  const sentences = folders.map(
    (name) => `${name} is a folder: drop the photos in it instead, or make it a job.`,
  );
  if (numLeftOut > 0) {
    sentences.push(`This view holds ${MAX_PHOTOS} photos, so ${numLeftOut} were left out; make them a job.`);
  }
  showText(notice, sentences.join(' '));
}

/**
 * @param {Photo} photo
 * @returns {Promise<number>}
 */
async function caption(photo) {
  const { signal } = photo.giveUp;
  const restS = await captionPhoto(photo, () => show(photo));
  if (plates.has(photo) && restS === 0) announceWhenSettled([...plates.keys()]);
  if (photo.state === 'failed') watchReadiness();
  if (signal.aborted || photo.state !== 'held') return restS;
  await watchReadiness(); // its place in the queue stays taken, so that the photos behind it wait as well
  return signal.aborted ? 0 : REST_AFTER_AWAY_S;
}

/** @param {Photo} photo */
function show(photo) {
  const plate = plates.get(photo);
  if (plate) showPhoto(plate, photo);
  showProgress([...plates.keys()]);
  showWhetherDue();
}

/** Marks the button that asks again while captions are shown that other options would change. */
function showWhetherDue() {
  const chosen = JSON.stringify(requestOptions(chosenOptions()));
  const isDue = [...plates.keys()].some(({ answer, options }) => answer && JSON.stringify(options) !== chosen);
  byId('again').classList.toggle('is-due', isDue);
}

/** @param {Photo[]} photos */
function captionAgain(photos) {
  const options = requestOptions(chosenOptions());
  for (const photo of photos) {
    queue.remove(photo);
    resetPhoto(photo, options);
    show(photo);
  }
  announce(`Captioning ${numberOfPhotos(photos.length)} again.`);
  queue.add(photos);
}

/** Asks again for what the service refused to answer without a key. */
function tryWithKey() {
  watchReadiness();
  const refused = [...plates.keys()].filter(({ problem }) => wantsKey(problem?.status));
  if (refused.length > 0) captionAgain(refused);
  byId(plates.size > 0 ? 'add' : 'choose').focus();
}

/** @param {Photo} photo */
function remove(photo) {
  const plate = plates.get(photo);
  const neighbour = plate?.nextElementSibling ?? plate?.previousElementSibling;
  takeOut(photo);
  announce(`${photo.file.name} removed.`);
  const next = neighbour?.querySelector('.remove') ?? byId('choose');
  /** @type {HTMLElement} */ (next).focus();
}

function clear() {
  for (const photo of [...plates.keys()]) takeOut(photo);
  byId('notice').hidden = true;
  announce('All photos removed.');
  byId('choose').focus();
}

/** From one failed photo to the next, and from the last to the first. */
function showNextFailed() {
  const failed = [...plates].filter(([{ state }]) => state === 'failed').map(([, plate]) => plate);
  const next = failed[(failed.findIndex((plate) => plate === lastFailed) + 1) % failed.length];
  lastFailed = next;
  next.scrollIntoView({ block: 'center' });
  part(next, '.remove').focus({ preventScroll: true });
}

/** @param {Photo} photo */
function takeOut(photo) {
  queue.remove(photo);
  discardPhoto(photo);
  plates.get(photo)?.remove();
  plates.delete(photo);
  showProgress([...plates.keys()]);
  showWhetherDue();
}

/**
 * @param {string} fileName
 * @param {(photos: Photo[]) => string} write
 * @param {string} mediaType
 */
function save(fileName, write, mediaType) {
  downloadBlob(fileName, new Blob([write([...plates.keys()])], { type: mediaType }));
  announce(`${fileName} saved.`);
}

/**
 * @param {string} id
 * @param {() => void} act
 */
function onClick(id, act) {
  byId(id).addEventListener('click', act);
}
