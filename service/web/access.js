/** The API key of a service that wants one: asked for at the page, kept until its tab is closed. */

import { byId } from './dom.js';

const STORAGE_KEY = 'semicap.api-key';
const NOT_AUTHENTICATED = 401;
const MISSING_SCOPE = 403;

/** The key of a browser that forbids storage. */
let unstoredKey = '';

/**
 * A request with the key that was entered, if there is one.
 *
 * @param {RequestInit} init
 * @returns {RequestInit}
 */
export function withKey(init) {
  if (!hasKey()) return init;
  const headers = new Headers(init.headers);
  for (const [name, value] of Object.entries(keyHeaders())) headers.set(name, value);
  return { ...init, headers };
}

/** Whether requests carry a key. */
export function hasKey() {
  return currentKey() !== '';
}

/**
 * The headers that carry the key.
 *
 * @returns {Record<string, string>}
 */
export function keyHeaders() {
  return hasKey() ? { Authorization: `Bearer ${currentKey()}` } : {};
}

/**
 * Whether an answer says that the service wants a key, or another one.
 *
 * @param {number | undefined} status
 */
export function wantsKey(status) {
  return status === NOT_AUTHENTICATED || status === MISSING_SCOPE;
}

/** Shows the field for the key after an answer of 401 or 403. */
export function askForKey() {
  const form = byId('key-form');
  const hint = byId('key-hint');
  hint.textContent = currentKey()
    ? 'The service does not take this key, or not for this.'
    : 'This service asks everybody for an API key.';
  form.hidden = false;
}

/**
 * Calls `onKey` whenever a key was entered.
 *
 * @param {() => void} onKey
 */
export function listenForKey(onKey) {
  const form = /** @type {HTMLFormElement} */ (byId('key-form'));
  const field = /** @type {HTMLInputElement} */ (byId('key'));
  form.addEventListener('submit', (event) => {
    event.preventDefault();
    storeKey(field.value.trim());
    field.value = '';
    form.hidden = true;
    onKey();
  });
  // What this key may not do is of no interest in another view, which asks again if it has to.
  addEventListener('hashchange', () => {
    if (hasKey()) form.hidden = true;
  });
}

/** The key that was entered last; empty without one. */
export function currentKey() {
  try {
    return sessionStorage.getItem(STORAGE_KEY) ?? unstoredKey;
  } catch {
    return unstoredKey;
  }
}

/** @param {string} key */
function storeKey(key) {
  unstoredKey = key;
  try {
    sessionStorage.setItem(STORAGE_KEY, key);
  } catch {
    // It is asked for again when the page is loaded again.
  }
}
