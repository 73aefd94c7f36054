"""Caption options from text (query, form, environment) and from JSON, and their JSON schema."""

import reprlib
from collections.abc import Mapping
from dataclasses import fields
from difflib import get_close_matches
from types import MappingProxyType
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from models.generation import OptionError
from service.engine.options import CaptionOptions
from service.errors import InvalidOptionError, UnknownOptionError
from service.problems import in_unicode

OPTION_NAMES = tuple(field.name for field in fields(CaptionOptions))

_HINTS = get_type_hints(CaptionOptions)
_EXPECTED = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


def options_from_text(values: Mapping[str, str]) -> CaptionOptions:
    """The options of a query string or a form.

    Raises:
        UnknownOptionError, InvalidOptionError: naming the option, and the nearest known one.
    """
    return _build({name: _read(name, value, as_text=True) for name, value in values.items()})


def options_from_json(
    values: Mapping[str, Any], *, query: Mapping[str, str] = MappingProxyType({})
) -> CaptionOptions:
    """The options of a JSON object, in which a number in quotes is not a number. Raises as options_from_text.

    Args:
        query: options as text that stand beside it; the JSON object's own win.
    """
    texts = {name: _read(name, value, as_text=True) for name, value in query.items()}
    return _build(texts | {name: _read(name, value, as_text=False) for name, value in values.items()})


def unknown_option(name: str) -> UnknownOptionError:
    """The error for an option that does not exist, with the nearest one that does."""
    detail, extensions = unknown_name(name, OPTION_NAMES, kind="option")
    return UnknownOptionError(detail, option=name[:100], **extensions)


def unknown_name(name: str, known: tuple[str, ...], *, kind: str) -> tuple[str, dict[str, Any]]:
    """What to say of a name that does not exist: in words, and the nearest one as `did_you_mean`."""
    shown = reprlib.repr(name)
    nearest = get_close_matches(name.lower(), known, n=1)
    if nearest:
        return f"there is no {kind} {shown}; did you mean {nearest[0]!r}?", {"did_you_mean": nearest[0]}
    return f"there is no {kind} {shown}; there are {', '.join(known)}", {}


def invalid_option(error: OptionError) -> InvalidOptionError:
    """The error for a value outside its limits."""
    return InvalidOptionError(
        f"{error.name} is {reprlib.repr(error.value)}; it must be {error.limit}", option=error.name
    )


def options_schema() -> dict[str, dict[str, Any]]:
    """JSON schema of each option, by name."""
    return {
        field.name: _schema(field.name, field.default, field.metadata) for field in fields(CaptionOptions)
    }


def _build(values: dict[str, Any]) -> CaptionOptions:
    try:
        return CaptionOptions(**values)
    except OptionError as error:
        raise invalid_option(error) from error


def _read(name: str, value: Any, *, as_text: bool) -> Any:
    if name not in _HINTS:
        raise unknown_option(name)
    adapter: TypeAdapter[Any] = TypeAdapter(_HINTS[name])
    try:
        read = adapter.validate_strings(value) if as_text else adapter.validate_python(value, strict=True)
    except ValidationError as error:
        raise invalid_option(OptionError(name, value, _expected(name))) from error
    if isinstance(read, str) and in_unicode(read) != read:
        raise invalid_option(OptionError(name, value, "text without halves of characters (lone surrogates)"))
    return read


def _expected(name: str) -> str:
    metadata = next(field.metadata for field in fields(CaptionOptions) if field.name == name)
    if "choices" in metadata:
        return "one of " + ", ".join(metadata["choices"])
    kind = next(text for type_, text in _EXPECTED.items() if type_ in (_HINTS[name], *_parts(name)))
    return (
        f"{kind} between {metadata['minimum']} and {metadata['maximum']}" if "minimum" in metadata else kind
    )


def _parts(name: str) -> tuple[Any, ...]:
    return getattr(_HINTS[name], "__args__", ())


def _schema(name: str, default: Any, metadata: Mapping[str, Any]) -> dict[str, Any]:
    schema = TypeAdapter(_HINTS[name]).json_schema()
    limits = {key: metadata[key] for key in ("minimum", "maximum") if key in metadata}
    target = next((part for part in schema.get("anyOf", ()) if part["type"] != "null"), schema)
    target.update(limits)
    return {**schema, "description": metadata["about"], "default": default}
