"""Every error that a caller can see, without any framework: status, stable type, and a message that helps."""

from typing import Any, ClassVar

WRONG_USE = 2
"""Exit status of a command that was used wrongly or cannot start as it is set."""


class CommandError(Exception):
    """Wrong use of the command line, or what keeps a command from starting: one line that says what to do."""


class ServiceError(Exception):
    """An error whose message may be shown to a caller.

    Args:
        detail: what was wrong, the value, and the limit or the remedy.
        extensions: further members of the problem document; JSON values.
    """

    status: ClassVar[int] = 500
    type: ClassVar[str] = "internal-error"
    title: ClassVar[str] = "Internal error"

    def __init__(self, detail: str, *, retry_after_s: float | None = None, **extensions: Any) -> None:
        super().__init__(detail)
        self.detail = detail
        self.retry_after_s = retry_after_s
        self.extensions = extensions


class InvalidRequestError(ServiceError):
    status, type, title = 422, "invalid-request", "The request is not valid"


class InvalidOptionError(ServiceError):
    status, type, title = 422, "invalid-option", "A caption option is not valid"


class UnknownOptionError(ServiceError):
    status, type, title = 422, "unknown-option", "There is no such option"


class NoImageError(ServiceError):
    status, type, title = 422, "no-image", "The request has no image"


class BrokenImageError(ServiceError):
    status, type, title = 422, "broken-image", "The image cannot be decoded"


class UnreadableFileError(ServiceError):
    status, type, title = 422, "unreadable-file", "The file cannot be read"


class InvalidEmbeddingError(ServiceError):
    status, type, title = 422, "invalid-embedding", "The embedding is not valid"


class UrlFetchingDisabledError(ServiceError):
    status, type, title = 422, "url-fetching-disabled", "Image URLs are not fetched"


class ImageUrlError(ServiceError):
    status, type, title = 422, "image-url-failed", "The image could not be fetched from its URL"


class UnsupportedImageError(ServiceError):
    status, type, title = 415, "unsupported-image-format", "Not an image format that is read here"


class UnsupportedMediaTypeError(ServiceError):
    status, type, title = 415, "unsupported-media-type", "Not a request body that is read here"


class ImageTooLargeError(ServiceError):
    status, type, title = 413, "image-too-large", "The image is too large"


class RequestTooLargeError(ServiceError):
    status, type, title = 413, "request-too-large", "The request is too large"


class TooManyImagesError(ServiceError):
    status, type, title = 413, "too-many-images", "Too many images in one request"


class NotAuthenticatedError(ServiceError):
    status, type, title = 401, "not-authenticated", "The request needs an API key"


class MissingScopeError(ServiceError):
    status, type, title = 403, "missing-scope", "The API key may not do this"


class ForeignPageError(ServiceError):
    status, type, title = 403, "foreign-page", "Pages of other sites may not ask for this"


class UnknownHostError(ServiceError):
    status, type, title = 403, "unknown-host", "The service is not called by this name"


class NotFoundError(ServiceError):
    status, type, title = 404, "not-found", "There is nothing here"


class MethodNotAllowedError(ServiceError):
    status, type, title = 405, "method-not-allowed", "The method does not fit this address"


class ModelNotFoundError(ServiceError):
    status, type, title = 404, "model-not-found", "There is no such model"


class ModelGateError(ServiceError):
    status, type, title = 409, "model-gate-refused", "The model version did not pass its gate"


class ModelInUseError(ServiceError):
    status, type, title = 409, "model-in-use", "The model version is in use"


class ModelPinnedError(ServiceError):
    status, type, title = 409, "model-pinned", "The service is set to one model"


class ModelConflictError(ServiceError):
    status, type, title = 409, "model-conflict", "The models have changed meanwhile"


class NoEarlierModelError(ServiceError):
    status, type, title = 409, "no-earlier-model", "There is nothing to roll back to"


class ModelLoadError(ServiceError):
    status, type, title = 409, "model-not-loadable", "The model version cannot be loaded here"


class ModelUnavailableError(ServiceError):
    status, type, title = 503, "model-unavailable", "A worker cannot load the job's model version"


class InvalidModelNameError(ServiceError):
    status, type, title = 422, "invalid-model-name", "Not a name for a model or an alias"


class RequestTimeoutError(ServiceError):
    status, type, title = 408, "request-timeout", "The request body came too slowly"


class QueueFullError(ServiceError):
    status, type, title = 429, "queue-full", "The service is busy"


class RateLimitedError(ServiceError):
    status, type, title = 429, "rate-limited", "Too many requests"


class CaptioningFailedError(ServiceError):
    status, type, title = 500, "captioning-failed", "The model failed on the image"


class WorkerLostError(ServiceError):
    status, type, title = 500, "worker-lost", "Workers died on the image"


class StoppingError(ServiceError):
    status, type, title = 503, "stopping", "The service is stopping"


class PhotoLostError(ServiceError):
    status, type, title = 500, "photo-lost", "The artifact store has lost the photo"


class EngineUnavailableError(ServiceError):
    status, type, title = 503, "engine-unavailable", "The captioning engine is not running"


class DeadlineExceededError(ServiceError):
    status, type, title = 504, "deadline-exceeded", "The answer was not ready in time"


class DatasetNotFoundError(ServiceError):
    status, type, title = 404, "dataset-not-found", "There is no such dataset"


class JobNotFoundError(ServiceError):
    status, type, title = 404, "job-not-found", "There is no such job"


class JobStateError(ServiceError):
    status, type, title = 409, "job-state", "The job's state does not allow this"


class RequestInProgressError(ServiceError):
    status, type, title = 409, "request-in-progress", "A request with this Idempotency-Key is being handled"


class IdempotencyKeyReusedError(ServiceError):
    status, type, title = 422, "idempotency-key-reused", "The Idempotency-Key belongs to another request"


class InvalidDatasetError(ServiceError):
    status, type, title = 422, "invalid-dataset", "The dataset cannot be taken"


class FileLeftOutError(ServiceError):
    status, type, title = 422, "file-left-out", "The file is not taken into the dataset"


class FolderNotAllowedError(ServiceError):
    status, type, title = 403, "folder-not-allowed", "Jobs may not use this folder"


class BucketNotAllowedError(ServiceError):
    status, type, title = 403, "bucket-not-allowed", "Jobs may not use this bucket"


class TooManyJobsError(ServiceError):
    status, type, title = 429, "too-many-jobs", "Too many jobs, uploads or event streams at one time"


class StoreUnavailableError(ServiceError):
    status, type, title = 503, "store-unavailable", "The artifact store does not answer"


class BrokerUnavailableError(ServiceError):
    status, type, title = 503, "broker-unavailable", "The broker of the jobs does not answer"
