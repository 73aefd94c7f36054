"""The captioning service: HTTP API, command line, engine."""

from importlib.metadata import PackageNotFoundError, version


def release() -> str:
    """The installed version of semicap."""
    try:
        return version("semicap")
    except PackageNotFoundError:
        return "0+uninstalled"
