/** Work done side by side, a bounded number at a time, in the order it came. */

/**
 * @template Item
 * @typedef {object} Queue
 * @property {(items: Item[]) => void} add
 * @property {(item: Item) => void} remove takes an item out that has not begun
 */

/**
 * A queue that runs `limit` items at a time and rests when one of them asks for it.
 *
 * @template Item
 * @param {number} limit
 * @param {(item: Item) => Promise<number>} run settles an item; its result is 0, or the seconds that the
 *   whole queue has to rest before this item is run again. It never rejects.
 * @returns {Queue<Item>}
 */
export function createQueue(limit, run) {
  /** @type {Item[]} */
  const waiting = [];
  let running = 0;
  let resumeAt = 0;
  let isWakeUpSet = false;

  function startWaiting() {
    const restMs = resumeAt - Date.now();
    if (restMs > 0) {
      wakeUpAfter(restMs);
      return;
    }
    while (running < limit && waiting.length > 0) start(/** @type {Item} */ (waiting.shift()));
  }

  /** @param {number} restMs */
  function wakeUpAfter(restMs) {
    if (isWakeUpSet) return;
    isWakeUpSet = true;
    setTimeout(() => {
      isWakeUpSet = false;
      startWaiting();
    }, restMs);
  }

  /** @param {Item} item */
  async function start(item) {
    running += 1;
    const restS = await run(item);
    running -= 1;
    if (restS > 0) {
      resumeAt = Math.max(resumeAt, Date.now() + 1000 * restS);
      waiting.unshift(item);
    }
    startWaiting();
  }

  return {
    add(items) {
      waiting.push(...items);
      startWaiting();
    },
    remove(item) {
      const place = waiting.indexOf(item);
      if (place >= 0) waiting.splice(place, 1);
    },
  };
}
