"""The number formats that the engine chooses, and captions in each of them."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from models.captioner import Captioner
from models.packing import can_pack
from service.engine import speed
from service.engine.engine import Engine, EngineSettings
from service.engine.options import CaptionOptions
from service.engine.speed import Wanted, with_speed
from tests.service.engine.conftest import WAIT_S, Recorder

needs_bf16 = pytest.mark.skipif(not can_pack("bf16"), reason="oneDNN has no bf16 here")
needs_int8 = pytest.mark.skipif(not can_pack("int8"), reason="oneDNN has no int8 here")


@pytest.fixture
def slow_parts(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """What the clock will say of each timed part, in the order that they are measured."""
    times: list[float] = []
    monkeypatch.setattr(speed, "_seconds", lambda run: times.pop(0))
    yield times
    assert not times


@needs_bf16
@pytest.mark.parametrize(
    ("times", "decoder", "image_tower"),
    [
        ([2.0, 1.0, 2.0, 1.0], "bf16", "bf16"),
        ([2.0, 1.0, 1.0, 1.0], "bf16", "fp32"),
        ([1.0, 0.95, 2.0, 1.0], "fp32", "bf16"),
        ([1.0, 2.0, 1.0, 2.0], "fp32", "fp32"),
    ],
)
def test_each_part_takes_bf16_only_where_it_was_measured_to_be_clearly_faster(
    captioner: Captioner, slow_parts: list[float], times: list[float], decoder: str, image_tower: str
) -> None:
    slow_parts += times
    fast, chosen = with_speed(captioner, "auto")
    assert (chosen.decoder, chosen.image_tower) == (decoder, image_tower)
    assert chosen.measured_s["decoder bf16"] == times[1]
    assert (fast.decoder is captioner.decoder) == (decoder == "fp32")
    assert (fast.clip is captioner.clip) == (image_tower == "fp32")


def test_fp32_and_a_machine_without_bf16_keep_the_model_as_it_is(
    captioner: Captioner, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert with_speed(captioner, "fp32")[0] is captioner
    monkeypatch.setattr(speed, "can_pack", lambda precision: False)
    assert with_speed(captioner, "auto")[0] is captioner


def test_format_that_the_machine_lacks_is_refused_by_name(
    captioner: Captioner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("models.packing.can_pack", lambda precision: False)
    with pytest.raises(ValueError, match="cannot run the decoder in int8"):
        with_speed(captioner, "int8")


@pytest.mark.parametrize(
    "precision", ["auto", pytest.param("bf16", marks=needs_bf16), pytest.param("int8", marks=needs_int8)]
)
def test_engine_gives_the_same_captions_alone_and_together_in_every_format(
    captioner: Captioner, pixels: Tensor, recorder: Recorder, precision: Wanted
) -> None:
    engine = Engine(captioner, settings=EngineSettings(precision=precision), observer=recorder)
    engine.start()
    try:
        options = CaptionOptions(strategy="greedy")
        alone = [engine.submit(image, options).result(WAIT_S) for image in pixels]
        together = [future.result(WAIT_S) for future in [engine.submit(image, options) for image in pixels]]
    finally:
        engine.stop(drain_s=0)
    assert [one.captions[0].token_ids for one in alone] == [one.captions[0].token_ids for one in together]
    assert len({one.captions[0].log_likelihood for one in alone}) > 1  # the images do not look alike to it
    assert len(recorder.speeds) == 1


@needs_bf16
def test_image_tower_in_bf16_sees_nearly_the_same_and_shares_the_text_tower(captioner: Captioner) -> None:
    clip = captioner.clip
    half = clip.with_image_tower_in(torch.bfloat16)
    pixels = torch.randn(4, 3, 32, 32)
    before, after = clip.encode_image(pixels), half.encode_image(pixels)
    assert after.embedding.dtype == torch.float32
    assert (before.embedding * after.embedding).sum(dim=1).min() > 0.999
    assert half.text is not None
    assert torch.equal(clip.encode_captions(["the dog"]), half.encode_captions(["the dog"]))
    assert next(clip.visual.parameters()).dtype == torch.float32
