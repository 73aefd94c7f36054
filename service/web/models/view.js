/** The view of the model versions: which one answers, what is known of each, and letting another one answer. */

import { announce } from '../announce.js';
import { byId, create, factElements, fromTemplate, part, showText, whileBusy } from '../dom.js';
import { isAway, messageOf } from '../http.js';
import { offers } from '../offered.js';
import { showModel, watchReadiness } from '../service_state.js';
import { currentView } from '../views.js';
import { gateElement } from './gate.js';
import { markdownElements } from './markdown.js';
import { activateModel, fetchCard, fetchModels, rollBack } from './models.js';
import { reportLink } from './report.js';

/** @typedef {import('./models.js').Model} Model */

const LOOK_AGAIN_MS = 1000;
/** @type {Record<string, string>} */
const ORIGINS = { shipped: 'came with semicap', imported: 'imported', finetuned: 'fine-tuned here', folder: 'SEMICAP_CHECKPOINT' };

/** The view. */
export function modelsView() {
  byId('models-rollback').addEventListener('click', () =>
    change(byId('models-rollback'), {
      act: rollBack,
      problem: byId('models-problem'),
      done: 'The version before answers again.',
    }),
  );
  return { enter: showModels };
}

async function showModels() {
  const problem = byId('models-problem');
  try {
    const [models, canActivate, canRollBack] = await Promise.all([
      fetchModels(),
      offers('POST', '/v1/models/{model}/activate'),
      offers('POST', '/v1/models/rollback'),
    ]);
    showText(problem, '');
    byId('models-list').replaceChildren(...models.map((model) => modelElement(model, canActivate)));
    byId('models-rollback').hidden = !canRollBack || models.length < 2;
  } catch (error) {
    showText(problem, messageOf(error));
    if (!isAway(error)) return;
    await watchReadiness();
    setTimeout(() => currentView() === 'models' && showModels(), LOOK_AGAIN_MS);
  }
}

/**
 * @param {Model} model
 * @param {boolean} canActivate
 */
function modelElement(model, canActivate) {
  const element = fromTemplate('model-template');
  part(element, '.model-name').textContent = `${model.name} ${model.version}`;
  part(element, '.badge').hidden = !model.is_active;
  part(element, '.facts').append(...factElements(factsOf(model)));
  if (model.gate) part(element, '.gate').replaceWith(gateElement(model.gate));
  const actions = part(element, '.model-actions');
  if (model.links?.report_html) actions.append(reportLink(model.id));
  if (model.job) {
    const href = `#jobs/${encodeURIComponent(model.job)}`;
    actions.append(create('a', { href, textContent: 'The job that made it' }));
  }
  const card = part(element, '.card');
  card.addEventListener('toggle', () => showCard(part(card, '.card-text'), model.id), { once: true });
  addActivation(element, { model, isOffered: canActivate && !model.is_active });
  return element;
}

/**
 * A refused version first says why it was refused; only then is it offered to let it answer all the same.
 *
 * @param {HTMLElement} element
 * @param {{model: Model, isOffered: boolean}} what
 */
function addActivation(element, { model, isOffered }) {
  const activate = part(element, '.activate');
  const override = part(element, '.override');
  const problem = part(element, '.model-problem');
  const label = `${model.name} ${model.version}`;
  activate.hidden = !isOffered;
  activate.setAttribute('aria-label', `${activate.textContent}: ${label}`);
  override.setAttribute('aria-label', `${override.textContent}: ${label}`);
  const done = `${label} answers now.`;
  activate.addEventListener('click', async () => {
    const how = { override: false };
    const isDone = await change(activate, { act: () => activateModel(model.id, how), problem, done });
    if (isDone || model.gate?.passed !== false) return;
    override.hidden = false;
    override.focus();
  });
  override.addEventListener('click', () =>
    change(override, { act: () => activateModel(model.id, { override: true }), problem, done }),
  );
}

/**
 * Does something about a model and shows what has become of all of them; whether it was done.
 *
 * @param {HTMLElement} button
 * @param {{act: () => Promise<unknown>, problem: HTMLElement, done: string}} what
 */
async function change(button, { act, problem, done }) {
  let isDone = false;
  await whileBusy(button, async () => {
    try {
      await act();
    } catch (error) {
      showText(problem, messageOf(error));
      return;
    }
    isDone = true;
    announce(done);
    byId('models-title').focus();
    await Promise.all([showModels(), showModel()]);
  });
  return isDone;
}

/**
 * @param {Model} model
 * @returns {[string, string][]}
 */
function factsOf({ stage, step, parent, origin, aliases = [], language, created, scorer }) {
  const written = new Date(created * 1000).toLocaleDateString(undefined, { dateStyle: 'long' });
  const isInstalled = origin === 'shipped'; // its date is that of the installation
  /** @type {[string, string][]} */
  const facts = [
    ['Comes from', origin ? (ORIGINS[origin] ?? origin) : ''],
    ['Trained in', [`stage “${stage}”`, step > 0 ? `${step.toLocaleString()} steps` : ''].filter(Boolean).join(', ')],
    ['Started from', parent ?? ''],
    ['Also called', aliases.join(', ')],
    ['Scored by', `${scorer.name} ${scorer.revision}`],
    ['Language', new Intl.DisplayNames(undefined, { type: 'language' }).of(language) ?? language],
    ['Written', isInstalled ? '' : written],
  ];
  return facts.filter(([, value]) => value !== '');
}

/**
 * @param {HTMLElement} element
 * @param {string} id
 */
async function showCard(element, id) {
  element.textContent = 'Loading';
  try {
    element.replaceChildren(...markdownElements((await fetchCard(id)) || 'This model has no card.'));
  } catch (error) {
    element.textContent = messageOf(error);
  }
}
