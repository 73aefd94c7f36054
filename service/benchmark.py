"""What this machine does with the installed model: number formats, and photos from JPEG to caption."""

import io
import platform
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from models.captioner import Captioner
from models.packed_captioner import packed
from models.packing import Precision, can_pack
from service.engine.engine import Engine, EngineSettings
from service.engine.observer import SilentObserver, Stage
from service.engine.options import CaptionOptions
from service.engine.speed import BEAMS, IMAGES, TOKENS, Speed, Wanted, compared, in_fp32
from service.engine.threads import available_cpus
from service.images import ImageLimits, read_pixels
from service.reading_ahead import read_ahead

FORMATS: tuple[Precision, ...] = ("bf16", "int8")
PHOTO_SIZE, NUM_PHOTOS = (640, 480), 32
WORK_OF_A_FORMAT = f"{IMAGES} images, beam {BEAMS}, {TOKENS} tokens"


@dataclass(frozen=True)
class Machine:
    """Where it was measured."""

    processor: str
    cpus: int
    threads: int
    device: str
    torch: str


@dataclass(frozen=True)
class EndToEnd:
    """Photos that went from JPEG bytes to scored captions.

    Args:
        stage_seconds: of the engine's thread, by stage.
    """

    images: int
    seconds: float
    stage_seconds: Mapping[str, float]

    @property
    def images_per_s(self) -> float:
        return self.images / self.seconds


@dataclass(frozen=True)
class Report:
    """What a benchmark found.

    Args:
        format_seconds: of WORK_OF_A_FORMAT, for each number format and layout that this machine can run.
        chosen: the one of them that the engine took.
    """

    model: str
    machine: Machine
    format_seconds: Mapping[str, float]
    chosen: str
    end_to_end: EndToEnd


class _Listener(SilentObserver):
    """Remembers the format and adds up the stages' seconds."""

    def __init__(self) -> None:
        self.chosen: str = "fp32"
        self.seconds: dict[str, float] = {}

    def speed_chosen(self, speed: Speed) -> None:
        self.chosen = speed.way

    def stage_done(self, stage: Stage, *, batch_size: int, seconds: float) -> None:
        self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds


@dataclass(frozen=True)
class Benchmark:
    """What is measured.

    Args:
        photos: encoded images, used over and over.
        seconds: for which photos are captioned.
        say: is told what comes next.
    """

    captioner: Captioner
    model: str
    photos: Sequence[bytes]
    limits: ImageLimits
    precision: Wanted = "auto"
    decode_threads: int = 2
    seconds: float = 20.0
    say: Callable[[str], None] = field(default=lambda text: None)

    def run(self) -> Report:
        """Measures one after the other."""
        listener = _Listener()
        formats = self._formats()
        self.say(f"captioning photos for {self.seconds:.0f} s")
        end_to_end = self._end_to_end(listener)
        return Report(self.model, machine(self.captioner), formats, listener.chosen, end_to_end)

    @torch.inference_mode()
    def _formats(self) -> dict[str, float]:
        if self.captioner.device.type != "cpu":
            return {}
        ways: dict[str, Captioner] = dict(in_fp32(self.captioner).items())
        for name in FORMATS:
            if can_pack(name):
                ways[name] = packed(self.captioner, name)
            else:
                self.say(f"{name} is left out: this processor has no fast way to compute in it")
        self.say(f"comparing {', '.join(ways)}")
        return compared(ways)

    def _end_to_end(self, listener: _Listener) -> EndToEnd:
        engine = Engine(self.captioner, settings=EngineSettings(precision=self.precision), observer=listener)
        engine.start()
        try:
            listener.seconds.clear()
            began = time.monotonic()
            with (
                ThreadPoolExecutor(self.decode_threads) as pool,
                closing(self._pixels(pool, began)) as pixels,
            ):
                done = [future.result() for _, future in engine.caption_many(pixels, CaptionOptions())]
            return EndToEnd(len(done), time.monotonic() - began, dict(listener.seconds))
        finally:
            engine.stop(drain_s=0)

    def _pixels(self, pool: ThreadPoolExecutor, began: float) -> Generator[tuple[int, Tensor], None, None]:
        with closing(
            read_ahead(self._until(began + self.seconds), self._read, pool=pool, threads=self.decode_threads)
        ) as images:
            for number, (_, future) in enumerate(images):
                yield number, future.result()

    def _until(self, end: float) -> Iterator[bytes]:
        for photo in cycle(self.photos):
            yield photo
            if time.monotonic() >= end:
                return

    def _read(self, photo: bytes) -> Tensor:
        pixels, _ = read_pixels(photo, limits=self.limits, preprocess=self.captioner.clip.preprocess)
        return pixels


def machine(captioner: Captioner) -> Machine:
    """The machine that this process runs on."""
    device = captioner.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return Machine(_processor(), available_cpus(), torch.get_num_threads(), name, torch.__version__)


def made_up_photos() -> list[bytes]:
    """JPEGs as large as a snapshot, of soft coloured blots; what they show does not change what they cost."""
    rng = np.random.default_rng(0)
    photos = []
    for _ in range(NUM_PHOTOS):
        blots = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        file = io.BytesIO()
        blots.resize(PHOTO_SIZE, Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
        photos.append(file.getvalue())
    return photos


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
