"""Captions to token ids and back, for both vocabularies a decoder can write."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from open_clip.tokenizer import SimpleTokenizer
from transformers import GPT2Tokenizer


class CaptionTokenizer(Protocol):
    """Token ids of the decoder's vocabulary.

    A decoder emits ids below `vocab_size`. A caption ends with `eos_id`; what follows in a batch is `pad_id`,
    which is `vocab_size` itself, so that padding is never a word.
    """

    vocab_size: int
    eos_id: int
    pad_id: int
    never_generated: tuple[int, ...]

    def encode(self, text: str) -> list[int]:
        """Ids of the text, without special tokens."""

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text up to the first end-of-text; special tokens leave no trace."""

    def pieces(self) -> list[str]:
        """For each id the text it adds to a caption, "" for special tokens."""


class ClipVocabulary:
    """CLIP's own BPE: word ends marked; the bridge to CLIP's text encoder is the identity.

    Its ids know no capitals; a decoded caption gets one at its beginning.
    """

    def __init__(self, tokenizer: SimpleTokenizer) -> None:
        self._tokenizer = tokenizer
        self.vocab_size = int(tokenizer.vocab_size)
        self.bos_id = int(tokenizer.sot_token_id)
        self.eos_id = int(tokenizer.eot_token_id)
        self.pad_id = self.vocab_size
        self.never_generated: tuple[int, ...] = (self.bos_id,)

    def encode(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text))

    def decode(self, token_ids: Sequence[int]) -> str:
        kept = [id for id in _until(token_ids, self.eos_id) if id < self.bos_id]
        text = tidy_spacing(self._tokenizer.decode(kept))
        return text[:1].upper() + text[1:]

    def pieces(self) -> list[str]:
        texts = [self._tokenizer.decode([id]) for id in range(self.bos_id)]
        return texts + [""] * (self.vocab_size - self.bos_id)


class Gpt2Vocabulary:
    """GPT-2's byte-level BPE: case kept, word starts marked."""

    def __init__(self, tokenizer: GPT2Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.vocab_size = len(tokenizer)
        self.eos_id = int(tokenizer.eos_token_id)
        self.pad_id = self.vocab_size
        self.never_generated: tuple[int, ...] = ()

    @classmethod
    def from_files(cls, folder: Path) -> "Gpt2Vocabulary":
        """Reads vocab.json and merges.txt from a folder."""
        return cls(GPT2Tokenizer(vocab=str(folder / "vocab.json"), merges=str(folder / "merges.txt")))

    def save(self, folder: Path) -> None:
        """Writes vocab.json and merges.txt."""
        self._tokenizer.backend_tokenizer.model.save(str(folder))

    def encode(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False))

    def decode(self, token_ids: Sequence[int]) -> str:
        kept = [id for id in _until(token_ids, self.eos_id) if id < self.vocab_size]
        return str(self._tokenizer.decode(kept, clean_up_tokenization_spaces=False)).strip()

    def pieces(self) -> list[str]:
        ids = range(self.vocab_size)
        texts = [str(self._tokenizer.decode([id], clean_up_tokenization_spaces=False)) for id in ids]
        texts[self.eos_id] = ""
        return texts


def tidy_spacing(text: str) -> str:
    """Undoes the spaces that CLIP's BPE puts around punctuation and inside contractions."""
    text = re.sub(r"\s+", " ", text).strip()
    text = re.sub(r" ([.,!?;:%)\]])", r"\1", text)
    text = re.sub(r"([(\[$#]) ", r"\1", text)
    text = re.sub(r"(\w) ?([-/]) ?(?=\w)", r"\1\2", text)
    return re.sub(r" ?(['\u2019]) ?(s|t|re|ve|m|ll|d)\b", r"\1\2", text)


def _until(token_ids: Sequence[int], eos_id: int) -> list[int]:
    ids = [int(id) for id in token_ids]
    return ids[: ids.index(eos_id)] if eos_id in ids else ids
