"""The engine from outside: what it answers, and what it does when something is slow, gone, late or broken."""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from models.captioner import Captioner
from models.generation import OptionError
from models.image_features import ImageFeatures
from models.naive import generate_naive
from service.engine.engine import Engine
from service.engine.errors import (
    CaptioningError,
    DeadlineExceededError,
    EngineDeadError,
    EngineStoppedError,
    InvalidInputError,
    QueueFullError,
)
from service.engine.options import CaptionOptions
from service.engine.results import ImageCaptions
from tests.service.engine.conftest import WAIT_S, Gate, Recorder, error, result

MakeEngine = Callable[..., Engine]
GREEDY = CaptionOptions(strategy="greedy")
FULL = CaptionOptions(strategy="greedy", min_tokens=12, max_tokens=12)


def wait_until(is_true: Callable[[], bool]) -> None:
    end = time.monotonic() + WAIT_S
    while not is_true():
        assert time.monotonic() < end
        time.sleep(0.005)


@torch.inference_mode()
def alone(captioner: Captioner, pixels: Tensor, options: CaptionOptions) -> list[tuple[int, ...]]:
    features = captioner.encode_image(captioner.clip.preprocess.normalize(pixels.unsqueeze(0)))
    generation = options.to_generation(captioner.tokenizer, max_tokens=12)
    candidates = generate_naive(
        captioner.decoder, captioner.prefix(features)[0], generation, tokens=captioner.tokenizer
    )
    return [one.token_ids for one in candidates]


def test_answers_equal_the_oracle_for_mixed_requests(
    make_engine: MakeEngine, captioner: Captioner, pixels: Tensor
) -> None:
    engine = make_engine(max_images=4, max_rows=16, encode_batch=3)
    asked = [
        CaptionOptions(rank_by="likelihood", num_beams=3, num_captions=2),
        GREEDY,
        CaptionOptions(strategy="sample", num_captions=3, temperature=1.5, seed=3),
        CaptionOptions(strategy="greedy", prefix="the dog", no_repeat_ngram_size=1),
    ] * 4
    futures = [engine.submit(one, options) for one, options in zip(pixels, asked, strict=True)]
    for future, one, options in zip(futures, pixels, asked, strict=True):
        got = {caption.token_ids for caption in result(future).captions}
        assert got == set(alone(captioner, one, options))


def test_scores_are_clips_and_the_best_comes_first(
    make_engine: MakeEngine, captioner: Captioner, pixels: Tensor
) -> None:
    engine = make_engine()
    options = CaptionOptions(strategy="sample", num_captions=4, temperature=2.0, max_chars=12)
    captions = result(engine.submit(pixels[0], options)).captions
    similarities = [one.clip_similarity for one in captions]
    assert similarities == sorted(similarities, reverse=True)
    with torch.inference_mode():
        image = captioner.encode_image(captioner.clip.preprocess.normalize(pixels[:1])).embedding
        expected = captioner.clip.encode_captions([one.text for one in captions]) @ image[0]
    assert similarities == pytest.approx(expected.tolist(), abs=1e-5)
    assert [one.clip_score for one in captions] == pytest.approx(
        [2.5 * max(one, 0.0) for one in similarities]
    )
    assert all(one.num_tokens == len(one.token_ids) for one in captions)


def test_by_clip_the_best_of_all_beams_is_kept(make_engine: MakeEngine, pixels: Tensor) -> None:
    engine = make_engine()
    every = result(engine.submit(pixels[0], CaptionOptions(num_captions=4))).captions
    best = result(engine.submit(pixels[0], CaptionOptions(num_captions=1))).captions
    likeliest = result(engine.submit(pixels[0], CaptionOptions(rank_by="likelihood"))).captions
    assert best == every[:1]
    assert likeliest[0].log_likelihood == max(one.log_likelihood for one in every)


def test_no_pair_of_tokens_comes_twice_unless_asked_for(make_engine: MakeEngine, pixels: Tensor) -> None:
    engine = make_engine()

    def repeats(options: CaptionOptions) -> int:
        captions = [result(engine.submit(one, options)).captions[0].token_ids for one in pixels]
        pairs = [list(pairwise(token_ids)) for token_ids in captions]
        return sum(len(one) - len(set(one)) for one in pairs)

    assert repeats(replace(FULL, no_repeat_ngram_size=0)) > 0
    assert repeats(FULL) == 0


def test_an_embedding_is_captioned_as_its_image(
    make_engine: MakeEngine, captioner: Captioner, pixels: Tensor
) -> None:
    engine = make_engine()
    with torch.inference_mode():
        embedding = captioner.encode_image(captioner.clip.preprocess.normalize(pixels[:1])).embedding[0]
    by_pixels, by_embedding = engine.submit(pixels[0], GREEDY), engine.submit(embedding * 3, GREEDY)
    assert result(by_embedding).captions[0].token_ids == result(by_pixels).captions[0].token_ids


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (
            torch.zeros(3, 16, 16, dtype=torch.uint8),
            r"the pixels are \(3, 16, 16\); this model reads \(3, 32, 32\)",
        ),
        (torch.zeros(3, 32, 32), "neither uint8 pixels nor 16 real numbers"),
        (torch.full((16,), torch.nan), "must be finite"),
        (torch.zeros(16), "not all zero"),
    ],
)
def test_what_is_no_image_is_refused(make_engine: MakeEngine, image: Tensor, message: str) -> None:
    engine = make_engine()
    with pytest.raises(InvalidInputError, match=message):
        engine.submit(image, GREEDY)
    assert engine.depth == 0


def test_a_prefix_longer_than_the_caption_is_refused(make_engine: MakeEngine, pixels: Tensor) -> None:
    engine = make_engine()
    with pytest.raises(OptionError, match="shorter than 12 tokens"):
        engine.submit(pixels[0], CaptionOptions(prefix="the dog " * 6))
    assert engine.depth == 0


def test_cancelled_caller_does_not_stop_the_loop(
    make_engine: MakeEngine, gate: Gate, pixels: Tensor, recorder: Recorder
) -> None:
    engine = make_engine(encode_batch=1)
    gate.shut()
    encoding, waiting, kept = (engine.submit(one, GREEDY) for one in pixels[:3])
    gate.wait_for_arrival()
    assert encoding.cancel()
    assert waiting.cancel()
    assert engine.depth == 1
    gate.open()
    assert result(kept).captions
    assert recorder.losses == ["cancelled", "cancelled"]
    assert sum(gate.batches[-2:]) == 2
    assert result(engine.submit(pixels[3], GREEDY)).captions


def test_a_caller_that_leaves_during_decoding_frees_its_rows(
    make_engine: MakeEngine, pixels: Tensor, captioner: Captioner, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_engine(max_images=1, max_rows=16)
    step, in_step, resume = captioner.decoder.step, threading.Event(), threading.Event()

    def held(*arguments: object, **named: object) -> Tensor:
        in_step.set()
        assert resume.wait(WAIT_S)
        return step(*arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(captioner.decoder, "step", held)
    leaving, following = engine.submit(pixels[0], FULL), engine.submit(pixels[1], FULL)
    assert in_step.wait(WAIT_S)
    assert leaving.cancel()
    resume.set()
    assert result(following).captions[0].num_tokens == 12


def test_a_full_queue_says_when_to_come_back(make_engine: MakeEngine, gate: Gate, pixels: Tensor) -> None:
    engine = make_engine(max_depth=3)
    gate.shut()
    first = engine.submit(pixels[0], GREEDY)
    with engine.reserve(2) as places:
        with pytest.raises(
            QueueFullError, match="3 images wait or run, and 1 more would pass the limit of 3"
        ) as full:
            engine.submit(pixels[1], GREEDY)
        assert full.value.retry_after_s >= 1.0
        second = engine.submit(pixels[1], GREEDY, places=places)
    assert engine.depth == 2
    engine.reserve().release()
    gate.open()
    assert result(first).captions
    assert result(second).captions
    wait_until(lambda: engine.depth == 0)


def test_image_that_could_not_be_answered_in_time_is_refused_at_once(
    make_engine: MakeEngine, gate: Gate, pixels: Tensor
) -> None:
    engine = make_engine(max_wait_s=1e-6, max_images=1)
    gate.shut()
    crowd = [engine.submit(pixels[0], GREEDY) for _ in range(4)]  # its speed under load is not known yet
    gate.open()
    assert all(result(one).captions for one in crowd)
    wait_until(lambda: engine.depth == 0)
    gate.shut()
    first = engine.submit(pixels[0], GREEDY)
    with pytest.raises(QueueFullError, match="1 images wait or run, and that is 0 s of work"):
        engine.submit(pixels[1], GREEDY)
    engine.reserve(priority="bulk").release()
    gate.open()
    assert result(first).captions
    wait_until(lambda: engine.depth == 0)


def test_no_more_images_than_reserved_places(make_engine: MakeEngine, pixels: Tensor) -> None:
    engine = make_engine()
    with engine.reserve() as places:
        future = engine.submit(pixels[0], GREEDY, places=places)
        with pytest.raises(ValueError, match="no place is left"):
            engine.submit(pixels[0], GREEDY, places=places)
    assert result(future).captions


def test_bulk_work_leaves_half_of_the_places_to_others(make_engine: MakeEngine) -> None:
    engine = make_engine(max_depth=4)
    with engine.reserve(2, priority="bulk"):
        with pytest.raises(QueueFullError):
            engine.reserve(priority="bulk")
        engine.reserve(2).release()
    assert engine.depth == 0


def test_late_images_fail_while_the_model_is_busy(
    make_engine: MakeEngine, gate: Gate, pixels: Tensor, recorder: Recorder
) -> None:
    engine = make_engine(encode_batch=1)
    gate.shut()
    patient = engine.submit(pixels[2], GREEDY, deadline=time.monotonic() + 60)
    gate.wait_for_arrival()
    soon = time.monotonic() + 0.05
    late = [engine.submit(one, GREEDY, deadline=soon) for one in pixels[:2]]
    for future in late:
        assert isinstance(error(future), DeadlineExceededError)
    assert not patient.done()
    assert recorder.losses == ["deadline", "deadline"]
    gate.open()
    assert result(patient).captions


def test_an_image_that_is_late_in_the_model_is_not_answered_twice(
    make_engine: MakeEngine, gate: Gate, pixels: Tensor, recorder: Recorder
) -> None:
    engine = make_engine()
    gate.shut()
    late = engine.submit(pixels[0], GREEDY, deadline=time.monotonic() + 0.05)
    assert isinstance(error(late), DeadlineExceededError)
    gate.open()
    assert result(engine.submit(pixels[1], GREEDY)).captions
    assert (len(recorder.answers), recorder.losses) == (1, ["deadline"])


@pytest.mark.parametrize("part", ["clip.encode_captions", "encode_image", "decoder.prefill", "decoder.step"])
def test_a_failing_stage_answers_its_images_and_the_loop_lives(
    make_engine: MakeEngine, captioner: Captioner, pixels: Tensor, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    engine = make_engine()
    several = CaptionOptions(num_beams=3, num_captions=3, max_tokens=12)
    expected = result(engine.submit(pixels[0], several))
    *owner, name = part.split(".")
    broken = getattr(captioner, owner[0]) if owner else captioner

    def fail(*arguments: object, **named: object) -> None:
        raise RuntimeError("out of luck")

    with monkeypatch.context() as patch:
        patch.setattr(broken, name, fail)
        futures = [engine.submit(one, several) for one in pixels[:3]]
        for future in futures:
            assert isinstance(error(future), CaptioningError)
    assert engine.is_alive()
    assert result(engine.submit(pixels[0], several)).captions == expected.captions
    wait_until(lambda: engine.depth == 0)


def test_an_image_with_broken_numbers_fails_alone(
    make_engine: MakeEngine, captioner: Captioner, pixels: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, make_prefix = make_engine(), captioner.prefix
    with torch.inference_mode():
        marked = captioner.encode_image(captioner.clip.preprocess.normalize(pixels[1:2])).embedding[0]

    def poisoned(features: ImageFeatures) -> Tensor:
        is_marked = (features.embedding - marked).abs().amax(dim=1) < 1e-5
        return make_prefix(features).masked_fill(is_marked.view(-1, 1, 1), torch.nan)

    monkeypatch.setattr(captioner, "prefix", poisoned)
    first, broken, third = (engine.submit(one, GREEDY) for one in pixels[:3])
    assert isinstance(error(broken), CaptioningError)
    assert result(first).captions
    assert result(third).captions


def test_an_engine_that_dies_answers_everybody_and_says_so(
    make_engine: MakeEngine, gate: Gate, captioner: Captioner, pixels: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    fatal: list[BaseException] = []
    engine = make_engine(on_fatal=fatal.append, encode_batch=1, max_images=2)
    gate.shut()
    futures = [engine.submit(one, GREEDY) for one in pixels[:4]]
    gate.wait_for_arrival()

    def lose_the_device(*arguments: object, **named: object) -> Tensor:
        raise torch.AcceleratorError("device-side assert")

    monkeypatch.setattr(captioner.decoder, "step", lose_the_device)
    gate.open()
    for future in futures:
        assert isinstance(error(future), EngineDeadError)
    wait_until(lambda: bool(fatal))
    assert isinstance(fatal[0], torch.AcceleratorError)
    assert not engine.is_alive()
    assert engine.depth == 0
    with pytest.raises(EngineDeadError):
        engine.reserve()
    with pytest.raises(EngineDeadError):
        engine.submit(pixels[0], GREEDY)


def test_a_model_that_does_not_run_is_known_at_start(
    make_engine: MakeEngine, captioner: Captioner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(captioner, "encode_image", None)
    with pytest.raises(EngineDeadError, match="warmed the model up"):
        make_engine()


def test_stopping_finishes_accepted_work_and_refuses_more(
    make_engine: MakeEngine, gate: Gate, pixels: Tensor
) -> None:
    engine = make_engine(encode_batch=2)
    gate.shut()
    places = engine.reserve()
    futures = [engine.submit(one, GREEDY) for one in pixels[:5]]
    gate.wait_for_arrival()
    stopping = threading.Thread(target=engine.stop, kwargs={"drain_s": WAIT_S})
    stopping.start()
    wait_until(lambda: not engine.is_alive())
    with pytest.raises(EngineStoppedError, match="draining"):
        engine.reserve()
    futures.append(engine.submit(pixels[5], GREEDY, places=places))
    gate.open()
    for future in futures:
        assert result(future).captions
    stopping.join(WAIT_S)
    assert not stopping.is_alive()
    with pytest.raises(EngineStoppedError, match="stopped"):
        engine.reserve()


def test_an_engine_that_never_started_takes_nothing_and_can_be_stopped(
    captioner: Captioner, pixels: Tensor
) -> None:
    engine = Engine(captioner)
    with pytest.raises(EngineStoppedError, match="new"):
        engine.submit(pixels[0], GREEDY)
    engine.stop(drain_s=WAIT_S)
    assert not engine.is_alive()


def test_what_is_not_done_when_the_drain_time_ends_fails(
    make_engine: MakeEngine, gate: Gate, pixels: Tensor, recorder: Recorder
) -> None:
    engine = make_engine(encode_batch=1)
    gate.shut()
    futures = [engine.submit(one, GREEDY) for one in pixels[:3]]
    gate.wait_for_arrival()
    threading.Timer(0.2, gate.open).start()
    engine.stop(drain_s=0)
    assert all(isinstance(error(future), EngineStoppedError) for future in futures)
    assert recorder.losses == ["stopped"] * 3


def test_a_single_image_does_not_wait_for_a_large_request(
    make_engine: MakeEngine, gate: Gate, pixels: Tensor
) -> None:
    engine = make_engine(encode_batch=1, max_images=1, max_rows=16)
    order: list[str] = []
    gate.shut()
    blocker = engine.submit(pixels[0], GREEDY)
    gate.wait_for_arrival()
    large = [engine.submit(one, GREEDY, request_id="large") for one in pixels[:8]]
    single = engine.submit(pixels[8], GREEDY, request_id="single")
    for name, future in [*(("large", one) for one in large), ("single", single)]:
        future.add_done_callback(lambda done, name=name: order.append(name))  # type: ignore[misc]
    gate.open()
    for future in [blocker, *large, single]:
        result(future)
    assert order.index("single") == 1


def test_interactive_images_go_before_bulk_ones(
    make_engine: MakeEngine, gate: Gate, pixels: Tensor, recorder: Recorder
) -> None:
    engine = make_engine(encode_batch=1)
    gate.shut()
    blocker = engine.submit(pixels[0], GREEDY)
    gate.wait_for_arrival()
    with engine.reserve(4, priority="bulk") as places:
        futures = [engine.submit(one, GREEDY, places=places, request_id="bulk") for one in pixels[:4]]
    futures += [engine.submit(one, GREEDY) for one in pixels[4:7]]
    gate.open()
    for future in [blocker, *futures]:
        result(future)
    assert recorder.admissions == ["interactive"] * 4 + ["bulk"] * 4


def test_images_that_wait_together_are_encoded_together(
    make_engine: MakeEngine, gate: Gate, pixels: Tensor, recorder: Recorder
) -> None:
    engine = make_engine(encode_batch=4)
    gate.shut()
    blocker = engine.submit(pixels[0], FULL)
    gate.wait_for_arrival()
    futures = [engine.submit(one, FULL) for one in pixels[1:7]]
    gate.open()
    for future in [blocker, *futures]:
        result(future)
    assert [size for stage, size in recorder.stages if stage == "encode"] == [1, 4, 2]
    assert max(size for stage, size in recorder.stages if stage == "decode") == 7


def test_timings_and_observer_tell_where_the_time_went(
    make_engine: MakeEngine, pixels: Tensor, recorder: Recorder
) -> None:
    engine = make_engine()
    began = time.monotonic()
    answer = result(engine.submit(pixels[0], CaptionOptions(num_beams=3)))
    total = time.monotonic() - began
    timings = answer.timings
    spent = timings.queue_s + timings.encode_s + timings.decode_s + timings.score_s
    assert 0 < spent <= total
    wait_until(lambda: recorder.depth == 0)
    assert recorder.answers == [answer]
    assert recorder.stages[:2] == [("encode", 1), ("prefill", 1)]
    assert recorder.stages[-1] == ("score", 3)
    assert {size for stage, size in recorder.stages if stage == "decode"} == {3}


def test_a_stream_yields_everything_and_reads_a_bounded_number_ahead(
    make_engine: MakeEngine, pixels: Tensor
) -> None:
    engine = make_engine(max_depth=8, max_images=2)
    read = furthest = 0

    def images() -> Iterator[tuple[int, Tensor]]:
        nonlocal read
        for at in range(40):
            read += 1
            yield at, pixels[at % len(pixels)] if at != 7 else pixels[0, :, :4]

    outcomes: dict[int, BaseException | None] = {}
    for yielded, (key, future) in enumerate(engine.caption_many(images(), GREEDY), start=1):
        furthest = max(furthest, read - yielded)
        outcomes[key] = future.exception(0)
    assert outcomes.keys() == set(range(40))
    assert isinstance(outcomes.pop(7), InvalidInputError)
    assert not any(outcomes.values())
    assert furthest <= 4


def test_a_stream_whose_prefix_leaves_no_room_yields_that_for_every_image(
    make_engine: MakeEngine, pixels: Tensor
) -> None:
    engine = make_engine(max_images=2)
    options = CaptionOptions(prefix="the dog runs", max_tokens=2)
    futures = [future for _, future in engine.caption_many(enumerate(pixels), options)]
    assert [type(future.exception(0)) for future in futures] == [OptionError] * len(pixels)
    wait_until(lambda: engine.depth == 0)


def test_a_closed_stream_takes_its_images_out(make_engine: MakeEngine, pixels: Tensor) -> None:
    engine = make_engine(max_images=4)
    stream = engine.caption_many(enumerate(pixels), FULL)
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    wait_until(lambda: engine.depth == 0)
    assert result(engine.submit(pixels[0], GREEDY)).captions


def test_an_answer_does_not_depend_on_the_traffic(make_engine: MakeEngine, pixels: Tensor) -> None:
    engine = make_engine(max_images=4, max_rows=16, encode_batch=2)
    options = CaptionOptions(strategy="sample", num_captions=3, temperature=1.5, seed=7)
    quiet = result(engine.submit(pixels[0], options))
    noise = [engine.submit(one, CaptionOptions()) for one in pixels]
    busy = result(engine.submit(pixels[0], options))
    for future in noise:
        result(future)
    assert _ids(busy) == _ids(quiet)


def _ids(answer: ImageCaptions) -> set[tuple[int, ...]]:
    return {one.token_ids for one in answer.captions}
