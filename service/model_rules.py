"""What may be done with a model version, as pure functions of the registry's state."""

from collections.abc import Iterable, Mapping
from typing import Any

from service.errors import (
    InvalidModelNameError,
    ModelGateError,
    ModelInUseError,
    ModelNotFoundError,
    NoEarlierModelError,
)
from service.model_versions import KEPT_HISTORY, MAX_ALIASES, NAME, RESERVED, ModelVersion, RegistryState


def check_name(name: str) -> None:
    """Raises InvalidModelNameError: not a name that a model or an alias can have."""
    if not NAME.fullmatch(name):
        raise InvalidModelNameError(
            f"{name[:130]!r} cannot name a model: letters, digits, '.', '_' and '-', at most 64, "
            "beginning with a letter or digit"
        )


def check_alias(alias: str, versions: Iterable[ModelVersion]) -> None:
    """Raises InvalidModelNameError: not a name, or one that means something already."""
    check_name(alias)
    if alias in RESERVED or any(alias in (one.name, one.version) for one in versions):
        raise InvalidModelNameError(f"{alias!r} has a meaning already; choose another alias")


def check_gate(version: ModelVersion) -> None:
    """Raises ModelGateError with the figures that failed."""
    if version.gate is None or version.gate["passed"]:
        return
    failed = [check for check in version.gate.get("checks", ()) if not check.get("passed")]
    figures = "; ".join(map(_figures, failed)) or str(version.gate.get("reason") or "it gives no reason")
    raise ModelGateError(
        f"{version.id} did not pass its gate: {figures}. An override activates it all the same",
        gate=version.gate,
    )


def activated(state: RegistryState, version: ModelVersion, *, shipped: str) -> RegistryState:
    """The state in which a version answers.

    Args:
        shipped: id of the version that answers when nothing is activated.

    Raises:
        ModelNotFoundError: it is being deleted.
    """
    _check_stays(state, version)
    if version.id == (state.active or shipped):
        return state
    history = (*state.history, state.active or shipped)[-KEPT_HISTORY:]
    return state.model_copy(update={"active": version.id, "history": history})


def rolled_back(state: RegistryState, versions: Mapping[str, ModelVersion]) -> RegistryState:
    """The state in which the version before answers; those that are gone are passed over.

    Args:
        versions: what is there, by id.

    Raises:
        NoEarlierModelError: nothing is left of what was active before.
    """
    history = state.history
    while history:
        *before, last = history
        history = tuple(before)
        if last in versions and last not in state.deleting and last != state.active:
            return state.model_copy(update={"active": last, "history": history})
    raise NoEarlierModelError("nothing that was active before this version is left; activate one by its id")


def with_alias(state: RegistryState, alias: str, version: ModelVersion) -> RegistryState:
    """The state in which an alias means a version; raises ModelNotFoundError, InvalidModelNameError."""
    _check_stays(state, version)
    aliases = {**state.aliases, alias: version.id}
    if len(aliases) > MAX_ALIASES:
        raise InvalidModelNameError(f"there are {MAX_ALIASES} aliases already; delete one first")
    return state.model_copy(update={"aliases": aliases})


def without_alias(state: RegistryState, alias: str) -> RegistryState:
    """The state without an alias; raises ModelNotFoundError: there is none."""
    if alias not in state.aliases:
        known = ", ".join(sorted(state.aliases)) or "none"
        raise ModelNotFoundError(f"there is no alias {alias[:64]!r}; there are: {known}")
    return state.model_copy(
        update={"aliases": {name: id for name, id in state.aliases.items() if name != alias}}
    )


def marked_for_deletion(
    state: RegistryState, version: ModelVersion, *, versions: Iterable[ModelVersion], used: Mapping[str, str]
) -> RegistryState:
    """The state in which a version is no longer there, while its files still are.

    Args:
        used: what else uses versions, in words, by id.

    Raises:
        ModelInUseError: it is in use itself, or it is the parent of one that is.
    """
    in_use = {**used, **{id: f"is what the alias {alias!r} means" for alias, id in state.aliases.items()}}
    if state.active is not None:
        in_use[state.active] = "is active"
    reason = "comes along with semicap" if version.origin == "shipped" else in_use.get(version.id)
    if reason is None:
        children = [one for one in versions if one.parent == version.version and one.id in in_use]
        reason = f"is the parent of {children[0].id}, which {in_use[children[0].id]}" if children else None
    if reason is not None:
        raise ModelInUseError(f"{version.id} {reason}: it cannot be deleted")
    if version.id in state.deleting:
        return state
    return state.model_copy(update={"deleting": (*state.deleting, version.id)})


def not_deleting(state: RegistryState, id: str) -> RegistryState:
    """The state in which a deletion is over."""
    return state.model_copy(update={"deleting": tuple(one for one in state.deleting if one != id)})


def _check_stays(state: RegistryState, version: ModelVersion) -> None:
    if version.id in state.deleting:
        raise ModelNotFoundError(f"{version.id} is being deleted")


def _figures(check: Mapping[str, Any]) -> str:
    figures = (
        f"{name} {check[name]:.4g}" for name in ("before", "after", "limit") if check.get(name) is not None
    )
    return f"{check.get('name', 'a check')}: {', '.join(figures)}"
