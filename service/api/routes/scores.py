"""POST /v1/scores."""

from fastapi import APIRouter, Request

from service.api.answers import scores_response
from service.api.dependencies import UseParts
from service.api.exchange import exchange
from service.api.openapi import SCORES_BODY, SCORES_RESPONSES
from service.api.schemas import ScoresResponse
from service.api.score_inputs import read_score_request

router = APIRouter(tags=["captions"])


@router.post(
    "/v1/scores",
    summary="Compare images with texts",
    responses=SCORES_RESPONSES,
    openapi_extra={"requestBody": SCORES_BODY},
)
async def create_scores(request: Request, parts: UseParts) -> ScoresResponse:
    """CLIP's similarity of every image with every text, by the scorer that also ranks captions.

    A text beyond the scorer's context (about 70 words at most) is cut. An image that cannot be read is
    reported in its own result; when none can, the answer is the first one's problem.
    """
    with exchange(request, parts) as talk:
        asked = await talk.read(read_score_request)
        return scores_response(await talk.scores(asked.images, asked.texts))
