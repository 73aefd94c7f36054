"""The number formats that the engine chooses, and captions in each of them."""

import pytest
from torch import Tensor

from models.captioner import Captioner
from models.packing import can_pack
from service.engine import speed
from service.engine.engine import Engine, EngineSettings
from service.engine.options import CaptionOptions
from service.engine.speed import Speed, Wanted, with_speed
from tests.service.engine.conftest import WAIT_S, Recorder

needs_int8 = pytest.mark.skipif(not can_pack("int8"), reason="oneDNN has no int8 here")


@needs_int8
@pytest.mark.parametrize(
    ("fp32_s", "int8_s", "chosen"), [(2.0, 1.0, "int8"), (1.0, 0.95, "fp32"), (1.0, 2.0, "fp32")]
)
def test_int8_is_taken_only_where_it_was_measured_to_be_clearly_faster(
    captioner: Captioner, monkeypatch: pytest.MonkeyPatch, fp32_s: float, int8_s: float, chosen: str
) -> None:
    monkeypatch.setattr(speed, "seconds", lambda one: fp32_s if one is captioner else int8_s)
    fast, found = with_speed(captioner, "auto")
    assert found == Speed(chosen, {"fp32": fp32_s, "int8": int8_s})  # type: ignore[arg-type]
    assert (fast is captioner) == (chosen == "fp32")


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
