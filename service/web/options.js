/** Caption options: the one table of what the page offers, and what of it a request carries. */

/**
 * @typedef {'beam' | 'greedy' | 'sample'} Strategy
 * @typedef {Record<string, string | number>} Options one value for each field of the table
 *
 * @typedef {object} OptionField
 * @property {string} name as the API calls it
 * @property {string} label
 * @property {string} about one sentence for the person who chooses
 * @property {Strategy[]} strategies that use it
 * @property {string | number} initial
 * @property {'choice' | 'slider' | 'number' | 'text'} kind
 * @property {{value: string, label: string, about: string}[]} [choices]
 * @property {number} [minimum]
 * @property {number} [maximum]
 * @property {number} [step]
 * @property {number} [maxLength]
 */

/** @type {Strategy[]} */
const ALL = ['beam', 'greedy', 'sample'];

/** @type {OptionField[]} */
export const OPTION_FIELDS = [
  {
    name: 'strategy',
    label: 'Strategy',
    about: 'How words are chosen.',
    strategies: ALL,
    initial: 'beam',
    kind: 'choice',
    choices: [
      { value: 'beam', label: 'Beam', about: 'Follows several phrasings side by side and keeps the best.' },
      {
        value: 'greedy',
        label: 'Greedy',
        about: 'Takes the likeliest word at each step: one caption, the fastest way.',
      },
      {
        value: 'sample',
        label: 'Sample',
        about: 'Draws words at random, so that captions differ more from each other.',
      },
    ],
  },
  {
    name: 'num_captions',
    label: 'Captions',
    about: 'Candidates for each photo.',
    strategies: ['beam', 'sample'],
    initial: 3,
    kind: 'slider',
    minimum: 1,
    maximum: 16,
    step: 1,
  },
  {
    name: 'num_beams',
    label: 'Beams',
    about: 'Phrasings followed side by side.',
    strategies: ['beam'],
    initial: 4,
    kind: 'slider',
    minimum: 1,
    maximum: 16,
    step: 1,
  },
  {
    name: 'temperature',
    label: 'Temperature',
    about: 'Lower is safer, higher is bolder.',
    strategies: ['sample'],
    initial: 1,
    kind: 'slider',
    minimum: 0.1,
    maximum: 2,
    step: 0.1,
  },
  {
    name: 'top_p',
    label: 'Top-p',
    about: 'Share of likely words to draw from; 1 is all.',
    strategies: ['sample'],
    initial: 0.9,
    kind: 'slider',
    minimum: 0.05,
    maximum: 1,
    step: 0.05,
  },
  {
    name: 'seed',
    label: 'Seed',
    about: 'The same seed draws the same captions.',
    strategies: ['sample'],
    initial: 0,
    kind: 'number',
    minimum: 0,
    maximum: 999_999,
    step: 1,
  },
  {
    name: 'max_tokens',
    label: 'Longest caption',
    about: 'In tokens: words or parts of words.',
    strategies: ALL,
    initial: 30,
    kind: 'slider',
    minimum: 5,
    maximum: 60,
    step: 1,
  },
  {
    name: 'prefix',
    label: 'Begins with',
    about: 'Every caption starts with these words.',
    strategies: ALL,
    initial: '',
    kind: 'text',
    maxLength: 200,
  },
  {
    name: 'max_chars',
    label: 'Longest text',
    about: 'In characters; a word is never cut.',
    strategies: ALL,
    initial: 300,
    kind: 'slider',
    minimum: 20,
    maximum: 300,
    step: 5,
  },
  {
    name: 'final_stop',
    label: 'Stop at the end',
    about: 'As it was written, always, or never.',
    strategies: ALL,
    initial: 'keep',
    kind: 'choice',
    choices: [
      { value: 'keep', label: 'As is', about: 'The caption ends as it was written.' },
      { value: 'add', label: 'Always', about: 'A stop is added where none is.' },
      { value: 'remove', label: 'Never', about: 'A stop at the end is removed, as titles want it.' },
    ],
  },
  {
    name: 'rank_by',
    label: 'Rank by',
    about: 'What the first caption is best in.',
    strategies: ['beam', 'sample'],
    initial: 'clip',
    kind: 'choice',
    choices: [
      { value: 'clip', label: 'CLIP score', about: 'The best caption is the one that fits the photo best.' },
      {
        value: 'likelihood',
        label: 'Likelihood',
        about: 'The best caption is the one that the captioner finds likeliest.',
      },
    ],
  },
];

const STORAGE_KEY = 'semicap.options';

/** @returns {Options} */
export function initialOptions() {
  return Object.fromEntries(OPTION_FIELDS.map((field) => [field.name, field.initial]));
}

/**
 * The fields that the options' strategy uses.
 *
 * @param {Options} options
 */
export function usedFields(options) {
  return OPTION_FIELDS.filter((field) =>
    field.strategies.includes(/** @type {Strategy} */ (options.strategy)),
  );
}

/**
 * What a request carries: what the strategy uses, and no empty text.
 *
 * @param {Options} options
 * @returns {Record<string, string | number>}
 */
export function requestOptions(options) {
  const used = usedFields(options).map(({ name }) => [name, options[name]]);
  return Object.fromEntries(used.filter(([, value]) => value !== ''));
}

/**
 * Options with one of them changed; a beam search keeps as many beams as captions.
 *
 * @param {Options} options
 * @param {string} name
 * @param {string | number} value
 * @returns {Options}
 */
export function changeOption(options, name, value) {
  const changed = { ...options, [name]: value };
  if (changed.strategy !== 'beam' || changed.num_captions <= changed.num_beams) return changed;
  return name === 'num_beams'
    ? { ...changed, num_captions: changed.num_beams }
    : { ...changed, num_beams: changed.num_captions };
}

/**
 * The options in a few words.
 *
 * @param {Partial<Options>} options those that are not there are the service's own
 */
export function summarise({ strategy: chosen = 'beam', num_captions = 1 }) {
  const strategy = OPTION_FIELDS[0].choices?.find(({ value }) => value === chosen)?.label;
  const count = chosen === 'greedy' ? 1 : num_captions;
  return `${strategy}, ${count} ${count === 1 ? 'caption' : 'captions'}`;
}

/**
 * The options of the last visit, without anything that the table does not allow (any more).
 *
 * @returns {Options}
 */
export function loadOptions() {
  const stored = readStored();
  const allowed = OPTION_FIELDS.filter((field) => isAllowed(field, stored[field.name]));
  const kept = Object.fromEntries(allowed.map(({ name }) => [name, stored[name]]));
  const options = { ...initialOptions(), ...kept };
  return changeOption(options, 'strategy', options.strategy);
}

/** @param {Options} options */
export function storeOptions(options) {
  try {
    localStorage.setItem(STORAGE_KEY, JSON.stringify(options));
  } catch {
    // A browser that forbids storage just forgets the options.
  }
}

/** @returns {Record<string, any>} */
function readStored() {
  try {
    return JSON.parse(localStorage.getItem(STORAGE_KEY) ?? '{}') ?? {};
  } catch {
    return {};
  }
}

/**
 * @param {OptionField} field
 * @param {any} value
 */
function isAllowed({ initial, choices, minimum, maximum, maxLength }, value) {
  if (typeof value !== typeof initial) return false;
  if (choices) return choices.some((choice) => choice.value === value);
  if (maxLength !== undefined) return value.length <= maxLength;
  return value >= Number(minimum) && value <= Number(maximum);
}
