"""`semicap caption`: what to caption, where to, with a progress bar, and how it ended."""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from service.engine.engine import Engine, EngineSettings
from service.engine.options import CaptionOptions
from service.images import ImageLimits
from service.model_choice import load_chosen
from service.model_registry import ModelRegistry
from service.offline.caption_files import FileCaptioning, Tally, shared_sidecars, split_done
from service.offline.outputs import HumanLines, JsonLines, JsonLinesFile, Lines, Output, Sidecars, shown
from service.offline.photo_files import find_photos
from service.registry import ServedModel
from service.settings import Settings

SOME_FAILED = 1
INTERRUPTED = 130


@dataclass(frozen=True)
class CaptionCommand:
    """The command line, taken apart.

    Args:
        paths: files, folders and glob patterns.
        output: a JSONL file to go on with.
        prints_json: JSON lines on standard output.
        writes_sidecars: a .txt beside each photo; `overwrites` lets it replace one that is there.
    """

    paths: tuple[str, ...]
    options: CaptionOptions
    output: Path | None = None
    prints_json: bool = False
    writes_sidecars: bool = False
    overwrites: bool = False

    def run(self, settings: Settings) -> int:
        """Captions what is left to do; the process's exit status.

        Raises:
            NoSuchPhotoError, OutputError, CommandError, ServiceError, OSError: nothing could be started.
        """
        photos = find_photos(self.paths)
        with ExitStack() as stack:
            listener = stack.enter_context(_progress())
            outputs = self._outputs(stack, listener.stdout())
            to_do, skipped = split_done(photos, outputs)
            listener.expect(len(to_do))
            clashing = shared_sidecars(photos) if self.writes_sidecars else {}
            for photo, owner in clashing.items():
                listener.failed(photo, f"its sidecar would be that of {shown(owner)}; rename one of them")
            wanted = [photo for photo in to_do if photo not in clashing]
            if not wanted:
                return _end(Tally(), listener, skipped=skipped)
            if settings.checkpoint is None and self.options.model is not None:
                settings = settings.model_copy(update={"checkpoint": Path(self.options.model)})
            model, _ = load_chosen(ModelRegistry.reading(settings), settings)
            model.check_asked_for(self.options.model)
            model.check_room(self.options)
            return self._caption(
                wanted, model, settings=settings, outputs=outputs, listener=listener, skipped=skipped
            )

    def _outputs(self, stack: ExitStack, stdout: Lines) -> list[Output]:
        outputs: list[Output] = []
        if self.output is not None:
            outputs.append(JsonLinesFile(self.output))
        if self.writes_sidecars:
            outputs.append(Sidecars(replaces=self.overwrites))
        if self.prints_json:
            outputs.append(JsonLines(stdout))
        outputs = outputs or [HumanLines(stdout)]
        for output in outputs:
            stack.callback(output.close)
        return outputs

    def _caption(
        self,
        photos: Sequence[Path],
        model: ServedModel,
        *,
        settings: Settings,
        outputs: Sequence[Output],
        listener: "_ProgressListener",
        skipped: int,
    ) -> int:
        engine = Engine(model.captioner, settings=EngineSettings(precision=settings.precision))
        files = FileCaptioning(
            engine,
            model,
            limits=ImageLimits(max_bytes=settings.max_image_bytes, max_pixels=settings.max_image_pixels),
            decode_threads=settings.decode_threads,
            outputs=outputs,
            listener=listener,
        )
        engine.start()
        interrupted = False
        try:
            files.run(photos, self.options)
        except KeyboardInterrupt:
            interrupted = True
        finally:
            engine.stop(drain_s=0)
        status = _end(files.tally, listener, skipped=skipped)
        if interrupted:
            remembers = any(output.remembers for output in outputs)
            listener.say("stopped; the same command goes on from here" if remembers else "stopped")
        return INTERRUPTED if interrupted else status


def _end(tally: Tally, listener: "_ProgressListener", *, skipped: int) -> int:
    rate = tally.done / tally.seconds if tally.seconds else 0.0
    listener.say(
        f"captioned {tally.done}, already done {skipped}, failed {listener.num_failed} "
        f"in {tally.seconds:.1f} s ({rate:.1f} images/s)"
    )
    return SOME_FAILED if listener.num_failed else os.EX_OK


class _ProgressListener:
    """Shows the bar and says on stderr what failed."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self.progress = progress
        self.task = task
        self.num_failed = 0

    def stdout(self) -> Lines:
        """Standard output, above the bar where both are on one terminal."""
        is_shared = sys.stdout.isatty() and not self.progress.disable
        return _AboveBar(self.progress.console) if is_shared else sys.stdout

    def expect(self, num_photos: int) -> None:
        self.progress.update(self.task, total=num_photos)

    def failed(self, photo: Path, reason: str) -> None:
        self.num_failed += 1
        self.say(f"{shown(photo)}: {reason}")

    def advanced(self) -> None:
        self.progress.advance(self.task)

    def say(self, text: str) -> None:
        self.progress.console.print(text, soft_wrap=True)


class _AboveBar:
    """Lines on a terminal whose last line is a bar."""

    encoding = "utf-8"

    def __init__(self, console: Console) -> None:
        self.console = console

    def write(self, text: str) -> None:
        self.console.print(text, end="", soft_wrap=True)

    def flush(self) -> None:
        pass


@contextmanager
def _progress() -> Iterator[_ProgressListener]:
    console = Console(stderr=True, markup=False, emoji=False, highlight=False)
    columns = (
        TextColumn("captioning"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(
        *columns,
        console=console,
        transient=True,
        disable=not console.is_terminal,
        redirect_stdout=False,  # what is piped away would be drawn above the bar
    ) as progress:
        yield _ProgressListener(progress, progress.add_task("captioning", total=None))
