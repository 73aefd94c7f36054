"""What a caption request may ask of the decoder, and what it gets back."""

from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields
from typing import Any, Literal, Protocol, get_args

Strategy = Literal["beam", "greedy", "sample"]
FinishReason = Literal["stop", "length"]
MAX_SEED = 2**63 - 1
MAX_TOKENS = 256
MAX_BEAMS = 16


class OptionError(ValueError):
    """An option outside its limits; the message names the field, the value and the limit."""

    def __init__(self, name: str, value: object, limit: str) -> None:
        super().__init__(f"{name} is {value!r}; it must be {limit}")
        self.name = name
        self.value = value
        self.limit = limit


def described(about: str, **limits: Any) -> dict[str, Any]:
    """Metadata that every front end reads: what the option is; `minimum` and `maximum`, or `choices`."""
    return {"about": about, **limits}


def metadata_of(name: str) -> Mapping[str, Any]:
    """Metadata of GenerationOptions' field of this name, for a schema that repeats it."""
    return next(one.metadata for one in fields(GenerationOptions) if one.name == name)


def check_limits(options: Any) -> None:
    """Raises OptionError for the first field of an options dataclass outside its metadata's limits."""
    for one in fields(options):
        value = getattr(options, one.name)
        if value is not None or one.default is not None:
            _check_limit(one, value)


def _check_limit(one: Field[Any], value: Any) -> None:
    limits: Mapping[str, Any] = one.metadata
    if "choices" in limits and value not in limits["choices"]:
        raise OptionError(one.name, value, "one of " + ", ".join(limits["choices"]))
    if "minimum" in limits and not limits["minimum"] <= value <= limits["maximum"]:
        raise OptionError(one.name, value, f"between {limits['minimum']} and {limits['maximum']}")


@dataclass(frozen=True)
class GenerationOptions:
    """How one image's captions are decoded; counts of tokens are without the end token."""

    strategy: Strategy = field(
        default="beam", metadata=described("How tokens are chosen.", choices=get_args(Strategy))
    )
    num_beams: int = field(
        default=4, metadata=described("Hypotheses kept side by side (beam).", minimum=1, maximum=MAX_BEAMS)
    )
    num_captions: int = field(
        default=1,
        metadata=described("Captions per image; at most num_beams (beam).", minimum=1, maximum=MAX_BEAMS),
    )
    temperature: float = field(
        default=1.0, metadata=described("Divides the logits (sample).", minimum=0.01, maximum=10.0)
    )
    top_k: int = field(
        default=0,
        metadata=described("Sample among the k likeliest tokens; 0 is off.", minimum=0, maximum=100_000),
    )
    top_p: float = field(
        default=1.0,
        metadata=described(
            "Sample among the likeliest tokens of this mass; 1 is off.", minimum=0.01, maximum=1.0
        ),
    )
    min_tokens: int = field(
        default=0, metadata=described("Tokens before the caption may end.", minimum=0, maximum=MAX_TOKENS)
    )
    max_tokens: int = field(
        default=30, metadata=described("Tokens at which the caption ends.", minimum=1, maximum=MAX_TOKENS)
    )
    length_penalty: float = field(
        default=1.0,
        metadata=described(
            "A beam's score is divided by its length to this power; above 0 favours long captions.",
            minimum=-5.0,
            maximum=5.0,
        ),
    )
    repetition_penalty: float = field(
        default=1.0,
        metadata=described(
            "Weakens tokens already in the caption; 1 is off (CTRL, arXiv 1909.05858).",
            minimum=0.1,
            maximum=10.0,
        ),
    )
    no_repeat_ngram_size: int = field(
        default=0, metadata=described("No n-gram of this size occurs twice; 0 is off.", minimum=0, maximum=16)
    )
    seed: int = field(
        default=0, metadata=described("The same seed samples the same captions.", minimum=0, maximum=MAX_SEED)
    )
    prefix_ids: tuple[int, ...] = field(
        default=(), metadata=described("Token ids that every caption starts with; they count.")
    )

    def __post_init__(self) -> None:
        check_limits(self)
        if self.num_captions > self.num_rows:
            raise OptionError(
                "num_captions", self.num_captions, f"at most {self.num_rows} with {self.strategy}"
            )
        if self.min_tokens > self.max_tokens:
            raise OptionError("min_tokens", self.min_tokens, f"at most max_tokens ({self.max_tokens})")
        if len(self.prefix_ids) >= self.max_tokens:
            raise OptionError("prefix_ids", self.prefix_ids, f"shorter than max_tokens ({self.max_tokens})")

    @property
    def num_rows(self) -> int:
        """Sequences decoded side by side for one image, which is also the most captions it can get."""
        return {"greedy": 1, "beam": self.num_beams, "sample": self.num_captions}[self.strategy]


@dataclass(frozen=True)
class Candidate:
    """One decoded caption.

    Args:
        token_ids: without the end token.
        log_likelihood: natural logarithm of the probability of the tokens, and of the end token where it was
            emitted, under the unmodified model: comparable across options.
        finish_reason: "stop" where the end token or a closing one (DecoderConfig.closing_ids) was emitted,
            "length" where max_tokens were.
    """

    token_ids: tuple[int, ...]
    log_likelihood: float
    finish_reason: FinishReason


class SpecialTokens(Protocol):
    """What decoding must know of a tokenizer."""

    @property
    def eos_id(self) -> int: ...
    @property
    def never_generated(self) -> tuple[int, ...]: ...
