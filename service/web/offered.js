/** What this service offers, by its own description: a page and a service may be of different versions. */

import { RequestFailed, requestJson } from './http.js';

/** @type {Promise<Record<string, Record<string, any>>> | null} */
let paths = null;

/**
 * Whether the service has a route.
 *
 * @param {string} method
 * @param {string} path as OpenAPI writes it, parameters named in braces by any name
 */
export async function offers(method, path) {
  paths ??= readPaths();
  const wanted = nameless(path);
  const found = Object.entries(await paths).find(([known]) => nameless(known) === wanted);
  return found !== undefined && method.toLowerCase() in found[1];
}

/** @returns {Promise<Record<string, Record<string, any>>>} */
async function readPaths() {
  try {
    return (await requestJson('openapi.json')).paths;
  } catch (error) {
    if (!(error instanceof RequestFailed)) throw error;
    paths = null; // asked again the next time
    return {};
  }
}

/** @param {string} path */
function nameless(path) {
  return path.replace(/\{[^}]*\}/g, '{}');
}
