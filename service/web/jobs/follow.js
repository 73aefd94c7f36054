/** A job as it goes on: told by server-sent events, and asked for where those do not come. */

import { RequestFailed, requested } from '../http.js';
import { readEvents } from '../events.js';
import { fetchJob, hasEnded, jobAddress } from './jobs.js';

/** @typedef {import('./jobs.js').Job} Job */

/** Events that come together are one look. */
const GATHER_MS = 250;
const RECONNECT_MS = 3000;
const NOT_FOUND = 404;

/**
 * Tells a job now and whenever something has happened to it, until it has ended or `signal` says stop.
 *
 * @param {string} id
 * @param {{onJob: (job: Job) => void, onProblem: (error: RequestFailed) => void, signal: AbortSignal}} listener
 */
export async function followJob(id, { onJob, onProblem, signal }) {
  let lastEvent = '';
  while (!signal.aborted) {
    try {
      const job = await fetchJob(id);
      if (signal.aborted) return;
      onJob(job);
      if (hasEnded(job)) return;
      lastEvent = await listen(id, { lastEvent, onJob, signal });
    } catch (error) {
      if (signal.aborted) return;
      if (!(error instanceof RequestFailed)) throw error;
      onProblem(error);
      if (error.problem.status === NOT_FOUND) return;
      await pause((error.retryAfterS ?? 0) * 1000 || RECONNECT_MS);
    }
  }
}

/**
 * Listens until the stream ends; its last event's id.
 *
 * @param {string} id
 * @param {{lastEvent: string, onJob: (job: Job) => void, signal: AbortSignal}} listener
 * @returns {Promise<string>}
 */
function listen(id, { lastEvent, onJob, signal }) {
  const headers = lastEvent ? { 'Last-Event-ID': lastEvent } : undefined;
  const look = gathered(async () => {
    const job = await fetchJob(id);
    if (!signal.aborted) onJob(job);
  });
  return requested(jobAddress(id, '/events'), { signal, headers }, async (response) => {
    let last = lastEvent;
    for await (const event of readEvents(response)) {
      last = event.id || last;
      look();
    }
    return last;
  });
}

/**
 * A call of `act` for all calls that come within a moment; a failure is left to the next one.
 *
 * @param {() => Promise<void>} act
 */
function gathered(act) {
  let isSet = false;
  return () => {
    if (isSet) return;
    isSet = true;
    setTimeout(async () => {
      isSet = false;
      await act().catch((error) => {
        if (!(error instanceof RequestFailed)) throw error;
      });
    }, GATHER_MS);
  };
}

/** @param {number} ms */
function pause(ms) {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
