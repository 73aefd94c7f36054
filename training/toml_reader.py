"""Reads a frozen dataclass from TOML, reporting every mistake at once by its dotted key."""

import difflib
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

Config = TypeVar("Config")

_KIND_NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "a string"}


class TrainingConfigError(ValueError):
    """A configuration with mistakes; the message has one line for each of them."""

    def __init__(self, source: str, mistakes: Sequence[str]) -> None:
        self.mistakes = tuple(mistakes)
        plural = "mistake" if len(mistakes) == 1 else "mistakes"
        super().__init__("\n  ".join([f"{source}: {len(mistakes)} {plural}", *mistakes]))


Named = Literal["result", "file"]
"""What a path leads to: what another step made, below the folder of runs, or a file below the data root."""


def setting(
    default: Any = MISSING,
    doc: str = "",
    *,
    low: float | None = None,
    high: float | None = None,
    names: Named | None = None,
) -> Any:
    """A documented dataclass field, its value held between `low` and `high`; required without a default.

    Args:
        names: what its path, or each of its paths, must lead to before the step can start.
    """
    metadata = {"doc": doc, "low": low, "high": high, "names": names}
    if isinstance(default, dict):
        return field(default_factory=lambda: dict(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def part(kind: type[Any], doc: str = "", *, unread: Sequence[str] = (), **defaults: Any) -> Any:
    """A nested table; `defaults` are what this stage starts from instead of the table's own.

    Args:
        unread: the table's settings that nothing in this stage reads; only their defaults are taken.
    """
    metadata = {"doc": doc, "defaults": defaults, "unread": unread}
    return field(default_factory=lambda: kind(**defaults), metadata=metadata)


def read_config(kind: type[Config], path: Path, overrides: Sequence[str] = ()) -> Config:
    """The configuration in a TOML file, with `key.key=value` overrides laid over it.

    Raises:
        TrainingConfigError: every unknown key, wrong type and value out of range, in one message.
    """
    return config_from(kind, read_toml(path, overrides), source=str(path))


def read_toml(path: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The tables of a TOML file after the overrides."""
    try:
        values = tomllib.loads(path.read_text())
    except OSError as error:
        raise TrainingConfigError(str(path), [f"cannot be read: {error.strerror}"]) from error
    except tomllib.TOMLDecodeError as error:
        raise TrainingConfigError(str(path), [f"is not valid TOML: {error}"]) from error
    for override in overrides:
        _apply_override(values, override)
    return values


def config_from(kind: type[Config], values: Mapping[str, Any], *, source: str = "configuration") -> Config:
    """The dataclass that nested tables describe; raises as `read_config` does."""
    reader = _Reader(dotted_keys(kind))
    config: Config = reader.read_table(kind, values, prefix="", table={})
    if reader.mistakes:
        raise TrainingConfigError(source, reader.mistakes)
    return config


@dataclass(frozen=True)
class SettingLine:
    """One setting as the command line explains it."""

    key: str
    default: Any
    doc: str


def setting_lines(
    kind: type[Any], prefix: str = "", *, table: Mapping[str, Any] | None = None
) -> list[SettingLine]:
    """Every setting that a configuration reads with its default and its line of documentation.

    Args:
        table: what `part` says of a nested table.
    """
    hints, table = get_type_hints(kind), table or {}
    lines: list[SettingLine] = []
    for item in fields(kind):
        key = f"{prefix}{item.name}"
        if is_dataclass(hints[item.name]):
            lines += setting_lines(hints[item.name], f"{key}.", table=item.metadata)
        elif item.name not in table.get("unread", ()):
            default = _default(item, table)
            shown = "required" if default is MISSING else default
            lines.append(SettingLine(key, shown, item.metadata.get("doc", "")))
    return lines


def paths_named(
    config: Any, names: Named, prefix: str = "", *, unread: Sequence[str] = ()
) -> Iterator[tuple[str, str]]:
    """The dotted key and the path of every setting that names something, but for those that are empty."""
    for item in fields(config):
        key, value = f"{prefix}{item.name}", getattr(config, item.name)
        if is_dataclass(value):
            yield from paths_named(value, names, f"{key}.", unread=item.metadata.get("unread", ()))
        elif item.metadata.get("names") == names and item.name not in unread:
            yield from ((key, path) for path in ((value,) if isinstance(value, str) else value) if path)


def dotted_keys(kind: type[Any]) -> list[str]:
    """Every key a configuration knows, as `table.key`."""
    return [line.key for line in setting_lines(kind)]


def _default(item: Field[Any], table: Mapping[str, Any]) -> Any:
    """The value of a setting that is left out, MISSING if it is required; `table` is what `part` says."""
    if item.name in table.get("defaults", {}):
        return table["defaults"][item.name]
    return item.default_factory() if item.default_factory is not MISSING else item.default


def _apply_override(values: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key.strip():
        raise TrainingConfigError("--set", [f"{override!r} is not key=value, for example optim.lr=1e-4"])
    *tables, name = key.strip().split(".")
    for table in tables:
        values = values.setdefault(table, {})
        if not isinstance(values, dict):
            raise TrainingConfigError("--set", [f"{key}: {table} is a value, not a table"])
    try:
        values[name] = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        values[name] = text.strip()  # an unquoted word is meant as a string


class _Reader:
    """Reads tables; a setting with a mistake keeps its default, so that what follows is still looked at."""

    def __init__(self, known_keys: list[str]) -> None:
        self.mistakes: list[str] = []
        self._wrong_keys: list[str] = []
        self._known_keys = known_keys

    def read_table(self, kind: type[Any], values: Any, *, prefix: str, table: Mapping[str, Any]) -> Any:
        """The dataclass, or None where a required setting has no value; `table` is what `part` says of it."""
        if not isinstance(values, Mapping):
            self._add(prefix.rstrip("."), f" must be a table, not {values!r}")
            return None
        hints, items = get_type_hints(kind), {item.name: item for item in fields(kind)}
        for name in values:
            if name not in items:
                self.mistakes.append(self._unknown(prefix + name))
        read = {name: _default(item, table) for name, item in items.items()}
        for name, item in items.items():
            key = prefix + name
            value = self._read_value(hints[name], item, values[name], key=key) if name in values else None
            if name not in values and read[name] is MISSING:
                self._add(key, f" is missing: {item.metadata.get('doc', 'it has no default')}")
            elif name in table.get("unread", ()) and value not in (None, read[name]):
                self._add(key, f" is {value!r}, and nothing in this stage reads it: leave it out")
            elif value is not None:
                read[name] = value
        return None if MISSING in read.values() else self._build(kind, read, prefix)

    def _build(self, kind: type[Any], read: dict[str, Any], prefix: str) -> Any:
        try:
            return kind(**read)
        except ValueError as error:  # of __post_init__; its text begins with a setting of the table
            own = [key.removeprefix(prefix) for key in self._wrong_keys if key.startswith(prefix)]
            if not any(key in str(error) for key in own):  # else it is about the default of a wrong setting
                self.mistakes.append(f"{prefix}{error}")
            return None

    def _add(self, key: str, mistake: str) -> None:
        self._wrong_keys.append(key)
        self.mistakes.append(key + mistake)

    def _read_value(self, hint: Any, item: Field[Any], value: Any, *, key: str) -> Any:
        """The value as its type asks for, None if it cannot be."""
        if is_dataclass(hint):
            assert isinstance(hint, type)
            return self.read_table(hint, value, prefix=f"{key}.", table=item.metadata)
        try:
            read = _converted(hint, value)
        except TypeError as error:
            self._add(key, f" is {value!r}; it must be {error}")
            return None
        for number in read if isinstance(read, tuple) else [read]:
            self._check_range(number, item, key)
        return read

    def _check_range(self, value: Any, item: Field[Any], key: str) -> None:
        low, high = item.metadata.get("low"), item.metadata.get("high")
        if isinstance(value, bool) or not isinstance(value, int | float):
            return
        if (low is not None and not value >= low) or (high is not None and not value <= high):
            limits = f"at least {low}" if high is None else f"from {low} to {high}"
            self._add(key, f" is {value}; it must be {limits}")

    def _unknown(self, key: str) -> str:
        nearest = difflib.get_close_matches(key, self._known_keys, n=1, cutoff=0.5)
        tables = sorted({known.partition(".")[0] for known in self._known_keys if "." in known})
        nearest = difflib.get_close_matches(key, tables, n=1, cutoff=0.7) or nearest
        return f"{key} is not a setting" + (f"; did you mean {nearest[0]}?" if nearest else "")


def _converted(hint: Any, value: Any) -> Any:
    """The value as the type asks for; TypeError's text says what was wanted."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        if value not in arguments:
            raise TypeError(" or ".join(map(repr, arguments)))
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise TypeError(f"a list, each item {_KIND_NAMES[arguments[0]]}")
        return tuple(_converted(arguments[0], item) for item in value)
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise TypeError(f"a table, each value {_KIND_NAMES[arguments[1]]}")
        return {name: _converted(arguments[1], item) for name, item in value.items()}
    if type(None) in arguments:
        return _converted(next(kind for kind in arguments if kind is not type(None)), value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise TypeError(_KIND_NAMES[hint])
    return value
