"""What the engine tells while it writes, and scores of given texts."""

import threading
from collections.abc import Callable, Mapping, Sequence

import pytest
import torch
from torch import Tensor

from models.captioner import Captioner
from service.engine.engine import Engine
from service.engine.errors import InvalidInputError
from service.engine.options import CaptionOptions
from service.engine.work import Texts
from tests.service.engine.conftest import Recorder, result

MakeEngine = Callable[..., Engine]
Told = list[dict[int, list[int]]]


def told_by(engine: Engine, image: Tensor, options: CaptionOptions) -> tuple[Told, list[tuple[int, ...]]]:
    """Everything a listener hears of one image, and the captions in the end."""
    told: Told = []

    def listen(written: Mapping[int, list[int]]) -> None:
        told.append({index: list(ids) for index, ids in written.items()})

    answer = result(engine.submit(image, options, on_tokens=listen))
    return told, [caption.token_ids for caption in answer.captions]


def test_greedy_tokens_are_told_one_by_one(make_engine: MakeEngine, pixels: Tensor) -> None:
    told, (caption,) = told_by(make_engine(), pixels[0], CaptionOptions(strategy="greedy", min_tokens=12))
    assert [ids[0] for ids in told] == [list(caption[:count]) for count in range(1, len(caption))]
    assert len(told) > 5


def test_each_sample_is_told_by_its_index(make_engine: MakeEngine, pixels: Tensor) -> None:
    options = CaptionOptions(
        strategy="sample", num_captions=3, rank_by="likelihood", seed=1, min_tokens=12, repetition_penalty=1.2
    )
    told, captions = told_by(make_engine(), pixels[0], options)
    for index in range(3):
        heard = [ids[index] for ids in told if index in ids]
        assert [len(ids) for ids in heard] == list(range(1, len(heard) + 1))
        assert any(list(caption[: len(heard[-1])]) == heard[-1] for caption in captions)


def test_of_a_beam_only_its_best_hypothesis_is_told(make_engine: MakeEngine, pixels: Tensor) -> None:
    told, _ = told_by(make_engine(), pixels[0], CaptionOptions(min_tokens=12))
    assert {tuple(written) for written in told} == {(0,)}
    assert [len(ids[0]) for ids in told] == list(range(1, len(told) + 1))


def test_a_listener_that_fails_costs_nobody_a_caption(make_engine: MakeEngine, pixels: Tensor) -> None:
    engine, calls = make_engine(), []

    def fail(written: Mapping[int, list[int]]) -> None:
        calls.append(written)
        raise RuntimeError("nobody listens")

    assert result(engine.submit(pixels[0], CaptionOptions(min_tokens=6), on_tokens=fail)).captions
    assert len(calls) == 1
    assert engine.is_alive()


def test_scores_are_the_cosines_of_clip(
    make_engine: MakeEngine, pixels: Tensor, captioner: Captioner, recorder: Recorder
) -> None:
    engine, texts = make_engine(), Texts(("the dog", "a cat in the snow", "the dog"))
    answers = [result(future) for future in [engine.submit_scores(one, texts) for one in pixels[:2]]]  # type: ignore[arg-type]
    clip = captioner.clip
    images = captioner.encode_image(clip.preprocess.normalize(pixels[:2])).embedding
    wanted = images @ clip.encode_captions(texts.texts).T
    for answer, cosines in zip(answers, wanted, strict=True):
        assert [one.text for one in answer.scores] == list(texts.texts)  # type: ignore[attr-defined]
        got = torch.tensor([one.clip_similarity for one in answer.scores])  # type: ignore[attr-defined]
        assert torch.allclose(got, cosines, atol=1e-5)
    assert len(recorder.scores) == 2
    assert recorder.answers == []
    assert engine.depth == 0


def test_texts_of_a_request_are_encoded_once(
    make_engine: MakeEngine, pixels: Tensor, captioner: Captioner, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, encode, calls = make_engine(encode_batch=1), captioner.clip.encode_captions, list[object]()

    def counted(texts: Sequence[str]) -> Tensor:
        calls.append(texts)
        return encode(texts)

    monkeypatch.setattr(captioner.clip, "encode_captions", counted)
    texts = Texts(("the dog", "the cat"))
    for future in [engine.submit_scores(one, texts) for one in pixels[:4]]:
        future.result(30)
    assert calls == [texts.texts]


def test_images_to_score_and_to_caption_share_a_batch(
    make_engine: MakeEngine, pixels: Tensor, recorder: Recorder
) -> None:
    engine, greedy = make_engine(), CaptionOptions(strategy="greedy")
    (alone,) = result(engine.submit(pixels[1], greedy)).captions
    scored = engine.submit_scores(pixels[0], Texts(("the dog",)))
    captioned = engine.submit(pixels[1], greedy)
    (caption,) = result(captioned).captions
    assert caption.token_ids == alone.token_ids
    assert caption.clip_similarity == pytest.approx(alone.clip_similarity, abs=1e-5)
    assert len(scored.result(30).scores) == 1


def test_a_cancelled_score_frees_its_place(make_engine: MakeEngine, pixels: Tensor) -> None:
    engine, told, go_on = make_engine(encode_batch=1), threading.Event(), threading.Event()

    def hold(written: Mapping[int, list[int]]) -> None:
        told.set()
        go_on.wait(30)

    running = engine.submit(pixels[0], CaptionOptions(min_tokens=6), on_tokens=hold)
    assert told.wait(30)
    waiting = engine.submit_scores(pixels[1], Texts(("the dog",)))
    assert waiting.cancel()
    assert engine.depth == 1
    go_on.set()
    assert result(running).captions


def test_an_impossible_embedding_is_not_scored(make_engine: MakeEngine) -> None:
    engine = make_engine()
    with pytest.raises(InvalidInputError, match="not all zero"):
        engine.submit_scores(torch.zeros(16), Texts(("the dog",)))
    assert engine.depth == 0
