/**
 * The part of Markdown that model cards are written in, as elements: headings, paragraphs, lists, tables, code,
 * emphasis, links. Text stays text, whatever is in it: cards come from files that somebody imported.
 */

import { create } from '../dom.js';

const HEADING = /^(#{1,6})\s+(.*)$/;
const ITEM = /^\s*[-*]\s+(.*)$/;
const FENCE = /^```/;
const ROW = /^\s*\|(.*)\|\s*$/;
const RULE_CELL = /^\s*:?-+:?\s*$/;
const INLINE = /`([^`]+)`|\*\*([^*]+)\*\*|\[([^\]]+)\]\((https?:\/\/[^\s)]+)\)/g;

/** Headings of a card stand below that of its model, which is the third level. */
const TOP_HEADING = 4;

/**
 * @param {string} text
 * @returns {Node[]}
 */
export function markdownElements(text) {
  const lines = text.split(/\r?\n/);
  const elements = [];
  while (lines.length > 0) {
    const element = nextBlock(lines);
    if (element) elements.push(element);
  }
  return elements;
}

/**
 * Takes the lines of one block; null for a blank line.
 *
 * @param {string[]} lines at least one
 */
function nextBlock(lines) {
  const [first] = lines;
  const heading = HEADING.exec(first);
  if (first.trim() === '') {
    lines.shift();
    return null;
  }
  if (heading) {
    lines.shift();
    return headingElement(heading[1].length, heading[2]);
  }
  if (FENCE.test(first)) return codeElement(lines);
  if (ROW.test(first)) return tableElement(take(lines, (line) => ROW.test(line)));
  if (ITEM.test(first)) return listElement(lines);
  return create('p', {}, ...inline(take(lines, isOfParagraph).join(' ')));
}

/** @param {string} line */
function isOfParagraph(line) {
  return line.trim() !== '' && ![HEADING, ITEM, FENCE, ROW].some((begins) => begins.test(line));
}

/**
 * @param {number} depth
 * @param {string} text
 */
function headingElement(depth, text) {
  const level = /** @type {'h4' | 'h5' | 'h6'} */ (`h${Math.min(6, TOP_HEADING + depth - 1)}`);
  return create(level, {}, ...inline(text));
}

/** @param {string[]} lines */
function codeElement(lines) {
  lines.shift();
  const code = take(lines, (line) => !FENCE.test(line)).join('\n');
  lines.shift();
  return create('pre', { tabIndex: 0 }, create('code', { textContent: code }));
}

/** @param {string[]} lines */
function listElement(lines) {
  const list = create('ul');
  while (lines.length > 0 && ITEM.test(lines[0])) {
    const first = ITEM.exec(/** @type {string} */ (lines.shift()))?.[1] ?? '';
    const rest = take(lines, (line) => /^\s+\S/.test(line) && isOfParagraph(line));
    list.append(create('li', {}, ...inline([first, ...rest.map((line) => line.trim())].join(' '))));
  }
  return list;
}

/** @param {string[]} lines */
function tableElement(lines) {
  const rows = lines.map((line) => (ROW.exec(line)?.[1] ?? '').split('|').map((cell) => cell.trim()));
  const hasHead = rows.length > 1 && rows[1].every((cell) => RULE_CELL.test(cell));
  const body = create('tbody', {}, ...rows.slice(hasHead ? 2 : 0).map((row) => rowElement(row, 'td')));
  const isHeadEmpty = rows[0].every((cell) => cell === '');
  const head = hasHead && !isHeadEmpty ? [create('thead', {}, rowElement(rows[0], 'th'))] : [];
  const scroll = create('div', { className: 'table-scroll', tabIndex: 0 }, create('table', {}, ...head, body));
  scroll.setAttribute('role', 'region');
  scroll.setAttribute('aria-label', rows[0].filter(Boolean).join(', ') || 'Table');
  return scroll;
}

/**
 * @param {string[]} cells
 * @param {'td' | 'th'} kind
 */
function rowElement(cells, kind) {
  return create(
    'tr',
    {},
    // an empty cell heads nothing
    ...cells.map((cell) => create(cell === '' ? 'td' : kind, {}, ...inline(cell))),
  );
}

/**
 * @param {string} text
 * @returns {(Node | string)[]}
 */
function inline(text) {
  const pieces = [];
  let end = 0;
  for (const found of text.matchAll(INLINE)) {
    pieces.push(text.slice(end, found.index), inlineElement(found));
    end = found.index + found[0].length;
  }
  return [...pieces, text.slice(end)];
}

/** @param {RegExpMatchArray} found */
function inlineElement([, code, strong, linked, href]) {
  if (code) return create('code', { textContent: code });
  if (strong) return create('strong', { textContent: strong });
  return create('a', { href, rel: 'noreferrer', textContent: linked });
}

/**
 * Takes lines from the beginning as long as they fit.
 *
 * @param {string[]} lines
 * @param {(line: string) => boolean} fits
 */
function take(lines, fits) {
  const end = lines.findIndex((line) => !fits(line));
  return lines.splice(0, end === -1 ? lines.length : end);
}
