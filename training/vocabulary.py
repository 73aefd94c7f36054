"""Learns a small byte-pair vocabulary in CLIP's own file format from a caption corpus."""

import gzip
import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

from open_clip.tokenizer import SimpleTokenizer

from training.config import Places, TokenizerConfig
from training.data import Problems, read_texts
from training.sources import read_captioned_sources

MERGES = "bpe.txt.gz"
END_OF_WORD = "</w>"
VERSION_LINE = "#version: semicap 1"
# open_clip reads this many lines at most: 49,152 less the 256 bytes and the two specials.
MAX_MERGES = 49_152 - 256 - 2

Pair = tuple[str, str]


def run_tokenizer(config: TokenizerConfig, places: Places, problems: Problems) -> Path:
    """Writes the merges of a configuration's captions; returns the file."""
    captions = list(read_texts([places.data / file for file in config.data.text], problems).texts)
    if config.data.labelled:
        labelled = read_captioned_sources(places.sources(config.data.labelled), problems)
        captions += [caption for group in labelled.captions for caption in group]
    problems.report(places.out)
    if not captions:
        raise problems.nothing_left("data.text and data.labelled")
    merges = learn_merges(captions, num_merges=config.num_merges, min_count=config.min_count)
    write_merges(merges, places.out / MERGES)
    return places.out / MERGES


def learn_merges(captions: Iterable[str], *, num_merges: int, min_count: int = 2) -> list[Pair]:
    """The `num_merges` most frequent merges, best first; fewer if no pair is left with `min_count`.

    Words come from open_clip's own cleaning and pre-tokenising pattern, so what is learnt here is what its
    tokenizer will cut. Ties go to the alphabetically first pair: the result depends on the captions only.
    """
    if not 0 <= num_merges <= MAX_MERGES:
        raise ValueError(f"num_merges is {num_merges}; CLIP's format holds 0 to {MAX_MERGES}")
    words = _MergingWords(count_words(captions))
    merges: list[Pair] = []
    while len(merges) < num_merges:
        pair = words.most_frequent_pair(min_count)
        if pair is None:
            break
        words.merge(pair)
        merges.append(pair)
    return merges


def count_words(captions: Iterable[str]) -> Counter[str]:
    """How often each pre-token occurs, in CLIP's byte alphabet."""
    reference = SimpleTokenizer()
    raw: Counter[str] = Counter()
    for caption in captions:
        raw.update(reference.pat.findall(reference.clean_fn(caption)))
    counts: Counter[str] = Counter()
    for word, count in raw.items():
        counts["".join(reference.byte_encoder[byte] for byte in word.encode("utf-8"))] += count
    return counts


def write_merges(merges: list[Pair], path: Path) -> None:
    """Writes the gzipped file that `open_clip.SimpleTokenizer(bpe_path)` reads; same merges, same bytes."""
    # No line end after the last merge: the reader would take an empty merge and shift the special ids by one.
    text = "\n".join([VERSION_LINE, *(f"{left} {right}" for left, right in merges)])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.encode("utf-8"), mtime=0))


class _MergingWords:
    """The distinct words as symbol lists, with pair counts kept up to date while pairs are merged."""

    def __init__(self, counts: Counter[str]) -> None:
        self._symbols = [[*word[:-1], word[-1] + END_OF_WORD] for word in counts]
        self._counts = list(counts.values())
        self._pair_counts: Counter[Pair] = Counter()
        self._words_with: defaultdict[Pair, set[int]] = defaultdict(set)
        for index in range(len(self._symbols)):
            self._add_pairs(index)
        self._queue = [(-count, pair) for pair, count in self._pair_counts.items()]
        heapq.heapify(self._queue)

    def most_frequent_pair(self, min_count: int) -> Pair | None:
        while self._queue:
            negative_count, pair = heapq.heappop(self._queue)
            count = self._pair_counts[pair]
            if count == -negative_count:
                return pair if count >= min_count else None
        return None

    def merge(self, pair: Pair) -> None:
        changed: set[Pair] = set()
        for index in sorted(self._words_with[pair]):
            changed |= self._remove_pairs(index)
            self._symbols[index] = _joined(self._symbols[index], pair)
            changed |= self._add_pairs(index)
        for other in changed - {pair}:
            if self._pair_counts[other] > 0:
                heapq.heappush(self._queue, (-self._pair_counts[other], other))

    def _add_pairs(self, index: int) -> set[Pair]:
        pairs = list(pairwise(self._symbols[index]))
        for pair in pairs:
            self._pair_counts[pair] += self._counts[index]
            self._words_with[pair].add(index)
        return set(pairs)

    def _remove_pairs(self, index: int) -> set[Pair]:
        pairs = list(pairwise(self._symbols[index]))
        for pair in pairs:
            self._pair_counts[pair] -= self._counts[index]
            self._words_with[pair].discard(index)
        return set(pairs)


def _joined(symbols: list[str], pair: Pair) -> list[str]:
    joined: list[str] = []
    position = 0
    while position < len(symbols):
        if tuple(symbols[position : position + 2]) == pair:
            joined.append(pair[0] + pair[1])
            position += 2
        else:
            joined.append(symbols[position])
            position += 1
    return joined
