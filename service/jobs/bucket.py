"""A prefix of a bucket with photos, as it lies there."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import PurePosixPath
from typing import Any

import obstore
from obstore.exceptions import BaseError, NotFoundError, PermissionDeniedError, UnauthenticatedError
from obstore.store import from_url

from models.photo_names import PHOTO_SUFFIXES
from service.errors import InvalidDatasetError, StoreUnavailableError
from service.jobs.documents import Item

_RETRY: Any = {"max_retries": 3, "retry_timeout": timedelta(seconds=30)}
_DENIED = (PermissionDeniedError, UnauthenticatedError)


class Bucket:
    """The objects below a prefix of a bucket."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._objects = from_url(uri, retry_config=_RETRY)

    def photos(self, *, most: int) -> Iterator[Item]:
        """What has a photo's name, in the order of the names; hidden files are left out.

        Raises:
            InvalidDatasetError: there are more than `most` objects, or the bucket may not be read.
            StoreUnavailableError: it does not answer.
        """
        found = []
        try:
            for batch in obstore.list(self._objects, chunk_size=1000):
                found += [_item(one) for one in batch]
                if len(found) > most:
                    raise InvalidDatasetError(f"{self.uri} has more than {most} objects; name a part of it")
        except (NotFoundError, *_DENIED) as error:
            raise InvalidDatasetError(f"{self.uri} cannot be read with this service's credentials") from error
        except BaseError as error:
            raise self._unavailable(error) from error
        yield from sorted((item for item in found if _is_photo(item.name)), key=lambda item: item.name)

    def read(self, name: str, *, max_bytes: int) -> bytes:
        """An object, or its first bytes, one more than `max_bytes`.

        Raises:
            OSError: it is gone, or may not be read.
            StoreUnavailableError: the bucket does not answer.
        """
        data = bytearray()
        try:
            for piece in obstore.get(self._objects, name).stream():
                data += piece
                if len(data) > max_bytes:
                    break
        except (NotFoundError, FileNotFoundError) as error:
            raise FileNotFoundError("it is not in the bucket any more") from error
        except _DENIED as error:
            raise PermissionError("the bucket does not let this service read it") from error
        except BaseError as error:
            raise self._unavailable(error) from error
        return bytes(data[: max_bytes + 1])

    def facts(self, name: str) -> list[int] | None:
        """Size and time of an object, as in its Item; None where there is none."""
        try:
            item = _item(obstore.head(self._objects, name))
        except (NotFoundError, FileNotFoundError, *_DENIED):
            return None
        except BaseError as error:
            raise self._unavailable(error) from error
        return [item.num_bytes, item.modified_ns or 0]

    def _unavailable(self, error: BaseError) -> StoreUnavailableError:
        return StoreUnavailableError(f"the bucket of {self.uri} does not answer: {type(error).__name__}")


def _item(meta: Any) -> Item:
    modified_ns = int(meta["last_modified"].timestamp() * 1_000_000) * 1000
    return Item(name=meta["path"], num_bytes=meta["size"], modified_ns=modified_ns)


def _is_photo(name: str) -> bool:
    path = PurePosixPath(name)
    return path.suffix.lower() in PHOTO_SUFFIXES and not any(part.startswith(".") for part in path.parts)
