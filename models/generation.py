"""What a caption request may ask of the decoder, and the plain decoding that defines its meaning."""

from collections.abc import Mapping, Sequence
from dataclasses import Field, dataclass, field, fields, replace
from typing import Any, Literal, Protocol, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from models.decoder import CaptionDecoder
from models.next_token import draw_tokens, uniform_noise

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
        finish_reason: "stop" where the end token was emitted, "length" where max_tokens were.
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


@torch.inference_mode()
def generate_naive(
    decoder: CaptionDecoder,
    prefix: Float[Tensor, "prefix width"],
    options: GenerationOptions,
    tokens: SpecialTokens,
) -> list[Candidate]:
    """Captions of one image, every token from a pass over the whole caption so far.

    This is what the options mean; DecodingBatch gives the same captions fast. A beam's come best first.
    """
    task = _Task(decoder, prefix, options, tokens)
    if options.strategy == "beam":
        return _beam_search(task)
    return [_one_by_one(task, candidate=index) for index in range(options.num_captions)]


@dataclass(frozen=True)
class _Task:
    decoder: CaptionDecoder
    prefix: Tensor
    options: GenerationOptions
    tokens: SpecialTokens

    def logits(self, token_ids: Sequence[int]) -> Float[Tensor, "vocab"]:
        """What the model says comes after these tokens."""
        target = torch.tensor([[*token_ids, self.tokens.eos_id]], device=self.prefix.device)
        logits: Tensor = self.decoder(self.prefix.unsqueeze(0), target)
        return logits[0, -1].float()

    def log_likelihood(self, token_ids: Sequence[int]) -> float:
        """Of tokens that were not chosen but given."""
        return sum(float(self.logits(token_ids[:at]).log_softmax(0)[id]) for at, id in enumerate(token_ids))

    def apply_rules(self, scores: Float[Tensor, "vocab"], token_ids: Sequence[int]) -> Float[Tensor, "vocab"]:
        """Scores after penalties, with -inf for what is forbidden; with nothing left the caption may end."""
        ruled, penalty = scores.clone(), self.options.repetition_penalty
        for id in set(token_ids):
            ruled[id] = scores[id] * penalty if scores[id] < 0 else scores[id] / penalty
        ruled[list(self._forbidden(token_ids))] = -torch.inf
        if ruled.isneginf().all():
            ruled[self.tokens.eos_id] = scores[self.tokens.eos_id]
        return ruled

    def _forbidden(self, token_ids: Sequence[int]) -> set[int]:
        size = self.options.no_repeat_ngram_size
        forbidden = set(self.tokens.never_generated)
        if len(token_ids) < self.options.min_tokens:
            forbidden.add(self.tokens.eos_id)
        for start in range(len(token_ids) - size + 1 if size else 0):
            *earlier, follower = token_ids[start : start + size]
            if earlier == list(token_ids[len(token_ids) - size + 1 :]):
                forbidden.add(follower)
        return forbidden


def _one_by_one(task: _Task, *, candidate: int) -> Candidate:
    """Greedy decoding and sampling."""
    token_ids = list(task.options.prefix_ids)
    log_likelihood = task.log_likelihood(token_ids)
    while len(token_ids) < task.options.max_tokens:
        logits = task.logits(token_ids)
        chosen = _choose(
            task, task.apply_rules(logits, token_ids), candidate=candidate, position=len(token_ids)
        )
        log_likelihood += float(logits.log_softmax(0)[chosen])
        if chosen == task.tokens.eos_id:
            return Candidate(tuple(token_ids), log_likelihood, "stop")
        token_ids.append(chosen)
    return Candidate(tuple(token_ids), log_likelihood, "length")


def _choose(task: _Task, scores: Float[Tensor, "vocab"], *, candidate: int, position: int) -> int:
    options = task.options
    if options.strategy == "greedy":
        return int(scores.argmax())
    seed, index, place = (
        torch.tensor([value], device=scores.device) for value in (options.seed, candidate, position)
    )
    drawn = draw_tokens(
        scores.unsqueeze(0),
        uniform_noise(seed, index, place),
        temperature=scores.new_tensor([options.temperature]),
        top_k=torch.tensor([options.top_k], device=scores.device),
        top_p=scores.new_tensor([options.top_p]),
    )
    return int(drawn)


@dataclass(frozen=True)
class _Hypothesis:
    """`score` sums the ranked log-probabilities; a finished one's is divided by its length."""

    token_ids: tuple[int, ...]
    score: float
    log_likelihood: float
    reason: FinishReason = "length"


def _beam_search(task: _Task) -> list[Candidate]:
    """As transformers' with early_stopping=False; forced tokens are part of the prompt there and here."""
    options = task.options
    forced = options.prefix_ids
    running = [_Hypothesis(forced, 0.0, task.log_likelihood(forced))]
    finished: list[_Hypothesis] = []
    for num_generated in range(1, options.max_tokens - len(forced) + 1):
        divisor = num_generated**options.length_penalty
        candidates = _best_continuations(task, running)
        running, ended = _part(task, candidates, divisor=divisor)
        finished = sorted(finished + ended, key=lambda one: -one.score)[: options.num_beams]
        is_full = len(finished) == options.num_beams
        if not running or (is_full and running[0].score / divisor <= finished[-1].score):
            break
    captions = [Candidate(one.token_ids, one.log_likelihood, one.reason) for one in finished]
    return captions[: options.num_captions]


def _best_continuations(task: _Task, running: list[_Hypothesis]) -> list[_Hypothesis]:
    """The 2 x num_beams likeliest of all ways to go on, the end token as one of the tokens."""
    longer = []
    for one in running:
        log_probs = task.logits(one.token_ids).log_softmax(0)
        scores = task.apply_rules(log_probs, one.token_ids)
        for id in scores.isfinite().nonzero().flatten().tolist():
            log_likelihood = one.log_likelihood + float(log_probs[id])
            longer.append(_Hypothesis((*one.token_ids, id), one.score + float(scores[id]), log_likelihood))
    return sorted(longer, key=lambda one: -one.score)[: 2 * task.options.num_beams]


def _part(
    task: _Task, candidates: list[_Hypothesis], *, divisor: float
) -> tuple[list[_Hypothesis], list[_Hypothesis]]:
    """Those that go on, and those that end here; one that ends must be among the first num_beams to count."""
    running, ended = [], []
    for rank, one in enumerate(candidates):
        is_stop = one.token_ids[-1] == task.tokens.eos_id
        if not is_stop and len(one.token_ids) < task.options.max_tokens:
            running.append(one)
        elif rank < task.options.num_beams:
            token_ids = one.token_ids[:-1] if is_stop else one.token_ids
            reason: FinishReason = "stop" if is_stop else "length"
            ended.append(replace(one, token_ids=token_ids, score=one.score / divisor, reason=reason))
    return running[: task.options.num_beams], ended
