"""Log lines: structlog as JSON or for a person, the standard library's loggers included."""

import logging
import sys
from typing import Literal

import structlog
from structlog.typing import Processor

_SHARED: tuple[Processor, ...] = (
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
)


def configure_logging(*, level: str, format: Literal["auto", "json", "console"]) -> None:
    """Sends everything that is logged to stderr in one form; call once, at the start of a process."""
    structlog.configure(
        processors=[*_SHARED, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*_SHARED, structlog.stdlib.ExtraAdder()],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *_renderers(format)],
        )
    )
    handler.addFilter(_is_ours_or_grave)
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    logging.getLogger("PIL").setLevel(logging.CRITICAL)  # what is wrong with a file is told to who sent it
    logging.captureWarnings(True)


def _is_ours_or_grave(record: logging.LogRecord) -> bool:
    """open_clip tells its loading step by step, through the root logger."""
    return record.name != "root" or record.levelno >= logging.WARNING


def _renderers(format: Literal["auto", "json", "console"]) -> list[Processor]:
    person = sys.stderr.isatty() if format == "auto" else format == "console"
    if person:
        return [
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
            )
        ]
    return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
