/** Model versions: what the service tells of them and does with them. */

import { requestJson, sendJson } from '../http.js';

/**
 * @typedef {object} GateCheck
 * @property {string} name of the figure
 * @property {number} before
 * @property {number} after
 * @property {number} limit what it may not fall below, or rise above
 * @property {'at least' | 'at most'} [bound]
 * @property {boolean} passed
 *
 * @typedef {object} Gate
 * @property {boolean} passed
 * @property {GateCheck[]} checks
 * @property {string} [reason]
 *
 * @typedef {object} Model
 * @property {string} id
 * @property {string} name
 * @property {string} version
 * @property {boolean} is_active
 * @property {string} stage
 * @property {number} step
 * @property {string | null} parent
 * @property {string} [origin] shipped, imported, finetuned or folder
 * @property {string[]} [aliases]
 * @property {string | null} [job] that made it
 * @property {Gate | null} [gate]
 * @property {{report_html: string | null}} [links]
 * @property {string} language
 * @property {number} created seconds since 1970
 * @property {{name: string, revision: string}} scorer
 */

/** Loading a model and warming it up takes its time. */
const ACTIVATION_LIMIT_MS = 180_000;

/**
 * The models that the service has.
 *
 * @returns {Promise<Model[]>}
 * @throws {import('../http.js').RequestFailed}
 */
export async function fetchModels() {
  return (await requestJson('v1/models')).data;
}

/**
 * A model's card, Markdown.
 *
 * @param {string} id
 * @returns {Promise<string>}
 * @throws {import('../http.js').RequestFailed}
 */
export async function fetchCard(id) {
  return (await requestJson(`v1/models/${encodeURIComponent(id)}`)).card;
}

/**
 * Has a version answer from now on.
 *
 * @param {string} id
 * @param {{override: boolean}} how whether to do so although its gate did not pass
 */
export function activateModel(id, how) {
  return sendJson('POST', `v1/models/${encodeURIComponent(id)}/activate`, how, {
    limitMs: ACTIVATION_LIMIT_MS,
  });
}

/** Has the version answer that answered before this one. */
export function rollBack() {
  return sendJson('POST', 'v1/models/rollback', undefined, { limitMs: ACTIVATION_LIMIT_MS });
}
