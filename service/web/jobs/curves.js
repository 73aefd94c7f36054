/** Curves of a training run: one small chart for each figure, drawn as SVG. */

import { create } from '../dom.js';

/** @typedef {import('./jobs.js').CurvePoint} CurvePoint */

/** @type {Record<string, string>} */
const LABELS = {
  loss: 'Loss',
  clip_similarity: 'Similarity, by the scorer it learns from',
  second_similarity: 'Similarity, by a second scorer that it never sees',
  recall_at_1: 'R@1 in %, by the scorer it learns from',
  second_recall_at_1: 'R@1 in %, by the second scorer',
  distinct_captions: 'Distinct captions in %',
  repetition: 'Repeated word pairs in %',
  length: 'Words in a caption',
  sampled_similarity: 'Similarity of what it tries out',
  kl: 'Distance from the base (KL)',
  tokens: 'Tokens of what it tries out',
  images_per_s: 'Photos a second',
};
const SVG = 'http://www.w3.org/2000/svg';
const WIDTH = 320;
const HEIGHT = 96;
const MARGIN = 4;

/**
 * A chart for each figure of the points that has at least two values.
 *
 * @param {CurvePoint[]} points
 * @returns {HTMLElement[]}
 */
export function curveFigures(points) {
  const names = [...new Set(points.flatMap(Object.keys))].filter((name) => name !== 'step');
  return names
    .map((name) => ({ name, points: points.filter((point) => Number.isFinite(point[name])) }))
    .filter((curve) => curve.points.length > 1)
    .map(({ name, points: known }) => figure(name, known));
}

/**
 * @param {string} name
 * @param {CurvePoint[]} points
 */
function figure(name, points) {
  const values = points.map((point) => point[name]);
  const [first, last] = [values[0], values[values.length - 1]];
  const label = LABELS[name] ?? name.replaceAll('_', ' ');
  const range = create('p', { className: 'curve-range' });
  range.append(
    create('span', { textContent: format(Math.max(...values)) }),
    create('span', { textContent: format(Math.min(...values)) }),
  );
  range.setAttribute('aria-hidden', 'true');
  const steps = create('p', { className: 'curve-steps' });
  steps.append(
    create('span', { textContent: `step ${points[0].step.toLocaleString()}` }),
    create('span', { textContent: points[points.length - 1].step.toLocaleString() }),
  );
  const caption = create('figcaption', {}, create('strong', { textContent: label }));
  caption.append(` ${format(first)} → ${format(last)}`);
  const plot = create('div', { className: 'curve-plot' }, drawing(points, values), range);
  return create('figure', { className: 'curve' }, caption, plot, steps);
}

/**
 * @param {CurvePoint[]} points
 * @param {number[]} values
 */
function drawing(points, values) {
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const [begin, end] = [points[0].step, points[points.length - 1].step];
  const x = (/** @type {number} */ step) => (WIDTH * (step - begin)) / Math.max(end - begin, 1);
  const y = (/** @type {number} */ value) =>
    HEIGHT - MARGIN - ((HEIGHT - 2 * MARGIN) * (value - low)) / (high - low || 1);
  const path = points.map(({ step }, index) => `${x(step).toFixed(1)},${y(values[index]).toFixed(1)}`);
  const svg = document.createElementNS(SVG, 'svg');
  svg.setAttribute('viewBox', `0 0 ${WIDTH} ${HEIGHT}`);
  svg.setAttribute('preserveAspectRatio', 'none');
  svg.setAttribute('aria-hidden', 'true'); // the caption says where it begins and ends
  const line = document.createElementNS(SVG, 'polyline');
  line.setAttribute('points', path.join(' '));
  line.setAttribute('vector-effect', 'non-scaling-stroke');
  svg.append(line);
  return svg;
}

/** @param {number} value */
function format(value) {
  return value.toLocaleString(undefined, { maximumSignificantDigits: 4 });
}
