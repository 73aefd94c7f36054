"""Every setting of the service, read from the environment (SEMICAP_...)."""

import os
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from models.manifest import SECOND_SCORER
from service.broker_url import check_broker_url
from service.bucket_uri import plain_uri
from service.errors import CommandError
from service.rate_limits import check_rate

MEBIBYTE = 1024 * 1024
MEGAPIXEL = 1_000_000
PILLOW_BOMB_LIMIT = 178_956_970
"""Pixels above which Pillow itself refuses to open an image."""


class Settings(BaseSettings):
    """What an operator can change; each field is an environment variable with the prefix SEMICAP_."""

    model_config = SettingsConfigDict(env_prefix="SEMICAP_", frozen=True, hide_input_in_errors=True)

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8000, ge=0, le=65535, description="TCP port to listen on; 0 lets the system choose.")
    open_access: bool = Field(
        False, description="Whether others than this machine may be answered while there are no API keys."
    )
    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Origins whose pages may call the API, by commas (https://photos.example.org); * is all.",
    )
    hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Names by which clients call the service, by commas, beside IP addresses, localhost and "
        "names without a dot; others are refused while there are no keys. * is any, so is none where "
        "open_access is set.",
    )
    trusted_proxies: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Addresses or networks of proxies, by commas, whose X-Forwarded-For is believed; "
        "without it all clients behind a proxy share one rate limit.",
    )
    rate_limit: str | None = Field(
        None,
        description="Requests of one API key, or of one client address while there are no keys: "
        "'100/minute', '5/second;1000/hour'; unset is no limit.",
    )
    open_metrics: bool = Field(True, description="Whether /metrics needs no API key.")
    data_dir: Path = Field(Path("semicap-data"), description="Folder for everything the service stores.")
    checkpoint: Path | None = Field(
        None,
        description="The one model that answers, whatever is activated: a checkpoint folder, or a name, "
        "version or alias of semicap models list; unset means the version that is active there.",
    )
    device: str = Field("auto", description="Where the model runs: auto, cpu, cuda, cuda:1, mps.")

    precision: Literal["auto", "fp32", "bf16", "int8"] = Field(
        "auto",
        description="Number format of the weights on a CPU: auto (int8 where it is measured to be faster), "
        "fp32, int8, or bf16 (fastest in large batches, on which captions then depend: docs/performance.md).",
    )

    max_images_per_request: int = Field(64, ge=1, le=1024, description="Images in one request.")
    max_image_bytes: int = Field(20 * MEBIBYTE, ge=1, description="Bytes of one encoded image.")
    max_image_pixels: int = Field(
        50 * MEGAPIXEL,
        ge=1,
        le=PILLOW_BOMB_LIMIT,
        description="Pixels (width x height) of one image, checked before decoding, which takes up to "
        "16 bytes of memory for each pixel in each decode thread.",
    )
    max_request_bytes: int = Field(50 * MEBIBYTE, ge=1, description="Bytes of one request body.")
    max_body_bytes_in_flight: int = Field(
        512 * MEBIBYTE, ge=1, description="Bytes of all request bodies in flight; beyond it requests get 429."
    )

    fetch_urls: bool = Field(
        False, description="Whether the `url` of an image is fetched: https, public addresses only."
    )
    fetch_timeout_s: float = Field(
        10.0,
        gt=0,
        description="Seconds for one URL, redirects and all; its bytes count as the request's body.",
    )

    max_queued_images: int = Field(
        256,
        ge=1,
        description="Images waiting for the engine or in it, a request counts as one until its body is read; "
        "beyond it requests get 429.",
    )
    repeated_images: int = Field(
        1024,
        ge=0,
        description="Images whose answers are kept: one that comes again, byte for byte and with the same "
        "options, is not computed again; 0 computes each. Samples without a seed always are.",
    )
    retry_after_s: float = Field(1.0, ge=0, description="Seconds that a 429 asks a client to wait.")
    body_timeout_s: float = Field(60.0, gt=0, description="Seconds in which a request body has to arrive.")
    deadline_s: float = Field(
        60.0, gt=0, description="Seconds from the whole body to the answer; beyond it the answer is 504."
    )
    drain_s: float = Field(30.0, ge=0, description="Seconds that requests get to finish on SIGTERM.")
    decode_threads: int = Field(2, ge=1, le=64, description="Threads that decode images.")

    tracing: bool = Field(
        False, description="Whether requests are traced by OpenTelemetry (extra otel; OTEL_... variables)."
    )
    redis_url: str | None = Field(
        None,
        repr=False,
        pattern=r"^(redis|rediss|unix)://",
        description="Broker of jobs and of shared rates: redis://, rediss:// or unix://; unset means the one "
        "that semicap serve keeps in data_dir.",
    )
    workers: int = Field(1, ge=0, le=64, description="Worker processes that semicap serve starts.")
    finetune_workers: int = Field(
        1,
        ge=0,
        le=16,
        description="Worker processes that semicap serve starts for fine-tuning jobs; 0 leaves those to the "
        "others, which caption nothing meanwhile.",
    )
    finetune_threads: int = Field(
        0, ge=0, le=1024, description="Threads that a fine-tuning computes with; 0 means one for each core."
    )
    finetune_save_minutes: float = Field(
        2.0, gt=0, description="Minutes of training between two saved states; a killed one costs that much."
    )
    second_scorer: Path = Field(
        SECOND_SCORER, description="Folder of a CLIP that fine-tuning is judged by and never trained against."
    )
    gate_score_percent: float = Field(
        1.0, ge=0, description="Gate: loss of the second scorer's CLIPScore, in percent of the base's."
    )
    gate_recall_points: float = Field(
        3.0, ge=0, description="Gate: loss of R@1, R@5 or R@10 by the second scorer, in points."
    )
    gate_distinct_points: float = Field(
        5.0, ge=0, description="Gate: loss of the share of distinct captions, in points."
    )
    gate_repetition_points: float = Field(
        2.0, ge=0, description="Gate: rise of the share of repeated word pairs, in points."
    )
    gate_length_percent: float = Field(
        20.0, ge=0, description="Gate: change of the mean length, in percent of the base's."
    )
    gate_cider_percent: float = Field(
        5.0, ge=0, description="Gate: loss of CIDEr-D on held-out labelled photos, in percent of the base's."
    )
    worker_metrics_port: int | None = Field(
        None,
        ge=1,
        le=65535,
        description="TCP port of a worker's Prometheus metrics; of several workers on one machine each "
        "takes the next that is free. Unset means none.",
    )
    store_url: str | None = Field(
        None,
        repr=False,
        description="Where datasets, jobs and their results are kept: a folder or s3://, gs://, az://; "
        "unset means data_dir/store. Workers elsewhere need the same store.",
    )
    dataset_roots: Annotated[tuple[Path, ...], NoDecode] = Field(
        (),
        description="Folders of this machine that jobs may read, with ':' between them; links out refused.",
    )
    dataset_buckets: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Prefixes of buckets that jobs may read, by commas (s3://photos/2024,gs://museum); "
        "server and credentials are the environment's, as obstore reads them.",
    )
    max_dataset_items: int = Field(1_000_000, ge=1, description="Photos of one dataset.")
    max_dataset_bytes: int = Field(
        16 * 1024 * MEBIBYTE, ge=1, description="Bytes of one uploaded dataset, packed or unpacked."
    )
    max_uploads: int = Field(2, ge=1, le=64, description="Datasets uploaded at one time; beyond it 429.")
    upload_timeout_s: float = Field(3600.0, gt=0, description="Seconds in which a dataset has to arrive.")
    max_active_jobs: int = Field(100, ge=1, description="Jobs that wait or run; beyond it 429.")
    job_chunk_items: int = Field(
        128,
        ge=1,
        le=10_000,
        description="Photos that a worker takes at one time; up to 1,024 in jobs of very many.",
    )
    job_chunk_s: float = Field(
        60.0, gt=0, description="Seconds after which a worker gives the rest of its photos back to the queue."
    )
    job_save_s: float = Field(
        3.0,
        ge=0,
        description="Seconds between two saves of a worker's results; a killed one costs that much.",
    )
    keep_outputs_days: float | None = Field(
        None, gt=0, description="Days after a job's end that its output files are kept; unset keeps them."
    )
    keep_jobs_days: float | None = Field(
        None, gt=0, description="Days after its end that a job and its results are kept; unset keeps them."
    )
    keep_datasets_days: float | None = Field(
        None,
        gt=0,
        description="Days after its upload, and after the end of the last job on it, that a dataset is kept; "
        "unset keeps them.",
    )
    webhook_secret: str | None = Field(
        None,
        repr=False,
        pattern=r"^whsec_[A-Za-z0-9+/=_-]{32,}$",
        description="Signs webhooks (standardwebhooks.com): whsec_ and 24 or more bytes in base64.",
    )
    webhook_private: bool = Field(
        False, description="Whether webhooks may go to http:// and to addresses that are not public."
    )
    max_event_streams: int = Field(100, ge=1, description="Open event streams of jobs; beyond it 429.")

    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least level logged.")
    log_format: Literal["auto", "json", "console"] = Field(
        "auto", description="Log lines as JSON or for a person; auto is console on a terminal, else JSON."
    )

    @property
    def finetunes_dir(self) -> Path:
        """Where fine-tuning runs keep photos and states while they last."""
        return self.data_dir / "finetunes"

    @property
    def model_cache(self) -> Path:
        """Where model versions lie that are fetched from a bucket."""
        return self.data_dir / "model-cache"

    @property
    def keys_file(self) -> Path:
        """Where API keys are kept, hashed."""
        return self.data_dir / "keys.json"

    @field_validator("cors_origins", "hosts", "dataset_buckets", "trusted_proxies", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return (
            [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value
        )

    @field_validator("dataset_buckets")
    @classmethod
    def _are_prefixes(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for uri in value:
            if plain_uri(uri) is None:
                raise ValueError(f"{uri!r} is not s3://bucket/prefix, gs://… or az://…")
        return value

    _is_broker = field_validator("redis_url")(check_broker_url)

    @field_validator("rate_limit")
    @classmethod
    def _is_rate(cls, value: str | None) -> str | None:
        return value if value is None else check_rate(value)

    @property
    def store_location(self) -> str:
        """Folder or URL of the artifact store."""
        return self.store_url or str(self.data_dir / "store")

    @field_validator("dataset_roots", mode="before")
    @classmethod
    def _split_paths(cls, value: Any) -> Any:
        return tuple(filter(None, value.split(os.pathsep))) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.max_images_per_request > self.max_queued_images:
            raise ValueError(
                f"max_images_per_request ({self.max_images_per_request}) is above max_queued_images "
                f"({self.max_queued_images}): such a request could never be taken"
            )
        return self


def read_settings(**overrides: Any) -> Settings:
    """The settings of the environment, with the flags that were given.

    Raises:
        CommandError: naming the first one that is wrong.
    """
    try:
        return Settings(**{name: value for name, value in overrides.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]) if first["loc"] else ""
        is_shown = bool(name) and Settings.model_fields[name].repr  # without a name it would be all of them
        value = f"; it is {first['input']!r}" if is_shown else ""
        raise CommandError(
            f"{f'SEMICAP_{name.upper()}' if name else 'settings'}: {first['msg']}{value}"
        ) from error
