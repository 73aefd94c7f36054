"""The engine's small parts: options, text, waiting line, rate, threads."""

import time
from concurrent.futures import Future
from dataclasses import fields
from pathlib import Path

import pytest
import torch

from models.generation import GenerationOptions, OptionError
from service.engine.deadlines import DeadlineWatch
from service.engine.errors import DeadlineExceededError
from service.engine.options import NO_REPEAT_NGRAM_SIZE, CaptionOptions
from service.engine.rate import RateMeter
from service.engine.results import ImageCaptions, Priority
from service.engine.settings import EngineSettings
from service.engine.text import cut_at_word
from service.engine.threads import available_cpus, limit_threads
from service.engine.waiting import BULK_TURN, WaitingLine
from service.engine.work import Work


class LetterTokenizer:
    """One token for each letter."""

    def encode(self, text: str) -> list[int]:
        return [ord(letter) - ord("a") for letter in text]


def work(request_id: str, *, priority: Priority = "interactive") -> Work:
    return Work(torch.zeros(1), CaptionOptions(), GenerationOptions(), request_id, priority)


def pop_all(line: WaitingLine) -> list[str]:
    popped = []
    while (one := line.pop(lambda _: True)) is not None:
        popped.append(str(one.request_id))
    return popped


def test_options_become_what_the_decoder_is_asked_for() -> None:
    options = CaptionOptions(
        strategy="sample", num_captions=2, temperature=0.5, seed=4, prefix="abc", min_tokens=25
    )
    generation = options.to_generation(LetterTokenizer(), max_tokens=20)
    assert generation == GenerationOptions(
        strategy="sample",
        num_captions=2,
        temperature=0.5,
        seed=4,
        prefix_ids=(0, 1, 2),
        min_tokens=20,
        max_tokens=20,
        no_repeat_ngram_size=NO_REPEAT_NGRAM_SIZE,
    )


def test_by_clip_every_hypothesis_of_a_beam_is_decoded() -> None:
    by_clip, by_likelihood = CaptionOptions(num_beams=5), CaptionOptions(num_beams=5, rank_by="likelihood")
    assert by_clip.to_generation(LetterTokenizer(), max_tokens=20).num_captions == 5
    assert by_likelihood.to_generation(LetterTokenizer(), max_tokens=20).num_captions == 1


@pytest.mark.parametrize(
    ("field", "value", "limit"),
    [
        ("rank_by", "luck", "one of clip, likelihood"),
        ("max_chars", 0, "between 1 and 10000"),
        ("prefix", "a" * 201, "at most 200 characters"),
        ("num_beams", 17, "between 1 and 16"),
        ("num_captions", 5, "at most 4 with beam"),
        ("min_tokens", 31, "at most max_tokens"),
    ],
)
def test_an_option_outside_its_limits_is_named_with_value_and_limit(
    field: str, value: object, limit: str
) -> None:
    with pytest.raises(OptionError) as caught:
        CaptionOptions(**{field: value})  # type: ignore[arg-type]
    assert (caught.value.name, caught.value.value) == (field, value)
    assert limit in str(caught.value)


def test_a_prefix_that_leaves_no_room_is_refused() -> None:
    with pytest.raises(OptionError, match="shorter than 3 tokens"):
        CaptionOptions(prefix="abc").to_generation(LetterTokenizer(), max_tokens=3)


def test_the_schema_has_every_decoding_option_with_the_same_limits_and_one_default_of_its_own() -> None:
    ours = {one.name: one for one in fields(CaptionOptions)}
    for theirs in fields(GenerationOptions):
        if theirs.name != "prefix_ids":
            assert ours[theirs.name].metadata == theirs.metadata
            own_default = {"no_repeat_ngram_size": NO_REPEAT_NGRAM_SIZE}.get(theirs.name, theirs.default)
            assert ours[theirs.name].default == own_default
    assert all(one.metadata["about"] for one in ours.values())


@pytest.mark.parametrize(
    ("text", "max_chars", "expected"),
    [
        ("a dog in the snow", None, "a dog in the snow"),
        ("a dog in the snow", 17, "a dog in the snow"),
        ("a dog in the snow", 16, "a dog in the"),
        ("a dog in the snow", 12, "a dog in the"),
        ("a dog in the snow", 11, "a dog in"),
        ("a dog, a cat", 7, "a dog"),
        ("extraordinarily big", 5, "extraordinarily"),
        ("extraordinarily", 5, "extraordinarily"),
        ("", 5, ""),
    ],
)
def test_text_is_cut_between_words(text: str, max_chars: int | None, expected: str) -> None:
    assert cut_at_word(text, max_chars=max_chars) == expected


def test_requests_take_turns() -> None:
    line = WaitingLine()
    for request_id in ["a", "a", "a", "b", "c", "c"]:
        line.push(work(request_id))
    assert len(line) == 6
    assert pop_all(line) == ["a", "b", "c", "a", "c", "a"]
    assert len(line) == 0


def test_bulk_work_comes_last_but_never_stands_still() -> None:
    line = WaitingLine()
    for _ in range(2):
        line.push(work("bulk", priority="bulk"))
    for _ in range(2 * BULK_TURN):
        line.push(work("now"))
    order = pop_all(line)
    assert order[: BULK_TURN - 1] == ["now"] * (BULK_TURN - 1)
    assert order.index("bulk") == BULK_TURN - 1
    assert order.count("bulk") == 2


def test_an_image_that_does_not_fit_is_not_overtaken() -> None:
    line, large = WaitingLine(), work("large")
    line.push(large)
    line.push(work("small"))
    assert line.pop(lambda one: one is not large) is None
    assert pop_all(line) == ["large", "small"]


def test_a_removed_image_leaves_no_trace() -> None:
    line, gone = WaitingLine(), work("a")
    line.push(gone)
    line.push(work("b"))
    line.remove(gone)
    line.remove(gone)
    assert pop_all(line) == ["b"]


def test_retry_after_follows_the_measured_rate() -> None:
    meter = RateMeter(trusted=1)
    assert meter.retry_after_s(depth=100) == 1.0
    for _ in range(200):
        meter.add(images=1, seconds=0.1, is_loaded=False)
    assert meter.retry_after_s(depth=100) == pytest.approx(5.0)
    for _ in range(500):
        meter.add(images=1, seconds=0.2, is_loaded=False)
    assert meter.retry_after_s(depth=100) == pytest.approx(10.0, rel=0.01)
    assert meter.retry_after_s(depth=10_000) == 60.0


def test_wait_is_known_when_enough_images_were_answered_under_load() -> None:
    meter = RateMeter(trusted=8)
    for _ in range(50):
        meter.add(images=1, seconds=2.0, is_loaded=False)  # one by one it is slow
    assert meter.wait_s(depth=100) == 0.0
    for _ in range(7):
        meter.add(images=1, seconds=0.1, is_loaded=True)
    assert meter.wait_s(depth=100) == 0.0
    for _ in range(7):
        meter.add(images=1, seconds=0.1, is_loaded=True)
    assert meter.wait_s(depth=100) == pytest.approx(10.0)


def test_the_watch_fails_the_late_in_order_and_spares_the_rest() -> None:
    watch = DeadlineWatch()
    watch.start()
    late, later, never = (Future[ImageCaptions]() for _ in range(3))
    now = time.monotonic()
    watch.watch(never, deadline=now + 100, number=0)
    watch.watch(later, deadline=now + 0.1, number=1)
    watch.watch(late, deadline=now + 0.02, number=2)
    assert isinstance(late.exception(5), DeadlineExceededError)
    assert not later.done()
    assert isinstance(later.exception(5), DeadlineExceededError)
    watch.stop()
    assert not never.done()


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, None),
        ({"cpu.max": "max 100000"}, None),
        ({"cpu.max": "50000 100000"}, 1),
        ({"cpu.max": "100000 100000"}, 1),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ({"cpu/cpu.cfs_quota_us": "80000", "cpu/cpu.cfs_period_us": "100000"}, 1),
    ],
)
def test_the_container_quota_limits_the_processors(
    tmp_path: Path, files: dict[str, str], expected: int | None
) -> None:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content + "\n")
    unlimited = available_cpus(cgroup=tmp_path / "absent")
    assert available_cpus(cgroup=tmp_path) == (expected or unlimited)


def test_torch_gets_no_more_threads_than_processors_and_never_more_than_it_had() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(64)
        limit_threads()
        assert torch.get_num_threads() == min(64, available_cpus())
        torch.set_num_threads(1)
        limit_threads()
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_settings_that_could_never_admit_an_image_are_refused() -> None:
    with pytest.raises(ValueError, match="max_rows is 8; one image may need 16"):
        EngineSettings(max_rows=8)
    with pytest.raises(ValueError, match="bound below 1"):
        EngineSettings(max_images=0)
