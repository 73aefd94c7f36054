"""The model as Ollama's /api/tags and /api/show describe one."""

from typing import Any

from pydantic import BaseModel, ConfigDict

from service.registry import ServedModel


class ModelDetails(BaseModel):
    parent_model: str
    format: str
    family: str
    families: list[str]
    parameter_size: str
    quantization_level: str


class ModelTag(BaseModel):
    """A model in Ollama's list."""

    name: str
    model: str
    modified_at: str
    size: int
    digest: str
    details: ModelDetails


class ModelTags(BaseModel):
    """Ollama's list of models."""

    models: list[ModelTag]


class ShowRequest(BaseModel):
    """A request to /api/show."""

    model_config = ConfigDict(extra="allow")

    model: str | None = None
    name: str | None = None


class ShownModel(BaseModel):
    """Ollama's description of a model; `license` is our model card."""

    license: str
    modelfile: str
    parameters: str
    template: str
    details: ModelDetails
    model_info: dict[str, Any]
    capabilities: list[str]
    modified_at: str


def tag_of(model: ServedModel) -> ModelTag:
    """The model as an entry of the list."""
    parameters = list(model.captioner.parameters())
    return ModelTag(
        name=model.id,
        model=model.id,
        modified_at=_modified(model),
        size=sum(one.numel() * one.element_size() for one in parameters),
        digest=f"sha256:{model.manifest.weights_sha256}",
        details=_details(model),
    )


def shown(model: ServedModel) -> ShownModel:
    """The model in full."""
    config = model.manifest.config
    return ShownModel(
        license=model.card,
        modelfile=f"FROM {model.id}",
        parameters="",
        template="",
        details=_details(model),
        model_info={
            "general.architecture": "semicap",
            "general.basename": model.name,
            "general.parameter_count": _num_parameters(model),
            "semicap.context_length": config.max_tokens,
            "semicap.embedding_length": config.decoder.width,
            "semicap.block_count": config.decoder.layers,
        },
        capabilities=["completion", "vision"],
        modified_at=_modified(model),
    )


def _details(model: ServedModel) -> ModelDetails:
    dtype = str(next(model.captioner.parameters()).dtype).removeprefix("torch.")
    return ModelDetails(
        parent_model=model.manifest.provenance.parent or "",
        format="safetensors",
        family="semicap",
        families=["semicap"],
        parameter_size=f"{_num_parameters(model) / 1e6:.1f}M",
        quantization_level={"float32": "F32", "float16": "F16", "bfloat16": "BF16"}.get(dtype, dtype),
    )


def _num_parameters(model: ServedModel) -> int:
    return sum(one.numel() for one in model.captioner.parameters())


def _modified(model: ServedModel) -> str:
    return model.created.isoformat().replace("+00:00", "Z")
