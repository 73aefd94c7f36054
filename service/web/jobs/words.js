/** Jobs in words. */

/** @typedef {import('./jobs.js').Job} Job */

const STATES = {
  queued: 'Waiting for a worker',
  running: 'Running',
  paused: 'Paused',
  succeeded: 'Done',
  failed: 'Failed',
  canceled: 'Cancelled',
};

const PHASES = {
  preparing: 'looking at the photos',
  reporting: 'measuring the new version on photos held out',
  publishing: 'storing the new version',
};

const MINUTE_S = 60;
const HOUR_S = 3600;

/** @param {Job} job */
export function titleOf({ kind, counts }) {
  const photos = photosOf(counts.total);
  return kind === 'captions' ? `Captions for ${photos}` : `A model taught by ${photos}`;
}

/** @param {number} count */
export function photosOf(count) {
  return count === 1 ? '1 photo' : `${count.toLocaleString()} photos`;
}

/** @param {Job} job */
export function stateOf({ state, cancel_requested }) {
  return cancel_requested && state === 'running' ? 'Stopping' : (STATES[state] ?? state);
}

/**
 * How much of a job is done, 0 to 1.
 *
 * @param {Job} job
 */
export function shareOf({ counts, progress }) {
  if (progress) return progress.step / Math.max(progress.steps, 1);
  return settledOf(counts) / Math.max(counts.total, 1);
}

/** @param {import('./jobs.js').Counts} counts */
export function settledOf({ done, failed, skipped }) {
  return done + failed + skipped;
}

/**
 * How far a job is: how many are done, how fast, how long still.
 *
 * @param {Job} job
 */
export function progressOf(job) {
  const { counts, progress, rate, seconds_left: left, kind } = job;
  const far = progress
    ? phaseOf(progress)
    : kind === 'captions'
      ? `${settledOf(counts).toLocaleString()} of ${counts.total.toLocaleString()}`
      : '';
  const speed = rate ? `${rate.toLocaleString(undefined, { maximumFractionDigits: 1 })} photos/s` : '';
  return [far, speed, left === null || left === undefined ? '' : `${duration(left)} left`]
    .filter(Boolean)
    .join(' · ');
}

/** @param {NonNullable<Job['progress']>} progress */
function phaseOf({ phase, step, steps }) {
  if (phase in PHASES) return PHASES[/** @type {keyof typeof PHASES} */ (phase)];
  return `step ${step.toLocaleString()} of ${steps.toLocaleString()} at most`;
}

/**
 * What came of an ended job.
 *
 * @param {Job} job
 */
export function outcomeOf({ kind, counts, started, ended }) {
  const numLeft = counts.total - settledOf(counts);
  const took = started && ended ? `took ${duration((Date.parse(ended) - Date.parse(started)) / 1000)}` : '';
  const parts =
    kind === 'captions'
      ? [
          `${counts.done.toLocaleString()} captioned`,
          counts.failed ? `${counts.failed.toLocaleString()} failed` : '',
          counts.skipped ? `${counts.skipped.toLocaleString()} left as they were` : '',
          numLeft ? `${numLeft.toLocaleString()} not done` : '',
        ]
      : [];
  return [...parts, took].filter(Boolean).join(' · ');
}

/** @param {number} seconds */
export function duration(seconds) {
  if (seconds < 1) return 'a moment';
  if (seconds < MINUTE_S) return `${Math.round(seconds)} s`;
  if (seconds < 10 * MINUTE_S) return `${Math.floor(seconds / MINUTE_S)} min ${Math.floor(seconds % MINUTE_S)} s`;
  if (seconds < HOUR_S) return `${Math.round(seconds / MINUTE_S)} min`;
  return `${Math.floor(seconds / HOUR_S)} h ${Math.round((seconds % HOUR_S) / MINUTE_S)} min`;
}

/**
 * A moment as people say it: without the date when it was today.
 *
 * @param {string} iso
 */
export function moment(iso) {
  const date = new Date(iso);
  const isToday = date.toDateString() === new Date().toDateString();
  const format = isToday ? { timeStyle: 'short' } : { dateStyle: 'medium', timeStyle: 'short' };
  return date.toLocaleString(undefined, /** @type {Intl.DateTimeFormatOptions} */ (format));
}
