"""Plain decoding, one pass over the whole caption for each token: it defines what the options mean."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from models.decoder import CaptionDecoder
from models.generation import Candidate, FinishReason, GenerationOptions, SpecialTokens
from models.next_token import draw_tokens, uniform_noise


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

    @property
    def closing_ids(self) -> tuple[int, ...]:
        return self.decoder.config.closing_ids

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
        if len(token_ids) + 1 < self.options.min_tokens:
            forbidden |= set(self.closing_ids)
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
        if chosen in task.closing_ids:
            return Candidate(tuple(token_ids), log_likelihood, "stop")
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
        is_closed = one.token_ids[-1] in task.closing_ids
        if not is_stop and not is_closed and len(one.token_ids) < task.options.max_tokens:
            running.append(one)
        elif rank < task.options.num_beams:
            token_ids = one.token_ids[:-1] if is_stop else one.token_ids
            reason: FinishReason = "stop" if is_stop or is_closed else "length"
            ended.append(replace(one, token_ids=token_ids, score=one.score / divisor, reason=reason))
    return running[: task.options.num_beams], ended
