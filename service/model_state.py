"""Which version is active, what came before, and the aliases: a series of small documents in the store."""

from collections.abc import Callable

from service.errors import ModelConflictError
from service.jobs.documents import now
from service.jobs.store import ArtifactStore
from service.model_versions import RegistryState

KEPT_STATES = 20
"""Documents that are kept; a reader never needs more than the last one."""

_TRIES = 20
_PREFIX = "models/state"


class StateSeries:
    """Document N + 1 is made by whoever creates it first: two changes at once cannot hide one another."""

    def __init__(self, store: ArtifactStore) -> None:
        self._store = store

    def read(self) -> RegistryState:
        """The state that is true now."""
        for _ in range(_TRIES):
            keys = self._store.keys(_PREFIX)
            if not keys:
                return RegistryState()
            found = self._store.get(keys[-1])
            if found is not None:  # else it was removed as too old since
                return RegistryState.model_validate_json(found)
        raise ModelConflictError("the models change too fast to be read; try again")

    def change(self, make: Callable[[RegistryState], RegistryState]) -> RegistryState:
        """Puts what `make` makes of the state in its place; it is asked again when another was faster."""
        for _ in range(_TRIES):
            state = self.read()
            changed = make(state)
            if changed == state:
                return state
            following = changed.model_copy(update={"number": state.number + 1, "changed": now()})
            if self._store.create(_key(following.number), following.to_bytes()):
                self._drop_old()
                return following
        raise ModelConflictError("the models are changed by too many at once; try again")

    def _drop_old(self) -> None:
        self._store.delete(self._store.keys(_PREFIX)[:-KEPT_STATES])


def _key(number: int) -> str:
    return f"{_PREFIX}/{number:012d}.json"
