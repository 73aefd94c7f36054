"""What routes get: the parts of the running service, typed."""

from dataclasses import dataclass
from typing import Annotated, cast

from fastapi import Depends, Request

from service.api.access import KEY_STATE
from service.api.inputs import InputLimits
from service.api.job_service import JobService
from service.engine.engine import Engine
from service.errors import BrokerUnavailableError
from service.fetch import ImageFetcher
from service.keys import ApiKey
from service.lifecycle import Lifecycle
from service.metrics import Metrics
from service.model_service import ModelService
from service.registry import ServedModel
from service.settings import Settings


@dataclass(frozen=True)
class Parts:
    """The parts of the running service."""

    settings: Settings
    models: ModelService
    metrics: Metrics
    lifecycle: Lifecycle
    fetcher: ImageFetcher | None = None
    jobs: JobService | None = None

    @property
    def model(self) -> ServedModel:
        """What answers now; a request that is captioned knows its own (Exchange.model)."""
        return self.models.switch.current.model

    @property
    def engine(self) -> Engine:
        """The engine of the model that answers now."""
        return self.models.switch.current.engine

    @property
    def input_limits(self) -> InputLimits:
        return InputLimits(
            max_images=self.settings.max_images_per_request,
            max_image_bytes=self.settings.max_image_bytes,
            fetcher=self.fetcher,
        )


async def _parts(request: Request) -> Parts:
    return cast(Parts, request.state.parts)


async def _jobs(request: Request) -> JobService:
    parts = await _parts(request)
    if parts.jobs is None:
        raise BrokerUnavailableError("there is no broker: set SEMICAP_REDIS_URL, or run semicap serve")
    return parts.jobs


async def _key(request: Request) -> ApiKey | None:
    return cast(ApiKey | None, getattr(request.state, KEY_STATE, None))


UseParts = Annotated[Parts, Depends(_parts)]
UseJobs = Annotated[JobService, Depends(_jobs)]
UseKey = Annotated[ApiKey | None, Depends(_key)]
"""The key of the request; None while none is required."""
