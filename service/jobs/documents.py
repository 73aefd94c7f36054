"""What the store keeps as JSON: datasets, jobs, attempts and how they ended."""

from datetime import UTC, datetime
from typing import Annotated, Any, Literal
from uuid import uuid4

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from service.problems import Problem

JobState = Literal["queued", "running", "paused", "succeeded", "failed", "canceled"]
Stop = Literal["canceled", "paused"]
OutputKind = Literal["txt", "csv", "metadata", "xmp", "webdataset", "caption"]
Sidecar = Literal["txt", "caption"]
JobKind = Literal["captions", "finetune"]
Policy = Literal["skip", "append", "prepend", "overwrite-machine", "overwrite"]

MOST_CHUNK_ITEMS = 1024
CHUNKS_TO_SHARE = 64
"""A job is cut into so many chunks before they get any larger: that many workers can share it."""

ENDED: tuple[JobState, ...] = ("succeeded", "failed", "canceled")


Duplicates = Literal["ignore", "report", "caption-once"]

DUPLICATE_SIMILARITY = 0.95
"""Cosine of two photos' CLIP embeddings from which on they are near-duplicates (docs/jobs.md has figures)."""


class Document(BaseModel):
    """A stored document; one of a later version keeps what this version does not know to itself."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    def to_bytes(self) -> bytes:
        return self.model_dump_json(exclude_none=True).encode()


class Item(Document):
    """One photo of a dataset.

    Args:
        name: its path in the upload or below the dataset's folder.
        sha256: of its bytes, where the store holds them.
        modified_ns: of the file, where it lies in a server folder or a bucket.
    """

    name: str
    num_bytes: int
    sha256: str | None = None
    modified_ns: int | None = None


class Rejected(Document):
    """A file of an upload that did not become an item."""

    name: str
    problem: Problem


class Dataset(Document):
    """Photos that jobs can run on.

    Args:
        folder: the server folder that holds the files, where one does.
        uri: the prefix of the bucket that holds them, where one does; else the store does.
        rejected: the first of what was left out; `num_rejected` counts all.
    """

    id: str
    created: datetime
    num_items: int
    num_bytes: int
    folder: str | None = None
    uri: str | None = None
    num_rejected: int = 0
    rejected: tuple[Rejected, ...] = ()


class Webhook(Document):
    """Who is told when a job ends."""

    url: str


class CaptionJob(Document):
    """A bulk captioning job as it was asked for."""

    id: str
    kind: Literal["captions"] = "captions"
    created: datetime
    dataset: str
    num_items: int
    chunk_items: int
    options: dict[str, Any] = Field(default_factory=dict)
    outputs: tuple[OutputKind, ...] = ()
    writes_to_folder: bool = False
    sidecar: Sidecar = "txt"
    policy: Policy = "skip"
    duplicates: Duplicates = "ignore"
    duplicate_similarity: float = DUPLICATE_SIMILARITY
    webhook: Webhook | None = None

    def chunks_for(self, num_items: int) -> int:
        """Parts that these many items are done in."""
        return chunks_of(num_items, self.chunk_items)


class FinetuneJob(Document):
    """A fine-tuning job as it was asked for; its photos are done in one part.

    Args:
        base: version that it starts from, as name:version.
        settings: as of service.finetuning.settings, all of them.
    """

    id: str
    kind: Literal["finetune"] = "finetune"
    created: datetime
    dataset: str
    num_items: int
    base: str
    replay_dataset: str | None = None
    settings: dict[str, Any] = Field(default_factory=dict)
    auto_activate: bool = False
    webhook: Webhook | None = None

    def chunks_for(self, num_items: int) -> int:
        return 1


Job = CaptionJob | FinetuneJob
JOB: TypeAdapter[Job] = TypeAdapter(Annotated[Job, Field(discriminator="kind")])


class Counts(Document):
    """Items by outcome."""

    done: int = 0
    failed: int = 0
    skipped: int = 0

    @property
    def total(self) -> int:
        return self.done + self.failed + self.skipped

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(
            done=self.done + other.done,
            failed=self.failed + other.failed,
            skipped=self.skipped + other.skipped,
        )


class Attempt(Document):
    """One run over all items of a job, or over those that failed before.

    Args:
        items: their numbers; None means all.
        settled: counts of the items that this attempt leaves as they are.
    """

    number: int
    created: datetime
    first_chunk: int = 0
    num_chunks: int
    items: tuple[int, ...] | None = None
    settled: Counts = Counts()

    @property
    def chunks(self) -> range:
        return range(self.first_chunk, self.first_chunk + self.num_chunks)

    def items_of(self, chunk: int, job: CaptionJob) -> list[int]:
        """Numbers of the items in one of this attempt's chunks."""
        begin = (chunk - self.first_chunk) * job.chunk_items
        end = begin + job.chunk_items
        return list(range(begin, min(end, job.num_items)) if self.items is None else self.items[begin:end])


class Outcome(Document):
    """How an attempt ended."""

    attempt: int
    state: JobState
    counts: Counts
    started: datetime | None = None
    ended: datetime
    error: str | None = None


class Delivery(Document):
    """How far the webhook of an attempt is.

    Args:
        due: when to try next; None when it is over.
    """

    attempt: int
    tries: int = 0
    due: datetime | None = None
    delivered: bool = False
    answer: str = ""


class ItemResult(Document):
    """What became of one item; a chunk's file has one a line."""

    model_config = ConfigDict(frozen=True, extra="allow")

    item: int
    file_name: str
    outcome: Literal["captioned", "used", "failed", "skipped"]


class ModelMade(Document):
    """The version that a fine-tuning job has made.

    Args:
        gate: as the registry keeps it.
    """

    id: str
    gate: dict[str, Any]
    is_activated: bool = False


Phase = Literal["preparing", "training", "reporting", "publishing"]


class TrainingRecord(Document):
    """How far a fine-tuning attempt is, and what came of it.

    Args:
        curve: points of some steps, each with `step` and figures.
    """

    attempt: int
    phase: Phase = "preparing"
    step: int = 0
    steps: int
    seconds_left: float | None = None
    curve: tuple[dict[str, float], ...] = ()
    model: ModelMade | None = None
    note: str | None = None
    error: str | None = None


def now() -> datetime:
    return datetime.now(UTC)


def new_id(prefix: str) -> str:
    """An identifier that sorts by the time of its making, to the millisecond."""
    return f"{prefix}-{int(now().timestamp() * 1000):012x}{uuid4().hex[:12]}"


def made_at(identifier: str) -> float:
    """When new_id made an identifier, in seconds since 1970."""
    return int(identifier.rpartition("-")[2][:12], 16) / 1000


def chunk_items_for(num_items: int, *, least: int) -> int:
    """Photos of one chunk: a large job has large ones, as an engine runs empty at the end of each."""
    return max(least, min(MOST_CHUNK_ITEMS, num_items // CHUNKS_TO_SHARE))


def chunks_of(num_items: int, chunk_items: int) -> int:
    """Chunks that hold `num_items`."""
    return -(-num_items // chunk_items)
