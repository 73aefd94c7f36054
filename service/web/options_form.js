/** The options panel, drawn from the table of options. */

import { byId, create } from './dom.js';
import {
  OPTION_FIELDS,
  changeOption,
  initialOptions,
  loadOptions,
  storeOptions,
  summarise,
  usedFields,
} from './options.js';

/**
 * @typedef {import('./options.js').OptionField} OptionField
 * @typedef {import('./options.js').Options} Options
 */

/** From here on the panel has a column of its own, and is open. */
const WIDE = '(min-width: 60rem)';

/**
 * Fills the panel; the function that it returns tells the options chosen.
 *
 * @returns {() => Options}
 */
export function openOptions() {
  const form = /** @type {HTMLFormElement} */ (byId('options-form'));
  let options = loadOptions();
  const show = () => showOptions(form, options);

  form.append(...OPTION_FIELDS.map(fieldElement), resetButton());
  form.addEventListener('input', (event) => {
    const control = /** @type {HTMLInputElement} */ (event.target);
    if (!control.validity.valid) return;
    options = changeOption(options, control.name, valueOf(control));
    storeOptions(options);
    show();
  });
  // A number that is left half typed goes back to the one that counts.
  form.addEventListener('focusout', show);
  form.addEventListener('reset', (event) => {
    event.preventDefault();
    options = initialOptions();
    storeOptions(options);
    show();
  });
  form.addEventListener('submit', (event) => event.preventDefault());
  openWhereThereIsRoom();
  show();
  return () => options;
}

function openWhereThereIsRoom() {
  const panel = /** @type {HTMLDetailsElement} */ (byId('options'));
  const wide = matchMedia(WIDE);
  const fit = () => {
    panel.open = wide.matches;
  };
  fit();
  wide.addEventListener('change', fit);
  // Above another view an open panel would be all that a phone shows of it.
  addEventListener('hashchange', () => wide.matches || fit());
}

/**
 * @param {HTMLFormElement} form
 * @param {Options} options
 */
function showOptions(form, options) {
  const used = usedFields(options);
  for (const field of OPTION_FIELDS) {
    const element = /** @type {HTMLElement} */ (form.querySelector(`[data-option="${field.name}"]`));
    element.hidden = !used.includes(field);
    showValue(element, field, options[field.name]);
  }
  const summary = byId('options-summary');
  summary.textContent = summarise(options);
}

/**
 * @param {HTMLElement} element
 * @param {OptionField} field
 * @param {string | number} value
 */
function showValue(element, field, value) {
  for (const control of element.querySelectorAll('input')) {
    if (control.type === 'radio') control.checked = control.value === value;
    else if (control.value !== String(value)) control.value = String(value);
  }
  const output = element.querySelector('output');
  if (output) output.textContent = String(value);
  const about = element.querySelector('.option-about');
  if (about)
    about.textContent = field.choices?.find((choice) => choice.value === value)?.about ?? field.about;
}

/** @param {HTMLInputElement} control */
function valueOf(control) {
  return control.type === 'range' || control.type === 'number' ? control.valueAsNumber : control.value;
}

/** @param {OptionField} field */
function fieldElement(field) {
  const element = field.kind === 'choice' ? choiceElement(field) : inputElement(field);
  element.classList.add('option');
  element.dataset.option = field.name;
  return element;
}

/** @param {OptionField} field */
function choiceElement(field) {
  const segments = create('div', { className: 'segments' });
  for (const { value, label } of field.choices ?? []) {
    const radio = create('input', { type: 'radio', name: field.name, value });
    const segment = create('label', { className: 'segment' });
    segment.append(radio, create('span', { textContent: label }));
    segments.append(segment);
  }
  const element = create('fieldset', {});
  const about = create('p', { className: 'option-about', id: `about-${field.name}` });
  element.setAttribute('aria-describedby', about.id);
  element.append(create('legend', { textContent: field.label }), segments, about);
  return element;
}

/** @param {OptionField} field */
function inputElement(field) {
  const element = create('div', {});
  const id = `option-${field.name}`;
  const head = create('div', { className: 'option-head' });
  head.append(create('label', { htmlFor: id, textContent: field.label }));
  if (field.kind === 'slider') head.append(create('output', { htmlFor: id }));
  const about = create('p', { className: 'option-about', id: `about-${field.name}` });
  const input = create('input', { id, name: field.name, type: inputType(field), ...limitsOf(field) });
  input.setAttribute('aria-describedby', about.id);
  element.append(head, input, about);
  return element;
}

/** @param {OptionField} field */
function inputType({ kind }) {
  return { slider: 'range', number: 'number', text: 'text', choice: 'radio' }[kind];
}

/** @param {OptionField} field */
function limitsOf({ minimum, maximum, step, maxLength }) {
  if (maxLength !== undefined) return { maxLength };
  return { min: String(minimum), max: String(maximum), step: String(step), required: true };
}

function resetButton() {
  return create('button', { type: 'reset', className: 'quiet', textContent: 'Reset options' });
}
