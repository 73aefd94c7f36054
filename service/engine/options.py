"""The one schema of caption options: HTTP, CLI, jobs and page all read this dataclass."""

from dataclasses import dataclass, field, replace
from typing import Literal, Protocol, get_args

from models.generation import GenerationOptions, OptionError, Strategy, check_limits, described, metadata_of

RankBy = Literal["clip", "likelihood"]
FinalStop = Literal["keep", "add", "remove"]
MAX_PREFIX_CHARS = 200
NO_REPEAT_NGRAM_SIZE = 2
"""What callers get who do not say otherwise; the decoder by itself repeats what it likes.

Of 0, 2 and 3 the one that people's captions agree with most: CIDEr-D 49.9, 50.4, 50.0 on 1,000 photos of
Flickr8k, 52.8, 54.2, 52.8 on 974 of COCO (default model, beam of 4, ranked by CLIP; docs/evaluation.md).
"""


class TextEncoder(Protocol):
    """The part of a tokenizer that turns a forced prefix into token ids."""

    def encode(self, text: str) -> list[int]: ...


@dataclass(frozen=True)
class CaptionOptions:
    """What a caller may ask of each image's captions.

    Each field's metadata has `about` and, where they apply, `minimum` and `maximum` or `choices`.

    Raises:
        OptionError: (a ValueError) naming the field, the value and the limit.
    """

    strategy: Strategy = field(default=GenerationOptions.strategy, metadata=metadata_of("strategy"))
    num_beams: int = field(default=GenerationOptions.num_beams, metadata=metadata_of("num_beams"))
    num_captions: int = field(default=GenerationOptions.num_captions, metadata=metadata_of("num_captions"))
    temperature: float = field(default=GenerationOptions.temperature, metadata=metadata_of("temperature"))
    top_k: int = field(default=GenerationOptions.top_k, metadata=metadata_of("top_k"))
    top_p: float = field(default=GenerationOptions.top_p, metadata=metadata_of("top_p"))
    min_tokens: int = field(default=GenerationOptions.min_tokens, metadata=metadata_of("min_tokens"))
    max_tokens: int = field(default=GenerationOptions.max_tokens, metadata=metadata_of("max_tokens"))
    length_penalty: float = field(
        default=GenerationOptions.length_penalty, metadata=metadata_of("length_penalty")
    )
    repetition_penalty: float = field(
        default=GenerationOptions.repetition_penalty, metadata=metadata_of("repetition_penalty")
    )
    no_repeat_ngram_size: int = field(
        default=NO_REPEAT_NGRAM_SIZE, metadata=metadata_of("no_repeat_ngram_size")
    )
    seed: int = field(default=GenerationOptions.seed, metadata=metadata_of("seed"))
    rank_by: RankBy = field(
        default="clip",
        metadata=described("What the best caption is best in: clip or likelihood.", choices=get_args(RankBy)),
    )
    prefix: str = field(
        default="",
        metadata=described(f"Text that every caption starts with, up to {MAX_PREFIX_CHARS} characters."),
    )
    max_chars: int | None = field(
        default=None,
        metadata=described(
            "Characters at which a caption is cut, never inside a word.", minimum=1, maximum=10_000
        ),
    )
    one_sentence: bool = field(
        default=False, metadata=described("Whether the caption ends with its first sentence.")
    )
    sentence_case: bool = field(
        default=False, metadata=described("Whether the caption begins with a capital letter.")
    )
    final_stop: FinalStop = field(
        default="keep",
        metadata=described(
            "The stop at the end: keep what was written, add one where none is, or remove it.",
            choices=get_args(FinalStop),
        ),
    )
    model: str | None = field(
        default=None, metadata=described("Model version that answers; unset is the active one.")
    )

    def __post_init__(self) -> None:
        check_limits(self)
        if len(self.prefix) > MAX_PREFIX_CHARS:
            raise OptionError("prefix", self.prefix, f"at most {MAX_PREFIX_CHARS} characters long")
        self._generation(num_captions=self.num_captions)

    def to_generation(self, tokenizer: TextEncoder, *, max_tokens: int) -> GenerationOptions:
        """What the decoder is asked for.

        Args:
            max_tokens: the model's own limit; a longer request gets the longest caption it can write.

        Raises:
            OptionError: the prefix leaves no room for a caption.
        """
        prefix_ids = tuple(tokenizer.encode(self.prefix)) if self.prefix else ()
        allowed = min(self.max_tokens, max_tokens)
        if len(prefix_ids) >= allowed:
            raise OptionError("prefix", self.prefix, f"shorter than {allowed} tokens")
        wanted = self._generation(num_captions=self.num_decoded)
        min_tokens = min(self.min_tokens, allowed)
        return replace(wanted, prefix_ids=prefix_ids, max_tokens=allowed, min_tokens=min_tokens)

    @property
    def num_decoded(self) -> int:
        """Captions to decode and score: by CLIP, every hypothesis of a beam is a candidate for the best."""
        return self.num_beams if self.strategy == "beam" and self.rank_by == "clip" else self.num_captions

    @property
    def is_repeatable(self) -> bool:
        """Whether the same image has the same captions each time: by every strategy, sampling with a seed."""
        return self.strategy != "sample" or self.seed != type(self).seed

    def _generation(self, *, num_captions: int) -> GenerationOptions:
        return GenerationOptions(
            strategy=self.strategy,
            num_beams=self.num_beams,
            num_captions=num_captions,
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            min_tokens=self.min_tokens,
            max_tokens=self.max_tokens,
            length_penalty=self.length_penalty,
            repetition_penalty=self.repetition_penalty,
            no_repeat_ngram_size=self.no_repeat_ngram_size,
            seed=self.seed,
        )
