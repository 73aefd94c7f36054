"""The model versions that answer."""

from fastapi import APIRouter

from service.api.dependencies import UseParts
from service.api.responses import problem_responses
from service.api.schemas import ModelDetail, ModelInfo, ModelList, ScorerRef
from service.errors import ModelNotFoundError, StoppingError
from service.registry import CAPTION_LANGUAGE, ServedModel

router = APIRouter(prefix="/v1/models", tags=["models"])


@router.get("", summary="List model versions", responses=problem_responses(StoppingError))
async def list_models(parts: UseParts) -> ModelList:
    return ModelList(data=[model_info(parts.model)])


@router.get(
    "/{model}",
    summary="One model version with its card",
    responses=problem_responses(ModelNotFoundError, StoppingError),
)
async def get_model(model: str, parts: UseParts) -> ModelDetail:
    parts.model.check_asked_for(model)
    return ModelDetail(
        **model_info(parts.model).model_dump(),
        card=parts.model.card,
        embedding_numbers=parts.model.captioner.clip.embed_dim,
    )


def model_info(model: ServedModel) -> ModelInfo:
    """What the list says of a model version."""
    provenance, clip = model.manifest.provenance, model.captioner.clip
    return ModelInfo(
        id=model.id,
        created=int(model.created.timestamp()),
        name=model.name,
        version=model.version,
        is_active=True,
        stage=provenance.stage,
        step=provenance.step,
        parent=provenance.parent,
        scorer=ScorerRef(name=clip.name, revision=clip.revision),
        language=CAPTION_LANGUAGE,
    )
