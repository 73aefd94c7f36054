/** The views of the page: one is shown at a time, and the address says which. */

import { byId } from './dom.js';

/**
 * @typedef {object} View
 * @property {string} title in the window's title
 * @property {boolean} [hasOptions] whether caption options matter in it
 * @property {boolean} [keepsPlace] whether coming back to it shows the part that was shown before
 * @property {(id: string) => void} [enter] is called when it is shown, with what the address names below it
 * @property {() => void} [leave]
 */

/** Views that the navigation lists as a part of another one. */
const PARENTS = { job: 'jobs' };

let current = '';
/** @type {Record<string, number>} how far down each view was left */
const scrolled = {};

/** The name of the view that is shown. */
export function currentView() {
  return current;
}

/**
 * Shows the view of the address, now and whenever the address changes.
 *
 * @param {Record<string, View>} views
 */
export function openViews(views) {
  const follow = (/** @type {boolean} */ takesFocus) => {
    const { name, id } = place();
    show(views, Object.hasOwn(views, name) ? name : 'photos', { id, takesFocus });
  };
  addEventListener('hashchange', () => follow(true));
  // The address goes on saying which view is shown.
  document.querySelector('.skip-link')?.addEventListener('click', (event) => {
    event.preventDefault();
    byId('main').focus();
  });
  history.scrollRestoration = 'manual'; // the browser would restore it while the other view is shown
  follow(false);
}

/** The view that the address names, and what it names below it. */
export function place() {
  const [name, id = ''] = location.hash.slice(1).split('/');
  return name === 'jobs' && id ? { name: 'job', id: decoded(id) } : { name, id };
}

/** @param {string} text */
function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text; // half an escape, from an address that was cut
  }
}

/**
 * @param {Record<string, View>} views
 * @param {string} name
 * @param {{id: string, takesFocus: boolean}} how
 */
function show(views, name, { id, takesFocus }) {
  views[current]?.leave?.();
  scrolled[current] = scrollY;
  current = name;
  const { title, hasOptions = false, keepsPlace = false, enter } = views[name];
  document.title = `${title} · semicap`;
  byId('options').hidden = !hasOptions;
  for (const one of Object.keys(views)) byId(`view-${one}`).hidden = one !== name;
  markLinks(PARENTS[/** @type {keyof typeof PARENTS} */ (name)] ?? name);
  if (takesFocus) {
    scrollTo(0, keepsPlace ? (scrolled[name] ?? 0) : 0);
    focusOn(byId(`view-${name}`));
  }
  enter?.(id);
}

/** @param {string} name */
function markLinks(name) {
  for (const link of document.querySelectorAll('.views a')) {
    if (link instanceof HTMLElement && link.dataset.view === name) link.setAttribute('aria-current', 'page');
    else link.removeAttribute('aria-current');
  }
}

/** @param {HTMLElement} view */
function focusOn(view) {
  const heading = /** @type {HTMLElement | null} */ (view.querySelector('[tabindex="-1"]'));
  (heading ?? byId('main')).focus({ preventScroll: true });
}
