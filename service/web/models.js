/** The models that the service has, in a dialog. */

import { RequestFailed, fetchCard, fetchModels } from './api.js';

/** @typedef {import('./api.js').Model} Model */

/** Makes the buttons that open and close the dialog work. */
export function openModels() {
  const dialog = /** @type {HTMLDialogElement} */ (byId('models'));
  byId('show-models').addEventListener('click', () => {
    dialog.showModal();
    showModels();
  });
  byId('close-models').addEventListener('click', () => dialog.close());
}

async function showModels() {
  const problem = byId('models-problem');
  problem.hidden = true;
  try {
    const models = await fetchModels();
    byId('models-list').replaceChildren(...models.map(modelElement));
  } catch (error) {
    problem.textContent = messageOf(error);
    problem.hidden = false;
  }
}

/** @param {Model} model */
function modelElement(model) {
  const template = /** @type {HTMLTemplateElement} */ (byId('model-template'));
  const element = /** @type {HTMLElement} */ (template.content.firstElementChild?.cloneNode(true));
  part(element, '.model-name').textContent = `${model.name} ${model.version}`;
  part(element, '.model-active').hidden = !model.is_active;
  part(element, '.facts').replaceChildren(...factsOf(model).flatMap(factElements));
  const card = part(element, '.card');
  card.addEventListener('toggle', () => showCard(part(card, '.card-text'), model.id), { once: true });
  return element;
}

/**
 * @param {Model} model
 * @returns {[string, string][]}
 */
function factsOf({ stage, step, parent, language, created, scorer }) {
  const written = new Date(created * 1000).toLocaleDateString(undefined, { dateStyle: 'long' });
  return [
    ['Trained in', `stage “${stage}”, ${step.toLocaleString()} steps`],
    ...(parent ? [/** @type {[string, string]} */ (['From', parent])] : []),
    ['Scored by', `${scorer.name} ${scorer.revision}`],
    ['Language', new Intl.DisplayNames(undefined, { type: 'language' }).of(language) ?? language],
    ['Written', written],
  ];
}

/** @param {[string, string]} fact */
function factElements([name, value]) {
  return [
    Object.assign(document.createElement('dt'), { textContent: name }),
    Object.assign(document.createElement('dd'), { textContent: value }),
  ];
}

/**
 * @param {HTMLElement} element
 * @param {string} id
 */
async function showCard(element, id) {
  element.textContent = 'Loading';
  try {
    element.textContent = (await fetchCard(id)) || 'This model has no card.';
  } catch (error) {
    element.textContent = messageOf(error);
  }
}

/** @param {unknown} error */
function messageOf(error) {
  if (!(error instanceof RequestFailed)) throw error;
  return `${error.problem.title}. ${error.problem.detail}`;
}

/**
 * @param {HTMLElement} parent
 * @param {string} selector
 */
function part(parent, selector) {
  return /** @type {HTMLElement} */ (parent.querySelector(selector));
}

/** @param {string} id */
function byId(id) {
  return /** @type {HTMLElement} */ (document.getElementById(id));
}
