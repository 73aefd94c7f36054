"""A caption and an image's facts as answers, jobs' results and caption files have them."""

from service.api.schemas import Caption, ImageInfo
from service.engine.results import ScoredCaption
from service.images import ImageFacts


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
