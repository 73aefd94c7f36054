"""Outcomes of images to the JSON answer, or to the problem when there is nothing else to answer."""

from collections.abc import Sequence
from uuid import uuid4

from service.api.schemas import (
    Caption,
    CaptionsResponse,
    ImageCaptionsResult,
    ImageInfo,
    ModelRef,
    ScorerRef,
    Timing,
)
from service.captioning import ImageOutcome
from service.engine.results import ScoredCaption, StageTimings
from service.errors import ServiceError
from service.images import ImageFacts
from service.problems import problem_of
from service.registry import ServedModel


def captions_response(
    outcomes: Sequence[ImageOutcome], *, model: ServedModel, body_s: float, total_s: float
) -> CaptionsResponse:
    """The answer to a request.

    Raises:
        ServiceError: of the first image's kind, when no image was captioned.
    """
    if all(outcome.error for outcome in outcomes):
        raise _none_captioned(outcomes)
    clip = model.captioner.clip
    return CaptionsResponse(
        id=f"cap-{uuid4().hex}",
        model=ModelRef(name=model.name, version=model.version),
        scorer=ScorerRef(name=clip.name, revision=clip.revision),
        results=[_result(index, outcome) for index, outcome in enumerate(outcomes)],
        timing=_timing(outcomes, body_s=body_s, total_s=total_s),
    )


def _none_captioned(outcomes: Sequence[ImageOutcome]) -> ServiceError:
    errors = [outcome.error for outcome in outcomes if outcome.error]
    first = errors[0]
    if len(errors) == 1:
        return first
    return type(first)(
        f"none of the {len(errors)} images was captioned; the first: {first.detail}",
        retry_after_s=first.retry_after_s,
        errors=[problem_of(error).model_dump() for error in errors],
    )


def caption_of(scored: ScoredCaption) -> Caption:
    """A caption as it goes over the wire."""
    return Caption(
        text=scored.text,
        clip_similarity=round(scored.clip_similarity, 4),
        clip_score=round(scored.clip_score, 4),
        log_likelihood=round(scored.log_likelihood, 4),
        num_tokens=scored.num_tokens,
        finish_reason=scored.finish_reason,
    )


def image_info(facts: ImageFacts) -> ImageInfo:
    """What an answer says of a posted image."""
    return ImageInfo(width=facts.width, height=facts.height, format=facts.format, sha256=facts.sha256)


def _result(index: int, outcome: ImageOutcome) -> ImageCaptionsResult:
    return ImageCaptionsResult(
        index=index,
        file_name=outcome.file_name,
        captions=[caption_of(scored) for scored in outcome.answer.captions] if outcome.answer else [],
        image=image_info(outcome.image) if outcome.image else None,
        warnings=list(outcome.image.warnings) if outcome.image else [],
        error=problem_of(outcome.error) if outcome.error else None,
    )


def _timing(outcomes: Sequence[ImageOutcome], *, body_s: float, total_s: float) -> Timing:
    stages = [outcome.answer.timings for outcome in outcomes if outcome.answer]
    return Timing(
        body_ms=_ms(body_s),
        read_ms=_ms(max(outcome.read_s for outcome in outcomes)),
        queue_ms=_slowest(stages, "queue_s"),
        encode_ms=_slowest(stages, "encode_s"),
        decode_ms=_slowest(stages, "decode_s"),
        score_ms=_slowest(stages, "score_s"),
        total_ms=_ms(total_s),
    )


def _slowest(stages: Sequence[StageTimings], name: str) -> float:
    return _ms(max(getattr(stage, name) for stage in stages))


def _ms(seconds: float) -> float:
    return round(1000 * seconds, 2)
