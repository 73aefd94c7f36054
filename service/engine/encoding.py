"""Images to what the decoder reads and what captions are scored by; on a GPU beside the decoding."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from models.captioner import Captioner
from models.image_features import ImageFeatures
from service.engine.work import Work


@dataclass
class Encoding:
    """A batch of images that was handed to the image tower.

    Args:
        prefixes: of the images to caption, by number.
        tensors: what was computed, whole; the works' embeddings and the prefixes are parts of them.
        done: comes when a GPU has computed them; None where that has happened.
        began: time.monotonic().
    """

    works: Sequence[Work]
    prefixes: dict[int, Float[Tensor, "prefix width"]]
    tensors: Sequence[Tensor]
    done: torch.cuda.Event | None
    began: float = field(default_factory=time.monotonic)

    def is_done(self) -> bool:
        return self.done is None or self.done.query()  # type: ignore[no-untyped-call]

    def settle(self) -> None:
        """From here on the current stream may use the tensors; it waits for them, the caller does not."""
        if self.done is None:
            return
        stream = torch.cuda.current_stream()
        stream.wait_event(self.done)
        for tensor in self.tensors:
            tensor.record_stream(stream)  # else their memory could go to the next images while it is read


class ImageEncoder:
    """Encodes batches of pixels and of embeddings; on CUDA on a stream of its own."""

    def __init__(self, captioner: Captioner) -> None:
        self._captioner = captioner
        device = captioner.device
        self._stream: Any = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        if self._stream is not None:
            self._stream.wait_stream(torch.cuda.current_stream())  # that made the weights

    def start(self, works: Sequence[Work]) -> Encoding:
        """Encodes images; on CUDA returns at once, and `settle` makes the result safe to use.

        Each work keeps its embedding for the scores.
        """
        began = time.monotonic()
        if self._stream is None:
            return Encoding(works, *self._encode(works), None, began)
        with torch.cuda.stream(self._stream):
            encoded = self._encode(works)
            done = torch.cuda.Event()  # type: ignore[no-untyped-call]
            done.record()
        return Encoding(works, *encoded, done, began)

    def _encode(self, works: Sequence[Work]) -> tuple[dict[int, Tensor], list[Tensor]]:
        prefixes: dict[int, Tensor] = {}
        tensors: list[Tensor] = []
        for has_pixels in (True, False):
            group = [work for work in works if work.has_pixels is has_pixels]
            if not group:
                continue
            features = self._features(group)
            tensors.append(features.embedding)
            for work, embedding in zip(group, features.embedding, strict=True):
                work.embedding = embedding
            if any(work.texts is None for work in group):
                prefix = self._captioner.prefix(features)
                tensors.append(prefix)
                prefixes |= dict(zip((work.number for work in group), prefix, strict=True))
        return prefixes, tensors

    def _features(self, works: Sequence[Work]) -> ImageFeatures:
        images = [work.image for work in works]
        if works[0].has_pixels:
            pixels = self._on_device(images)
            return self._captioner.encode_image(self._captioner.clip.preprocess.normalize(pixels))
        vectors = torch.stack(images).to(self._captioner.device).float()
        return ImageFeatures(torch.nn.functional.normalize(vectors, dim=-1), norm=vectors.norm(dim=-1))

    def _on_device(self, images: Sequence[Tensor]) -> Tensor:
        """The pixels as one batch; from pinned memory, so that a GPU takes them while this thread goes on."""
        if self._stream is None:
            return torch.stack(list(images)).to(self._captioner.device)
        pinned = torch.empty((len(images), *images[0].shape), dtype=images[0].dtype, pin_memory=True)
        torch.stack(list(images), out=pinned)
        return pinned.to(self._captioner.device, non_blocking=True)
