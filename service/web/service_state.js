/** What the page says of the service: whether it is ready, and which model answers. */

import { byId } from './dom.js';
import { RequestFailed } from './http.js';
import { fetchModels } from './models/models.js';
import { findReadinessProblem } from './photos/captions.js';

const FIRST_CHECK_AGAIN_MS = 3_000;
const LAST_CHECK_AGAIN_MS = 10_000;

/** @type {Promise<void> | null} */
let watch = null;
let latestTurn = 0;

/** Shows a note while the service is not ready, and checks until it is; resolves then. */
export function watchReadiness() {
  watch ??= watchUntilReady();
  return watch;
}

async function watchUntilReady() {
  const note = byId('readiness');
  for (let pauseMs = FIRST_CHECK_AGAIN_MS; ; pauseMs = Math.min(2 * pauseMs, LAST_CHECK_AGAIN_MS)) {
    const problem = await findReadinessProblem();
    note.hidden = problem === null;
    if (problem === null) break;
    note.textContent = `${problem.title}. This note goes when captions can be asked for again.`;
    await new Promise((resolve) => setTimeout(resolve, pauseMs));
  }
  watch = null;
  showModel();
}

/** Names the model that answers at the foot of the page. */
export async function showModel() {
  const turn = ++latestTurn;
  const name = await modelInUse();
  if (turn === latestTurn) byId('model-in-use').textContent = name; // an answer from before the key may come late
}

async function modelInUse() {
  try {
    const model = (await fetchModels()).find(({ is_active }) => is_active);
    return model ? `Model ${model.name} ${model.version}, scored by ${model.scorer.name}` : '';
  } catch (error) {
    if (!(error instanceof RequestFailed)) throw error;
    return '';
  }
}
