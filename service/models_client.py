"""What `semicap models` asks: a running service, or the registry in the store itself."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

from models.manifest import CheckpointError
from service.errors import CommandError
from service.jobs.client import JobClient, quoted
from service.model_registry import ModelRegistry
from service.model_versions import ModelVersion


@dataclass(frozen=True)
class Row:
    """What the command line says of a version."""

    id: str
    origin: str
    created: datetime
    num_bytes: int
    is_active: bool
    has_passed: bool
    parent: str | None
    aliases: tuple[str, ...]

    def __str__(self) -> str:
        marks = [f"alias {alias}" for alias in self.aliases]
        marks += [] if self.has_passed else ["refused by its gate"]
        return (
            f"{'*' if self.is_active else ' '} {self.id}  {self.origin} {self.created:%Y-%m-%d %H:%M} UTC  "
            f"{self.num_bytes / 1e6:.0f} MB" + "".join(f"  {mark}" for mark in marks)
        )


class Models(Protocol):
    """Every method raises CommandError or ServiceError."""

    def rows(self) -> list[Row]: ...

    def describe(self, wanted: str) -> tuple[dict[str, Any], str]:
        """What is known of a version, and its card."""

    def activate(self, wanted: str, *, override: bool) -> str:
        """Id of the version that answers now."""

    def rollback(self) -> str: ...

    def delete(self, wanted: str) -> None: ...

    def set_alias(self, alias: str, wanted: str) -> str: ...

    def delete_alias(self, alias: str) -> None: ...


class ServedModels:
    """The models of a running service."""

    def __init__(self, client: JobClient) -> None:
        self._client = client

    def rows(self) -> list[Row]:
        return [
            Row(
                id=one["id"],
                origin=one["origin"],
                created=datetime.fromtimestamp(one["created"], UTC),
                num_bytes=one["bytes"],
                is_active=one["is_active"],
                has_passed=one["gate"] is None or one["gate"]["passed"],
                parent=one["parent"],
                aliases=tuple(one["aliases"]),
            )
            for one in self._client.ask("GET", "/v1/models")["data"]
        ]

    def describe(self, wanted: str) -> tuple[dict[str, Any], str]:
        found = self._client.ask("GET", _address(wanted))
        card = found.pop("card")
        return found, card

    def activate(self, wanted: str, *, override: bool) -> str:
        return str(self._send("POST", f"{_address(wanted)}/activate", {"override": override})["id"])

    def rollback(self) -> str:
        return str(self._send("POST", "/v1/models/rollback", {})["id"])

    def delete(self, wanted: str) -> None:
        self._client.send("DELETE", _address(wanted))

    def set_alias(self, alias: str, wanted: str) -> str:
        answer = self._send("PUT", f"/v1/models/aliases/{quoted(alias)}", {"model": wanted})
        return str(answer["id"])

    def delete_alias(self, alias: str) -> None:
        self._client.send("DELETE", f"/v1/models/aliases/{quoted(alias)}")

    def _send(self, method: str, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        return self._client.ask(
            method, path, body=json.dumps(body).encode(), headers={"Content-Type": "application/json"}
        )


class StoredModels:
    """The models of a store; services on it follow what is changed here."""

    def __init__(self, registry: ModelRegistry) -> None:
        self._registry = registry

    def rows(self) -> list[Row]:
        state, active = self._registry.state(), self._registry.active_id()
        return [
            Row(
                id=one.id,
                origin=one.origin,
                created=one.created,
                num_bytes=one.num_bytes,
                is_active=one.id == active,
                has_passed=one.gate is None or bool(one.gate["passed"]),
                parent=one.parent,
                aliases=tuple(sorted(alias for alias, id in state.aliases.items() if id == one.id)),
            )
            for one in self._registry.versions()
        ]

    def describe(self, wanted: str) -> tuple[dict[str, Any], str]:
        version = self._registry.find(wanted)
        facts = version.model_dump(mode="json", exclude={"files", "place"}, exclude_none=True)
        return {"id": version.id, "folder": str(self._folder(version)), **facts}, self._registry.card(version)

    def activate(self, wanted: str, *, override: bool) -> str:
        version = self._registry.find(wanted)
        self._folder(version)
        return self._registry.activate(version.id, override=override).model

    def rollback(self) -> str:
        return self._registry.rollback().model

    def delete(self, wanted: str) -> None:
        self._registry.delete(wanted)
        self._registry.sweep()

    def set_alias(self, alias: str, wanted: str) -> str:
        return self._registry.set_alias(alias, wanted).id

    def delete_alias(self, alias: str) -> None:
        self._registry.delete_alias(alias)

    def _folder(self, version: ModelVersion) -> object:
        """Where it lies, whole; raises CommandError."""
        try:
            return self._registry.folder(version)
        except CheckpointError as error:
            raise CommandError(str(error)) from error


def _address(wanted: str) -> str:
    return f"/v1/models/{quoted(wanted)}"
