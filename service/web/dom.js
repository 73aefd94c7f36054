/** Finding and making elements. */

/** @param {string} id */
export function byId(id) {
  return /** @type {HTMLElement} */ (document.getElementById(id));
}

/**
 * A copy of a template's one element.
 *
 * @param {string} id
 */
export function fromTemplate(id) {
  const template = /** @type {HTMLTemplateElement} */ (byId(id));
  return /** @type {HTMLElement} */ (template.content.firstElementChild?.cloneNode(true));
}

/**
 * An element inside another one.
 *
 * @template {typeof HTMLElement} Kind
 * @param {HTMLElement} parent
 * @param {string} selector
 * @param {Kind} [kind]
 * @returns {InstanceType<Kind>}
 */
export function part(parent, selector, kind) {
  return /** @type {InstanceType<Kind>} */ (parent.querySelector(selector));
}

/**
 * A new element.
 *
 * @template {keyof HTMLElementTagNameMap} Tag
 * @param {Tag} tag
 * @param {Record<string, any>} properties
 * @param {(Node | string)[]} children
 * @returns {HTMLElementTagNameMap[Tag]}
 */
export function create(tag, properties = {}, ...children) {
  const { htmlFor, ...others } = properties;
  const element = Object.assign(document.createElement(tag), others);
  if (htmlFor) element.setAttribute('for', htmlFor); // of a label and of an output
  element.append(...children);
  return element;
}

/**
 * The names and values of a description list.
 *
 * @param {[string, string][]} facts
 */
export function factElements(facts) {
  return facts.flatMap(([name, value]) => [
    create('dt', { textContent: name }),
    create('dd', { textContent: value }),
  ]);
}

/**
 * Writes a text, or hides its element where there is none.
 *
 * @param {HTMLElement} element
 * @param {string} text
 */
export function showText(element, text) {
  element.textContent = text;
  element.hidden = text === '';
}

/**
 * Does something that takes time, once at a time for a button. It is not disabled meanwhile: it would lose the focus.
 *
 * @param {HTMLElement} button
 * @param {() => Promise<void>} act
 */
export async function whileBusy(button, act) {
  if (button.ariaDisabled === 'true') return;
  button.ariaDisabled = 'true';
  try {
    await act();
  } finally {
    button.ariaDisabled = null;
  }
}

/** @param {string} text */
export function asSentence(text) {
  const start = text.charAt(0).toUpperCase() + text.slice(1);
  return start === '' || /[.!?]$/.test(start) ? start : `${start}.`;
}
