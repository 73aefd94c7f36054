"""Prefixes of buckets as datasets: only those that the operator names; nothing is copied.

A caller names a bucket, never a server: where s3:// leads, and with which credentials, is the environment's.
"""

from collections.abc import Sequence

from service.bucket_uri import SCHEMES, plain_uri
from service.errors import BucketNotAllowedError
from service.jobs.bucket import Bucket
from service.jobs.datasets import DatasetWriter
from service.jobs.documents import Dataset
from service.jobs.store import ArtifactStore
from service.jobs.uploads import MAX_MEMBERS_PER_ITEM


def dataset_of_bucket(uri: str, *, store: ArtifactStore, roots: Sequence[str], max_items: int) -> Dataset:
    """A dataset of the photos below a prefix, sorted by name.

    Raises:
        BucketNotAllowedError: it is not below one of `roots`.
        InvalidDatasetError: it has no or too many photos, or may not be read.
        StoreUnavailableError: the bucket does not answer.
    """
    place = allowed_uri(uri, roots)
    writer = DatasetWriter(store, max_items=max_items, uri=place)
    for item in Bucket(place).photos(most=MAX_MEMBERS_PER_ITEM * max_items):
        writer.add(item)
    return writer.finish()


def allowed_uri(uri: str, roots: Sequence[str]) -> str:
    """The prefix in its plain spelling. Raises BucketNotAllowedError."""
    place = plain_uri(uri)
    if place is None or not any(f"{place}/".startswith(f"{plain_uri(root)}/") for root in roots):
        raise BucketNotAllowedError(
            f"{uri[:200]!r} is not below a prefix of SEMICAP_DATASET_BUCKETS ({'://, '.join(SCHEMES)}://); "
            "the operator sets it, or upload the photos"
        )
    return place
