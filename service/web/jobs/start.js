/** The form that starts a job: photos, what to do with them, and off they go. */

import { announce } from '../announce.js';
import { byId, create, showText } from '../dom.js';
import { messageOf } from '../http.js';
import { openPicker } from '../intake.js';
import { fetchModels } from '../models/models.js';
import { offers } from '../offered.js';
import { requestOptions } from '../options.js';
import { currentView } from '../views.js';
import { filesOf, isArchive, isFilm, mayBePhoto, withAdded } from './chosen.js';
import { submitJob } from './jobs.js';
import { rememberPhotos } from './pictures.js';
import { openStrip } from './strip.js';
import { uploadDataset } from './upload.js';
import { photosOf } from './words.js';

/** @typedef {import('./tar.js').NamedFile} NamedFile */

const OUTPUTS = [
  { value: 'csv', label: 'CSV table' },
  { value: 'txt', label: 'Text files (.txt)' },
  { value: 'caption', label: 'Text files (.caption)' },
  { value: 'xmp', label: 'XMP sidecars' },
  { value: 'metadata', label: 'metadata.jsonl' },
  { value: 'webdataset', label: 'WebDataset' },
];
const KINDS = {
  captions: 'Writes captions for every photo; the files can be downloaded when it has ended.',
  finetune:
    'Learns from photos without any captions and makes a new version of the model, with a report of what it ' +
    'gained and lost. 50 photos of one kind at least, better some hundred; minutes to hours.',
};

/** @type {NamedFile[]} */
let chosen = [];
/** @type {import('./upload.js').Dataset | null} what was sent, while its job could not be started yet */
let sent = null;
/** What was asked for last, and which one of this page that was. */
let submitted = { wishes: '', number: 0 };
let isBusy = false;
/** @type {AbortController | null} stops what is on its way */
let sending = null;
/** @type {() => import('../options.js').Options} */
let chosenOptions;
const strip = openStrip(byId('job-strip'));

/**
 * Makes the form work.
 *
 * @param {() => import('../options.js').Options} options tells the caption options that are chosen
 */
export function openJobStart(options) {
  chosenOptions = options;
  byId('job-outputs').append(...OUTPUTS.map(tick));
  openPicker('job-picker', ['job-choose'], add);
  openPicker('job-folder-picker', ['job-choose-folder'], add);
  byId('job-forget').addEventListener('click', () => {
    if (sending) {
      sending.abort();
      return;
    }
    setChosen([]);
    byId('job-choose').focus();
  });
  form().addEventListener('change', showKind);
  form().addEventListener('submit', (event) => {
    event.preventDefault();
    start();
  });
  showChosen();
  return { add, enter };
}

async function enter() {
  showKind();
  if (!(await offers('POST', '/v1/jobs/finetunes'))) return;
  byId('job-kinds').hidden = false;
  await showBases();
}

async function showBases() {
  try {
    const models = await fetchModels();
    const bases = models.map(({ id, is_active }) =>
      create('option', { value: id, textContent: is_active ? `${id} (answers now)` : id, selected: is_active }),
    );
    byId('finetune-base').replaceChildren(...bases);
  } catch (error) {
    messageOf(error); // the service then takes the version that answers
  }
}

/** @param {import('../intake.js').Intake} intake */
async function add(intake) {
  if (isBusy) return;
  const files = await filesOf(intake);
  const photos = files.filter(({ file }) => !isFilm(file));
  const numFilms = files.length - photos.length;
  setChosen(withAdded(chosen, photos));
  if (numFilms > 0) say(`${numFilms === 1 ? '1 film was' : `${numFilms} films were`} left out: only photos are captioned.`);
  announce(`${chosenText()}.`);
}

/** @param {NamedFile[]} files */
function setChosen(files) {
  chosen = files;
  sent = null;
  say('');
  showChosen();
}

function showChosen() {
  byId('job-chosen').textContent = chosenText();
  byId('job-source').classList.toggle('is-filled', chosen.length > 0);
  byId('job-forget').hidden = chosen.length === 0;
  strip.show(chosen.filter(({ name }) => !isArchive(name)));
  enableButtons();
}

function chosenText() {
  if (chosen.length === 0) return isTouch() ? 'No photos yet.' : 'Drop photos, a folder or a zip here.';
  const archives = chosen.filter(({ name }) => isArchive(name)).length;
  const photos = chosen.filter(mayBePhoto).length;
  const others = chosen.length - archives - photos;
  const counts = [
    photos > 0 ? photosOf(photos) : '',
    archives === 1 ? '1 archive' : archives > 1 ? `${archives} archives` : '',
    others === 1 ? '1 other file' : others > 1 ? `${others.toLocaleString()} other files` : '',
  ];
  const bytes = chosen.reduce((total, { file }) => total + file.size, 0);
  return `${new Intl.ListFormat('en-GB').format(counts.filter(Boolean))}, ${megabytes(bytes)}`;
}

/** There is nothing to drop with on a touch screen. */
function isTouch() {
  return matchMedia('(hover: none) and (pointer: coarse)').matches;
}

/** @param {number} bytes */
function megabytes(bytes) {
  const mega = Math.max(bytes / 1_000_000, 0.1);
  return `${mega.toLocaleString(undefined, { maximumFractionDigits: mega < 10 ? 1 : 0 })} MB`;
}

function showKind() {
  const kind = chosenKind();
  byId('job-kind-about').textContent = KINDS[kind];
  byId('options').hidden = kind === 'finetune'; // they are those of captions
  for (const element of form().querySelectorAll('[data-kind]')) {
    /** @type {HTMLElement} */ (element).hidden = /** @type {HTMLElement} */ (element).dataset.kind !== kind;
  }
}

/** @returns {'captions' | 'finetune'} */
function chosenKind() {
  return new FormData(form()).get('kind') === 'finetune' ? 'finetune' : 'captions';
}

async function start() {
  if (chosen.length === 0 || isBusy) return;
  setBusy(true);
  try {
    const dataset = sent ?? (await upload());
    sent = dataset;
    rememberPhotos(dataset.id, chosen);
    say('Starting');
    const wanted = asked(dataset.id);
    const job = await submitJob(chosenKind(), wanted, keyOf(dataset.id, wanted));
    announce('Job started.');
    setChosen([]);
    // Whoever has gone to another view meanwhile stays there.
    if (currentView() === 'jobs') location.hash = `jobs/${encodeURIComponent(job.id)}`;
  } catch (error) {
    say(messageOf(error));
  } finally {
    setBusy(false);
  }
}

/**
 * The same one for the same wishes; a dataset is sent anew for each job, so no other page has it.
 *
 * @param {string} dataset
 * @param {Record<string, unknown>} wanted
 */
function keyOf(dataset, wanted) {
  const wishes = JSON.stringify([chosenKind(), wanted]);
  if (wishes !== submitted.wishes) submitted = { wishes, number: submitted.number + 1 };
  return `page-${dataset}-${submitted.number}`;
}

async function upload() {
  const bar = /** @type {HTMLProgressElement} */ (byId('job-upload'));
  bar.value = 0;
  bar.hidden = false;
  say('Sending');
  sending = new AbortController();
  enableButtons();
  try {
    return await uploadDataset(chosen, sending.signal, (share) => {
      bar.value = share;
      if (share === 1) say('Sent; the service is looking at the files');
    });
  } finally {
    bar.hidden = true;
    sending = null;
    enableButtons();
  }
}

/** @param {string} dataset */
function asked(dataset) {
  if (chosenKind() === 'captions') {
    const outputs = [...form().querySelectorAll('input[name="output"]:checked')].map(
      (input) => /** @type {HTMLInputElement} */ (input).value,
    );
    return { dataset, options: requestOptions(chosenOptions()), outputs };
  }
  const base = /** @type {HTMLSelectElement} */ (byId('finetune-base')).value;
  const isActivated = /** @type {HTMLInputElement} */ (byId('finetune-activate')).checked;
  const steps = /** @type {HTMLInputElement} */ (byId('finetune-steps')).valueAsNumber;
  const settings = Number.isNaN(steps) ? {} : { steps };
  return { dataset, ...(base ? { base } : {}), settings, auto_activate: isActivated };
}

/** @param {boolean} busy */
function setBusy(busy) {
  isBusy = busy;
  form().setAttribute('aria-busy', String(busy));
  if (busy) addEventListener('beforeunload', askBeforeLeaving);
  else removeEventListener('beforeunload', askBeforeLeaving);
  enableButtons();
}

/** @param {BeforeUnloadEvent} event */
function askBeforeLeaving(event) {
  event.preventDefault(); // what has been sent so far would be lost
}

function enableButtons() {
  for (const id of ['job-choose', 'job-choose-folder']) {
    /** @type {HTMLButtonElement} */ (byId(id)).disabled = isBusy;
  }
  const forget = /** @type {HTMLButtonElement} */ (byId('job-forget'));
  forget.textContent = sending ? 'Stop sending' : 'Clear';
  forget.disabled = isBusy && sending === null;
  const submit = /** @type {HTMLButtonElement} */ (byId('job-submit'));
  submit.disabled = chosen.length === 0;
  submit.ariaDisabled = isBusy ? 'true' : null; // it keeps the focus
}

/** @param {string} text */
function say(text) {
  showText(byId('job-start-state'), text);
}

/** @param {{value: string, label: string}} output */
function tick({ value, label }) {
  const box = create('input', { type: 'checkbox', name: 'output', value });
  return create('label', { className: 'tick' }, box, create('span', { textContent: label }));
}

function form() {
  return /** @type {HTMLFormElement} */ (byId('job-start'));
}
