"""The model versions: which there are, and which one answers."""

import json
from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from service.api.dependencies import Parts, UseParts
from service.api.model_schemas import Activate, Alias, Gate, ModelDetail, ModelInfo, ModelLinks, ModelList
from service.api.responses import problem_responses
from service.api.schemas import ScorerRef
from service.errors import (
    InvalidModelNameError,
    InvalidRequestError,
    ModelConflictError,
    ModelGateError,
    ModelInUseError,
    ModelLoadError,
    ModelNotFoundError,
    ModelPinnedError,
    NoEarlierModelError,
    NotFoundError,
    StoppingError,
    StoreUnavailableError,
)
from service.model_versions import ModelVersion
from service.registry import CAPTION_LANGUAGE

router = APIRouter(prefix="/v1/models", tags=["models"])

_REPORT_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; sandbox"
"""A report has its pictures and its style in itself, and runs nothing."""

_ALWAYS = (StoppingError, StoreUnavailableError)
_READ = problem_responses(ModelNotFoundError, *_ALWAYS)
_CHANGE_ERRORS = (
    InvalidRequestError,
    ModelPinnedError,
    ModelConflictError,
    ModelLoadError,
    *_ALWAYS,
)


@router.get("", summary="List model versions", responses=problem_responses(*_ALWAYS))
def list_models(parts: UseParts) -> ModelList:
    return ModelList(data=[model_info(version, parts) for version in parts.models.versions()])


@router.get("/{model}", summary="One model version with its card", responses=_READ)
def get_model(model: str, parts: UseParts) -> ModelDetail:
    """By its id (`name:version`), a name (the newest version, but first the one that answers) or an alias."""
    version = parts.models.find(model)
    return ModelDetail(
        **model_info(version, parts).model_dump(),
        card=parts.models.card(version),
        embedding_numbers=version.embedding_numbers,
    )


@router.get(
    "/{model}/report",
    summary="What was measured of a version",
    responses=problem_responses(ModelNotFoundError, NotFoundError, *_ALWAYS),
)
def get_report(model: str, parts: UseParts) -> dict[str, Any]:
    """Before and after, as the fine-tuning job reported it."""
    version = parts.models.find(model)
    report: dict[str, Any] = json.loads(_there(parts.models.registry.report(version), version))
    return report


@router.get(
    "/{model}/report.html",
    summary="The same as a page",
    response_class=Response,
    responses=problem_responses(ModelNotFoundError, NotFoundError, *_ALWAYS)
    | {200: {"content": {"text/html": {}}}},
)
def get_report_page(model: str, parts: UseParts) -> Response:
    version = parts.models.find(model)
    page = _there(parts.models.registry.report_html(version), version)
    return Response(page, media_type="text/html", headers={"Content-Security-Policy": _REPORT_POLICY})


@router.post(
    "/{model}/activate",
    summary="Let a version answer",
    responses=problem_responses(ModelNotFoundError, ModelGateError, *_CHANGE_ERRORS),
)
def activate_model(model: str, parts: UseParts, asked: Activate | None = None) -> ModelInfo:
    """Loads it beside the one that answers, then takes its place; no request is dropped or waits.

    This answers when it is done here; other replicas follow within 5 s. A version that did not pass its gate
    needs `override`.
    """
    override = asked is not None and asked.override
    return model_info(parts.models.activate(model, override=override), parts)


@router.post(
    "/rollback",
    summary="Let the version before answer again",
    responses=problem_responses(NoEarlierModelError, *_CHANGE_ERRORS),
)
def rollback_model(parts: UseParts) -> ModelInfo:
    """One step back in the history of activations; again, and it is one step more."""
    return model_info(parts.models.rollback(), parts)


@router.delete(
    "/{model}",
    status_code=204,
    summary="Delete a version",
    responses=_READ | problem_responses(ModelInUseError, ModelConflictError),
)
def delete_model(model: str, parts: UseParts) -> None:
    """Never one in use: active, named by an alias or by a job that is not over, or the parent of such."""
    parts.models.delete(model)


@router.put(
    "/aliases/{alias}",
    summary="Let an alias mean a version",
    responses=_READ | problem_responses(InvalidModelNameError, InvalidRequestError, ModelConflictError),
)
def set_alias(alias: str, asked: Alias, parts: UseParts) -> ModelInfo:
    """From now on; it meant another one before, or nothing."""
    return model_info(parts.models.set_alias(alias, asked.model), parts)


@router.delete(
    "/aliases/{alias}",
    status_code=204,
    summary="Delete an alias",
    responses=_READ | problem_responses(ModelConflictError, InvalidRequestError),
)
def delete_alias(alias: str, parts: UseParts) -> None:
    parts.models.delete_alias(alias)


def model_info(version: ModelVersion, parts: Parts) -> ModelInfo:
    """What the list says of a model version."""
    name, revision = version.scorer
    here = f"/v1/models/{version.id}"
    return ModelInfo(
        id=version.id,
        created=int(version.created.timestamp()),
        name=version.name,
        version=version.version,
        is_active=version.id == parts.model.id,
        aliases=parts.models.aliases_of(version),
        origin=version.origin,
        stage=version.stage,
        step=version.step,
        parent=version.parent,
        job=version.job,
        gate=Gate.model_validate(version.gate) if version.gate else None,
        bytes=version.num_bytes,
        scorer=ScorerRef(name=name, revision=revision),
        language=CAPTION_LANGUAGE,
        links=ModelLinks(
            self=here,
            report=f"{here}/report" if version.has_report else None,
            report_html=f"{here}/report.html" if version.has_report else None,
        ),
    )


def _there(report: bytes | None, version: ModelVersion) -> bytes:
    if report is None:
        raise NotFoundError(f"nothing was measured of {version.id}: it has no report")
    return report
