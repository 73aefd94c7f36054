/** The list of photos: each a plate with its captions, bars and errors. */

import { announce } from '../announce.js';
import { copyText } from '../clipboard.js';
import { asSentence, create, fromTemplate, part, showText } from '../dom.js';

/**
 * @typedef {import('./photo.js').Photo} Photo
 * @typedef {import('./captions.js').Caption} Caption
 *
 * @typedef {object} PlateActions
 * @property {(photo: Photo) => void} remove
 * @property {(photo: Photo) => void} retry
 */

const MAX_CLIP_SCORE = 2.5;
const COPIED_SHOWN_MS = 2000;
/** Too large, not an image, a broken one: asking again would bring the same answer. */
const FAULTS_OF_THE_PHOTO = [413, 415];
const BROKEN = 'urn:semicap:problem:broken-image';

/**
 * A plate for a photo; call showPhoto when the photo has changed.
 *
 * @param {Photo} photo
 * @param {PlateActions} actions
 */
export function createPlate(photo, actions) {
  const plate = fromTemplate('plate-template');
  const image = part(plate, 'img', HTMLImageElement);
  image.addEventListener('error', () => showNoPreview(plate));
  image.src = photo.url;
  part(plate, '.file-name').textContent = photo.file.name;
  const remove = part(plate, '.remove');
  remove.setAttribute('aria-label', `Remove ${photo.file.name}`);
  remove.addEventListener('click', () => actions.remove(photo));
  part(plate, '.retry').addEventListener('click', () => {
    actions.retry(photo);
    remove.focus(); // the button that had the focus is hidden now
  });
  showPhoto(plate, photo);
  return plate;
}

/**
 * @param {HTMLElement} plate
 * @param {Photo} photo
 */
export function showPhoto(plate, photo) {
  plate.dataset.state = photo.state;
  showText(part(plate, '.state'), stateText(photo));
  showDrafts(plate, photo);
  showProblem(plate, photo);
  showCaptions(plate, photo);
  showList(part(plate, '.warnings'), photo.answer?.warnings ?? []);
  showText(part(plate, '.small-print'), smallPrintText(photo));
}

/**
 * What is being written; a screen reader is only told the captions in the end.
 *
 * @param {HTMLElement} plate
 * @param {Photo} photo
 */
function showDrafts(plate, { drafts }) {
  const texts = drafts.filter(Boolean);
  const list = part(plate, '.drafts');
  list.hidden = texts.length === 0;
  list.replaceChildren(...texts.map((textContent) => create('p', { textContent })));
}

/** @param {Photo} photo */
function stateText(photo) {
  switch (photo.state) {
    case 'waiting':
      return 'Waiting for its turn';
    case 'working':
      return photo.drafts.some(Boolean) ? '' : 'Captioning';
    case 'resting':
      return `The service is busy. Trying again in ${photo.restS} s.`;
    case 'held':
      return 'The service does not answer. This goes on when it does.';
    default:
      return '';
  }
}

/**
 * @param {HTMLElement} plate
 * @param {Photo} photo
 */
function showProblem(plate, { problem }) {
  part(plate, '.problem').hidden = problem === null;
  part(plate, '.problem-title').textContent = problem?.title ?? '';
  part(plate, '.problem-detail').textContent = asSentence(problem?.detail ?? '');
  const isOfThePhoto = problem?.type === BROKEN || FAULTS_OF_THE_PHOTO.includes(problem?.status ?? 0);
  part(plate, '.retry').hidden = isOfThePhoto;
}

/**
 * @param {HTMLElement} plate
 * @param {Photo} photo
 */
function showCaptions(plate, { answer, options }) {
  const captions = answer?.captions ?? [];
  const list = part(plate, '.captions');
  list.hidden = captions.length === 0;
  const isByLikelihood = options.rank_by === 'likelihood';
  list.replaceChildren(
    ...captions.map((caption, index) => {
      const isBest = index === 0;
      const rank = isBest && captions.length > 1 ? bestOf(captions.length, isByLikelihood) : '';
      return captionElement(caption, { isBest, notes: [rank, ...captionNotes(caption, isByLikelihood)] });
    }),
  );
}

/**
 * @param {number} count
 * @param {boolean} isByLikelihood
 */
function bestOf(count, isByLikelihood) {
  return `Best of ${count} by ${isByLikelihood ? 'likelihood' : 'CLIP score'}`;
}

/**
 * @param {Caption} caption
 * @param {boolean} isByLikelihood
 */
function captionNotes(caption, isByLikelihood) {
  return [
    isByLikelihood ? `log-likelihood ${caption.log_likelihood.toFixed(1)}` : '',
    caption.finish_reason === 'length' ? `cut off after ${caption.num_tokens} tokens` : '',
  ];
}

/**
 * @param {Caption} caption
 * @param {{isBest: boolean, notes: string[]}} place
 */
function captionElement(caption, { isBest, notes }) {
  const element = fromTemplate('caption-template');
  element.classList.toggle('is-best', isBest);
  part(element, '.caption-text').textContent = caption.text;
  part(element, '.caption-rank').textContent = notes.filter(Boolean).join(' · ');
  part(element, '.score-number').textContent = caption.clip_score.toFixed(2);
  part(element, '.bar-fill').style.setProperty('--share', String(caption.clip_score / MAX_CLIP_SCORE));
  const copy = part(element, '.copy');
  copy.setAttribute('aria-label', `Copy caption: ${caption.text}`);
  copy.addEventListener('click', () => copyCaption(copy, caption.text));
  return element;
}

/**
 * @param {HTMLElement} button
 * @param {string} text
 */
async function copyCaption(button, text) {
  const isCopied = await copyText(text);
  button.textContent = isCopied ? 'Copied' : 'Not copied';
  button.classList.toggle('is-done', isCopied);
  announce(isCopied ? 'Caption copied.' : 'The browser did not allow copying.');
  setTimeout(() => {
    button.textContent = 'Copy';
    button.classList.remove('is-done');
  }, COPIED_SHOWN_MS);
}

/** @param {Photo} photo */
function smallPrintText({ answer }) {
  if (!answer) return '';
  const { image, model, scorer, timing } = answer;
  const facts = [
    image ? `${image.width} × ${image.height} ${image.format}` : '',
    `${(timing.total_ms / 1000).toFixed(2)} s`,
    `captioned by ${model.name} ${model.version}`,
    `scored by ${scorer.name} ${scorer.revision}`,
  ];
  return facts.filter(Boolean).join(' · ');
}

/**
 * @param {HTMLElement} list
 * @param {string[]} texts
 */
function showList(list, texts) {
  list.hidden = texts.length === 0;
  list.replaceChildren(...texts.map((text) => create('li', { textContent: asSentence(text) })));
}

/** @param {HTMLElement} plate */
function showNoPreview(plate) {
  part(plate, 'img').hidden = true;
  part(plate, '.no-preview').hidden = false;
}
