/** A gate's verdict on a new version: each guarded figure before and after. */

import { asSentence, create } from '../dom.js';

/** @typedef {import('./models.js').Gate} Gate */

/** @type {Record<string, string>} */
const LABELS = {
  'second_clip_score': 'CLIPScore, by the second scorer',
  'second_r@1': 'R@1 in %, by the second scorer',
  'second_r@5': 'R@5 in %, by the second scorer',
  'second_r@10': 'R@10 in %, by the second scorer',
  'length_mean': 'Words in a caption',
  'repetition': 'Repeated word pairs in %',
  'distinct_captions': 'Distinct captions in %',
  'cider_d': 'CIDEr-D',
};
const COLUMNS = ['Figure', 'Before', 'After', 'Limit', ''];

/** @param {Gate} gate */
export function gateElement({ passed, checks, reason }) {
  const verdict = create('p', { className: `verdict ${passed ? 'is-passed' : 'is-refused'}` });
  verdict.append(create('strong', { textContent: passed ? 'Passed its gate' : 'Refused by its gate' }));
  // The reason begins with the verdict, which is written already.
  if (reason) verdict.append(` ${asSentence(reason.replace(/^(passed|refused): /, ''))}`);
  const scroll = create('div', { className: 'table-scroll', tabIndex: 0 }, table(checks));
  scroll.setAttribute('role', 'region');
  scroll.setAttribute('aria-label', 'Figures of the gate');
  return create('div', { className: 'gate' }, verdict, ...(checks.length > 0 ? [scroll] : []));
}

/** @param {Gate['checks']} checks */
function table(checks) {
  const head = create('tr', {}, ...COLUMNS.map(headCell));
  const rows = checks.map(({ name, before, after, limit, bound, passed }) =>
    create(
      'tr',
      { className: passed ? '' : 'is-refused' },
      create('th', { scope: 'row', textContent: LABELS[name] ?? name.replaceAll('_', ' ') }),
      ...[number(before), number(after), `${bound ?? ''} ${number(limit)}`.trim()].map((textContent) =>
        create('td', { textContent }),
      ),
      create('td', { textContent: passed ? 'passed' : 'refused' }),
    ),
  );
  return create('table', { className: 'figures-table' }, create('thead', {}, head), create('tbody', {}, ...rows));
}

/** @param {string} text */
function headCell(text) {
  return text ? create('th', { scope: 'col', textContent: text }) : create('td');
}

/** @param {number | null | undefined} value */
function number(value) {
  return typeof value === 'number' ? value.toLocaleString(undefined, { maximumSignificantDigits: 4 }) : '–';
}
