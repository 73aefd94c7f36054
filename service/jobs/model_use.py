"""Which model versions the jobs that are not over need."""

from collections.abc import Mapping

from service.errors import JobNotFoundError
from service.jobs.archive import JobArchive
from service.jobs.store import ArtifactStore


def models_of_jobs(store: ArtifactStore) -> Mapping[str, str]:
    """What uses a version, in words, by its id."""
    archive, used = JobArchive(store), {}
    for job_id in archive.active():
        try:
            model = archive.job(job_id).options.get("model")
        except JobNotFoundError:
            continue
        if isinstance(model, str):
            used[model] = f"is what the job {job_id} runs with"
    return used
