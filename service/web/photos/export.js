/** Captions as files to keep. */

/** @typedef {import('./photo.js').Photo} Photo */

/**
 * One line a photo: its file name, a tab, its best caption.
 *
 * @param {Photo[]} photos those without captions are left out
 */
export function toText(photos) {
  return lines(photos, ({ file, answer }) => `${file.name}\t${answer.captions[0]?.text ?? ''}`);
}

/**
 * One JSON object a photo: every caption with its scores, who wrote and who scored it, and when.
 *
 * @param {Photo[]} photos those without captions are left out
 */
export function toJsonLines(photos) {
  return lines(photos, ({ file, answer, answeredAt }, item) => {
    const { captions, model, scorer, image } = answer;
    return JSON.stringify({ item, file_name: file.name, captions, model, scorer, image, date: answeredAt });
  });
}

/**
 * @param {Photo[]} photos
 * @param {(photo: Photo & {answer: import('./captions.js').Answer}, item: number) => string} line
 */
function lines(photos, line) {
  return photos
    .map((photo, item) => (photo.answer ? `${line({ ...photo, answer: photo.answer }, item)}\n` : ''))
    .join('');
}
