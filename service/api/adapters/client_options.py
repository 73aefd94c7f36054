"""Caption options of clients made for another service: what means the same is taken, within limits."""

from collections.abc import Mapping
from dataclasses import fields
from math import isnan
from typing import Any

from service.engine.options import CaptionOptions
from service.errors import ModelNotFoundError
from service.model_service import ModelService
from service.option_reading import OPTION_NAMES, options_from_json
from service.registry import ServedModel

PASTE_OPTIONS: Mapping[str, Any] = {
    "one_sentence": True,
    "sentence_case": True,
    "final_stop": "add",
}
"""What these clients get where they do not say otherwise: one clean sentence that can be pasted."""

_SHARED = ("temperature", "top_k", "top_p", "seed", "max_tokens")
_LIMITS = {field.name: field.metadata for field in fields(CaptionOptions) if field.name in _SHARED}
_WHOLE = ("top_k", "seed", "max_tokens")


def client_options(given: Mapping[str, Any]) -> CaptionOptions:
    """Caption options among the fields of a foreign request; its other fields are ignored.

    Options that the other protocol knows too are brought within this service's limits: a client that asks for
    4,000 tokens or temperature 0 is not refused.

    Raises:
        InvalidOptionError: an option of the wrong kind, or one that only this service has outside its limits.
    """
    known = {name: given[name] for name in OPTION_NAMES if given.get(name) is not None and name != "model"}
    return options_from_json(
        {**PASTE_OPTIONS, **{name: _within(name, value) for name, value in known.items()}}
    )


def check_client_model(models: ModelService, model: ServedModel, wanted: str | None) -> None:
    """Refuses a version of ours that does not answer; a foreign name (gpt-4o, llava) means the model we have.

    Raises:
        ModelNotFoundError: it is a name or an alias of such a version.
    """
    name = models.meant((wanted or "").removesuffix(":latest")) or ""
    if name.partition(":")[0] == model.name or models.is_known(name):
        model.check_asked_for(name)


def check_own_model(model: ServedModel, wanted: str | None) -> None:
    """Refuses every name but those of the model that answers; raises ModelNotFoundError."""
    if not wanted:
        raise ModelNotFoundError(f"name a model; this service has {model.id}")
    model.check_asked_for(wanted.removesuffix(":latest"))


def _within(name: str, value: Any) -> Any:
    if name not in _LIMITS or isinstance(value, bool) or not isinstance(value, (int, float)) or isnan(value):
        return value
    low, high = _LIMITS[name]["minimum"], _LIMITS[name]["maximum"]
    nearest = min(max(value, low), high)
    return int(nearest) if name in _WHOLE and nearest == int(nearest) else nearest
