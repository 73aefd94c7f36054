"""The number formats that the engine chooses, and captions in each of them."""

import pytest
from torch import Tensor

from models.captioner import Captioner
from models.packing import Int8Linear, can_pack
from service.engine import speed
from service.engine.engine import Engine, EngineSettings
from service.engine.options import CaptionOptions
from service.engine.speed import Speed, Wanted, with_speed
from tests.service.engine.conftest import WAIT_S, Recorder

needs_int8 = pytest.mark.skipif(not can_pack("int8"), reason="FBGEMM is not here")
needs_packed_fp32 = pytest.mark.skipif(not can_pack("fp32"), reason="oneDNN is not here")


@needs_int8
@needs_packed_fp32
@pytest.mark.parametrize(
    ("measured", "chosen"),
    [
        ((2.0, 1.5, 1.0), "int8"),
        ((2.0, 1.0, 0.95), "fp32 packed"),
        ((1.0, 0.95, 0.95), "fp32"),
        ((1.0, 2.0, 0.8), "int8"),
    ],
)
def test_auto_takes_what_was_measured_to_be_clearly_faster(
    captioner: Captioner,
    monkeypatch: pytest.MonkeyPatch,
    measured: tuple[float, float, float],
    chosen: str,
) -> None:
    times = dict(zip(("fp32", "fp32 packed", "int8"), measured, strict=True))
    monkeypatch.setattr(speed, "seconds", lambda one: times[_way(one, captioner)])
    fast, found = with_speed(captioner, "auto")
    assert _way(fast, captioner) == found.way == chosen
    assert (found.precision, found.measured_s) == (chosen.split()[0], times)
    assert _way(with_speed(captioner, found.way)[0], captioner) == chosen


def _way(one: Captioner, plain: Captioner) -> str:
    if one is plain:
        return "fp32"
    return "int8" if isinstance(one.decoder.output, Int8Linear) else "fp32 packed"


def test_fp32_and_a_machine_without_the_operators_keep_the_model_as_it_is(
    captioner: Captioner, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert with_speed(captioner, "fp32") == (captioner, Speed("fp32", {}))
    monkeypatch.setattr(speed, "can_pack", lambda precision: False)
    assert with_speed(captioner, "auto") == (captioner, Speed("fp32", {}))


def test_format_that_the_machine_lacks_is_refused_by_name(
    captioner: Captioner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("models.packing.packing_layer", lambda precision: None)
    with pytest.raises(ValueError, match="cannot run the model in int8"):
        with_speed(captioner, "int8")


@pytest.mark.parametrize("precision", ["auto", pytest.param("int8", marks=needs_int8)])
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
