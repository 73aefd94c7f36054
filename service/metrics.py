"""Every Prometheus instrument of the service."""

from collections.abc import Mapping
from math import nan
from typing import TYPE_CHECKING, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.gc_collector import GCCollector
from prometheus_client.process_collector import ProcessCollector

from service.engine.observer import Failure, Stage
from service.engine.results import ImageCaptions, ImageScores, Priority
from service.model_versions import ModelVersion
from service.repeats import Repeat

if TYPE_CHECKING:  # whoever counts or keeps results needs no torch
    from service.engine.speed import Speed

METRICS_MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_SIMILARITIES = {
    "sampled": "sampled_similarity",
    "own": "clip_similarity",
    "second": "second_similarity",
}

REFUSALS = ("not-authenticated", "missing-scope", "rate-limited")

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_REQUEST_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_STAGE_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
_CHUNK_SECONDS = (0.1, 0.5, 1, 2, 5, 10, 20, 40, 60, 120, 300)
_LOAD_SECONDS = (0.5, 1, 2.5, 5, 10, 20, 40, 80, 160)
_BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_CLIP_SCORES = tuple(round(0.1 * step, 1) for step in range(1, 26))


class Metrics:
    """The instruments, in a registry of their own; also the engine's observer (service.engine.observer)."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry = registry or CollectorRegistry()
        ProcessCollector(registry=registry)
        GCCollector(registry=registry)
        self._define_http()
        self._define_engine()
        self._define_models()
        self._define_jobs()
        self._define_finetunes()

    def _define_http(self) -> None:
        labels = ("method", "route", "status")
        self.http_requests = Counter(
            "semicap_http_requests_total", "Requests answered.", labels, registry=self.registry
        )
        self.http_seconds = Histogram(
            "semicap_http_request_duration_seconds",
            "From a request's headers to the end of its answer.",
            labels,
            registry=self.registry,
            buckets=_REQUEST_SECONDS,
        )
        self.http_in_flight = Gauge(
            "semicap_http_requests_in_flight", "Open requests.", registry=self.registry
        )

        self.requests_refused = Counter(
            "semicap_requests_refused_total",
            "Requests refused before their body was read: no key, not its scope, too many.",
            ("reason",),
            registry=self.registry,
        )
        for reason in REFUSALS:  # a rate of them exists from the start
            self.requests_refused.labels(reason)

    def _define_engine(self) -> None:
        registry = self.registry
        self.queue_depth = Gauge(
            "semicap_queue_depth",
            "Images that hold a place in the engine: reserved, waiting or running.",
            registry=registry,
        )
        self.queue_wait = Histogram(
            "semicap_queue_wait_seconds",
            "From submission to the first batch.",
            ("priority",),
            registry=registry,
            buckets=_REQUEST_SECONDS,
        )
        self.batch_size = Histogram(
            "semicap_batch_size",
            "Images (encode, prefill), rows (decode) or captions (score) in one batch.",
            ("stage",),
            registry=registry,
            buckets=_BATCH_SIZES,
        )
        self.stage_seconds = Histogram(
            "semicap_stage_seconds",
            "One batch in one stage; for decode one token of each row.",
            ("stage",),
            registry=registry,
            buckets=_STAGE_SECONDS,
        )
        self.images = Counter(
            "semicap_images_total",
            "Images by outcome: captioned, scored, lost in the engine, or the problem type.",
            ("outcome",),
            registry=registry,
        )
        self.repeats = Counter(
            "semicap_repeated_images_total",
            "Images whose captions were computed, shared with the same image in flight, or kept from before.",
            ("answer",),
            registry=registry,
        )
        for answer in get_args(Repeat):  # a rate of them exists from the start
            self.repeats.labels(answer)
        self.clip_score = Histogram(
            "semicap_clip_score",
            "CLIPScore of each image's best caption, 0..2.5.",
            registry=registry,
            buckets=_CLIP_SCORES,
        )
        self.speed_info = Gauge(
            "semicap_engine_info",
            "1 for the number format of the model's weights.",
            ("precision",),
            registry=registry,
        )

    def _define_models(self) -> None:
        registry = self.registry
        self.model_info = Gauge(
            "semicap_model_info",
            "1 for the model that answers.",
            ("name", "version", "scorer", "scorer_revision"),
            registry=registry,
        )
        self.model_switches = Counter(
            "semicap_model_switches_total",
            "Changes of the model that answers: switched, or failed because the new one could not be loaded.",
            ("outcome",),
            registry=registry,
        )
        for outcome in ("switched", "failed"):
            self.model_switches.labels(outcome)
        self.model_load_seconds = Histogram(
            "semicap_model_load_seconds",
            "Loading and warming up a model version beside the one that answers.",
            registry=registry,
            buckets=_LOAD_SECONDS,
        )

    def _define_jobs(self) -> None:
        registry = self.registry
        self.job_items = Counter(
            "semicap_job_items_total",
            "Photos of jobs that this worker did: captioned, failed, skipped.",
            ("outcome",),
            registry=registry,
        )
        self.chunk_seconds = Histogram(
            "semicap_job_chunk_seconds",
            "One stay of a worker with a chunk of a job, by how it ended.",
            ("ending",),
            registry=registry,
            buckets=_CHUNK_SECONDS,
        )
        self.broker_up = Gauge(
            "semicap_broker_up",
            "1 while the broker of the jobs answers, 0 while it does not; of the API alone.",
            registry=registry,
        )
        self.broker_up.set(nan)
        self.jobs_active = Gauge("semicap_jobs_active", "Jobs that wait or run.", registry=registry)
        self.job_queue_depth = Gauge(
            "semicap_job_queue_depth", "Messages that no worker has taken.", registry=registry
        )
        self.job_queue_age = Gauge(
            "semicap_job_queue_oldest_seconds",
            "Age of the oldest chunk of a bulk job that was sent and is not done, running ones included.",
            registry=registry,
        )

    def _define_finetunes(self) -> None:
        registry = self.registry
        self.finetune_step = Gauge(
            "semicap_finetune_step",
            "Step of the fine-tuning that this worker does; 0 when it does none.",
            registry=registry,
        )
        self.finetune_loss = Gauge(
            "semicap_finetune_loss", "Its loss at the last step that was logged.", registry=registry
        )
        self.finetune_similarity = Gauge(
            "semicap_finetune_similarity",
            "Mean CLIP similarity: of sampled captions (sampled), of held-out photos' captions by the CLIP "
            "that is trained against (own) and by one that is not (second).",
            ("of",),
            registry=registry,
        )

    def finetune_point(self, point: Mapping[str, float]) -> None:
        """States where a fine-tuning is, by a point of its curve."""
        self.finetune_step.set(point["step"])
        if "loss" in point:
            self.finetune_loss.set(point["loss"])
        for of, name in _SIMILARITIES.items():
            if name in point:
                self.finetune_similarity.labels(of).set(point[name])

    def finetune_ended(self) -> None:
        """States that none is done."""
        self.finetune_step.set(0)
        self.finetune_loss.set(0)
        self.finetune_similarity.clear()

    def item_done(self, outcome: str) -> None:
        """Counts a photo of a job."""
        self.job_items.labels(outcome).inc()

    def chunk_done(self, *, ending: str, seconds: float) -> None:
        """Notes a worker's stay with a chunk."""
        self.chunk_seconds.labels(ending).observe(seconds)

    def set_job_queue(self, *, depth: int, oldest_s: float) -> None:
        """States what waits for the workers, by a broker that answers."""
        self.broker_up.set(1)
        self.job_queue_depth.set(depth)
        self.job_queue_age.set(oldest_s)

    def broker_away(self) -> None:
        """States that the broker does not answer, and that what waits is not known."""
        self.broker_up.set(0)
        self.job_queue_depth.set(nan)
        self.job_queue_age.set(nan)

    def set_model(self, model: ModelVersion) -> None:
        """Names the model that answers from now on."""
        self.model_info.clear()
        self.model_info.labels(model.name, model.version, *model.scorer).set(1)

    def model_loaded(self, *, seconds: float) -> None:
        """Notes how long a version took to be ready."""
        self.model_load_seconds.observe(seconds)

    def model_switched(self) -> None:
        """Counts that another version answers."""
        self.model_switches.labels("switched").inc()

    def model_not_loaded(self) -> None:
        """Counts a version that could not be loaded; the one before answers on."""
        self.model_switches.labels("failed").inc()

    def observe_request(self, *, method: str, route: str, status: int, seconds: float) -> None:
        """Counts one answered request by its route template."""
        labels = (method if method in _METHODS else "OTHER", route, str(status))
        self.http_requests.labels(*labels).inc()
        self.http_seconds.labels(*labels).observe(seconds)

    def request_refused(self, problem_type: str) -> None:
        """Counts a request that its sender may not make, or not so often."""
        self.requests_refused.labels(problem_type).inc()

    def image_rejected(self, problem_type: str) -> None:
        """Counts an image that never reached the engine."""
        self.images.labels(problem_type).inc()

    def image_answered(self, answer: Repeat) -> None:
        """Counts an image that may have been there before, by where its captions are from."""
        self.repeats.labels(answer).inc()

    def render(self) -> bytes:
        """The text that Prometheus scrapes."""
        return generate_latest(self.registry)

    def speed_chosen(self, speed: "Speed") -> None:
        self.speed_info.clear()
        self.speed_info.labels(speed.precision).set(1)

    def depth_changed(self, *, depth: int) -> None:
        self.queue_depth.set(depth)

    def admitted(self, *, queue_s: float, priority: Priority) -> None:
        self.queue_wait.labels(priority).observe(queue_s)

    def stage_done(self, stage: Stage, *, batch_size: int, seconds: float) -> None:
        self.batch_size.labels(stage).observe(batch_size)
        self.stage_seconds.labels(stage).observe(seconds)

    def captioned(self, result: ImageCaptions) -> None:
        self.images.labels("captioned").inc()
        if result.captions:
            self.clip_score.observe(result.captions[0].clip_score)

    def scored(self, result: ImageScores) -> None:
        self.images.labels("scored").inc()

    def lost(self, reason: Failure) -> None:
        self.images.labels(reason).inc()
