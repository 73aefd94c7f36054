"""What a worker leaves of a fine-tuning job, without the training."""

from service.jobs.documents import ItemResult, TrainingRecord
from service.jobs.parts import JobParts
from service.jobs.queue import FINETUNE_QUEUE


def train(parts: JobParts, job_id: str, record: TrainingRecord) -> None:
    """Takes the job off the queue and reports it as done; its end is still to be written."""
    jobs = parts.jobs
    job, attempt = jobs.archive.job(job_id), jobs.archive.attempt(job_id)
    jobs.board.client.delete(FINETUNE_QUEUE)
    jobs.archive.keep_training(job_id, record)
    results = [
        ItemResult(item=number, file_name=f"{number}.jpg", outcome="used") for number in range(job.num_items)
    ]
    jobs.archive.add_chunk(job_id, attempt.first_chunk, results)
    for point in record.curve:
        jobs.tell_point(job_id, point)
    counts = jobs.status(job_id).counts
    assert jobs.board.report(job_id, attempt.number, attempt.first_chunk, counts, is_complete=True) == 0
    jobs.advance(job_id)
