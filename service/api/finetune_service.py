"""Fine-tuning jobs of requests."""

from service.api.finetune_schemas import FinetuneRequest
from service.api.job_sources import JobSources
from service.errors import InvalidDatasetError, MissingScopeError
from service.finetuning.settings import FEWEST_PHOTOS
from service.jobs.dataset_captions import CAPTIONS_FILE, read_captions
from service.jobs.documents import FinetuneJob, Webhook, now
from service.jobs.idempotency import claimed_job_id
from service.jobs.parts import JobParts
from service.jobs.status import JobStatus
from service.jobs.webhook import check_webhook
from service.keys import ApiKey, Scope
from service.model_registry import ModelRegistry
from service.settings import Settings


class FinetuneSubmission:
    """Makes fine-tuning jobs of requests."""

    def __init__(
        self, parts: JobParts, sources: JobSources, models: ModelRegistry, settings: Settings
    ) -> None:
        self._parts = parts
        self._sources = sources
        self._models = models
        self._settings = settings

    def submit(self, asked: FinetuneRequest, *, answering: str, idempotency_key: str | None) -> JobStatus:
        """The job of a request.

        Args:
            answering: id of the version that answers now, the base where none is asked for.

        Raises:
            ServiceError: the base, a dataset or the folder is wrong, or there are too many jobs.
        """
        base = self._models.find(asked.base or answering)
        if asked.webhook is not None:
            check_webhook(asked.webhook.url, self._settings)
        jobs, body = self._parts.jobs, asked.model_dump(mode="json")
        with claimed_job_id(jobs.archive, idempotency_key, body) as (job_id, is_there):
            if is_there:
                return jobs.status(job_id)
            return jobs.submit(self._job(job_id, asked, base=base.id))

    def _job(self, job_id: str, asked: FinetuneRequest, *, base: str) -> FinetuneJob:
        if asked.replay_dataset is not None:
            self._check_replay(asked.replay_dataset)
        dataset = self._sources.named(asked)
        if dataset.num_items < FEWEST_PHOTOS:
            raise InvalidDatasetError(
                f"the dataset has {dataset.num_items} photos; fine-tuning needs {FEWEST_PHOTOS}"
            )
        return FinetuneJob(
            id=job_id,
            created=now(),
            dataset=dataset.id,
            num_items=dataset.num_items,
            base=base,
            replay_dataset=asked.replay_dataset,
            settings=asked.settings.model_dump(),
            auto_activate=asked.auto_activate,
            webhook=Webhook(url=asked.webhook.url) if asked.webhook else None,
        )

    def _check_replay(self, dataset_id: str) -> None:
        dataset = self._sources.known(dataset_id)
        if not read_captions(dataset, self._parts.store):
            raise InvalidDatasetError(
                f"the replay dataset {dataset_id} came without a {CAPTIONS_FILE}; labelled photos need one "
                'with {"file_name": …, "captions": […]} in each line'
            )


def check_may_activate(asked: FinetuneRequest, key: ApiKey | None) -> None:
    """Returns when the key may do what `auto_activate` asks for; None is no key where none is required.

    Raises:
        MissingScopeError: it may not let another version answer.
    """
    if not asked.auto_activate or key is None or key.allows(frozenset({Scope.ADMIN})):
        return
    raise MissingScopeError(
        f"auto_activate needs the scope admin; the key {key.id} has {', '.join(key.scopes)}. Leave it out: "
        "the version is made all the same, and who has such a key can activate it"
    )
