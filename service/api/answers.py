"""Outcomes of images to the JSON answer, or to the problem when there is nothing else to answer."""

from collections.abc import Sequence
from uuid import uuid4

from service.api.caption_json import caption_of, image_info
from service.api.exchange import Answered
from service.api.schemas import (
    CaptionsResponse,
    ImageCaptionsResult,
    ImageScoresResult,
    ModelRef,
    Score,
    ScorerRef,
    ScoresResponse,
    Timing,
)
from service.captioning import ImageOutcome
from service.engine.results import StageTimings, TextScore
from service.errors import ServiceError
from service.problems import problem_of
from service.registry import CAPTION_LANGUAGE


def captions_response(answered: Answered) -> CaptionsResponse:
    """The answer to a request for captions.

    Raises:
        ServiceError: of the first image's kind, when no image was captioned.
    """
    check_any_succeeded(answered.outcomes)
    clip = answered.model.captioner.clip
    return CaptionsResponse(
        id=f"cap-{uuid4().hex}",
        model=ModelRef(name=answered.model.name, version=answered.model.version),
        scorer=ScorerRef(name=clip.name, revision=clip.revision),
        language=CAPTION_LANGUAGE,
        results=[_result(index, outcome) for index, outcome in enumerate(answered.outcomes)],
        timing=_timing(answered, [outcome.answer.timings for outcome in answered.outcomes if outcome.answer]),
    )


def scores_response(answered: Answered) -> ScoresResponse:
    """The answer to a request for scores; raises as captions_response."""
    check_any_succeeded(answered.outcomes)
    clip = answered.model.captioner.clip
    return ScoresResponse(
        id=f"scores-{uuid4().hex}",
        scorer=ScorerRef(name=clip.name, revision=clip.revision),
        results=[_scores_result(index, outcome) for index, outcome in enumerate(answered.outcomes)],
        timing=_timing(answered, [outcome.scores.timings for outcome in answered.outcomes if outcome.scores]),
    )


def check_any_succeeded(outcomes: Sequence[ImageOutcome]) -> None:
    """Raises a ServiceError of the first image's kind when none of the images succeeded."""
    if all(outcome.error for outcome in outcomes):
        raise _none_succeeded(outcomes)


def _none_succeeded(outcomes: Sequence[ImageOutcome]) -> ServiceError:
    errors = [outcome.error for outcome in outcomes if outcome.error]
    first = errors[0]
    if len(errors) == 1:
        return first
    return type(first)(
        f"none of the {len(errors)} images could be used; the first: {first.detail}",
        retry_after_s=first.retry_after_s,
        errors=[problem_of(error).model_dump() for error in errors],
    )


def _result(index: int, outcome: ImageOutcome) -> ImageCaptionsResult:
    return ImageCaptionsResult(
        index=index,
        file_name=outcome.file_name,
        captions=[caption_of(scored) for scored in outcome.answer.captions] if outcome.answer else [],
        image=image_info(outcome.image) if outcome.image else None,
        warnings=list(outcome.image.warnings) if outcome.image else [],
        error=problem_of(outcome.error) if outcome.error else None,
    )


def _scores_result(index: int, outcome: ImageOutcome) -> ImageScoresResult:
    return ImageScoresResult(
        index=index,
        file_name=outcome.file_name,
        scores=[_score_of(one) for one in outcome.scores.scores] if outcome.scores else [],
        image=image_info(outcome.image) if outcome.image else None,
        warnings=list(outcome.image.warnings) if outcome.image else [],
        error=problem_of(outcome.error) if outcome.error else None,
    )


def _score_of(one: TextScore) -> Score:
    return Score(
        text=one.text, clip_similarity=round(one.clip_similarity, 4), clip_score=round(one.clip_score, 4)
    )


def _timing(answered: Answered, stages: Sequence[StageTimings]) -> Timing:
    return Timing(
        body_ms=_ms(answered.body_s),
        read_ms=_ms(max(outcome.read_s for outcome in answered.outcomes)),
        queue_ms=_slowest(stages, "queue_s"),
        encode_ms=_slowest(stages, "encode_s"),
        decode_ms=_slowest(stages, "decode_s"),
        score_ms=_slowest(stages, "score_s"),
        total_ms=_ms(answered.total_s),
    )


def _slowest(stages: Sequence[StageTimings], name: str) -> float:
    return _ms(max(getattr(stage, name) for stage in stages))


def _ms(seconds: float) -> float:
    return round(1000 * seconds, 2)
