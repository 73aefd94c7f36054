"""Which model versions the jobs that are not over need."""

from collections.abc import Mapping

from service.errors import JobNotFoundError
from service.jobs.archive import JobArchive
from service.jobs.documents import FinetuneJob
from service.jobs.store import ArtifactStore


def models_of_jobs(store: ArtifactStore) -> Mapping[str, str]:
    """What uses a version, in words, by its id."""
    archive, used = JobArchive(store), {}
    for job_id in archive.active():
        try:
            job = archive.job(job_id)
        except JobNotFoundError:
            continue
        model = job.base if isinstance(job, FinetuneJob) else job.options.get("model")
        if isinstance(model, str):
            used[model] = f"is what the job {job_id} runs with"
    return used
