/** What a fine-tuning job has to show: its curves, and the version that it made. */

import { create, part } from '../dom.js';
import { gateElement } from '../models/gate.js';
import { reportLink } from '../models/report.js';
import { curveFigures } from './curves.js';

/** @typedef {import('./jobs.js').Job} Job */

/**
 * @param {HTMLElement} page
 * @param {Job} job
 */
export function showFinetune(page, job) {
  const figures = curveFigures(job.curve ?? []);
  part(page, '.job-curves').hidden = figures.length === 0;
  part(page, '.curves').replaceChildren(...figures);
  part(page, '.job-model').hidden = !job.model;
  if (job.model) part(page, '.job-verdict').replaceChildren(...verdict(job.model));
}

/** @param {NonNullable<Job['model']>} model */
function verdict({ id, gate, is_activated }) {
  const name = create('p', { className: 'version-name', textContent: id });
  if (is_activated) name.append(' ', create('span', { className: 'badge', textContent: 'answers now' }));
  const links = create('p', { className: 'buttons' });
  links.append(
    create('a', { href: '#models', textContent: 'Let it answer, or compare it: models' }),
    reportLink(id),
  );
  return [name, ...(gate ? [gateElement(gate)] : []), links];
}
