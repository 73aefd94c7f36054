"""CLIP features on disk: equal to the encoder's, computed once, unreadable pictures left out and named."""

import io
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from models.clip import ClipEncoder
from models.config import MappingConfig
from tests.tiny import tiny_clip
from tests.training.conftest import write_scenes
from training.data import Images, Problems
from training.features import FeatureStore, cached_features
from training.folders import read_images
from training.pixels import read_pixels
from training.shards import SHARD_ROWS, MappedFiles, ShardedArrays, cached_arrays


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> ClipEncoder:
    return tiny_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture
def photos(tmp_path: Path) -> Images:
    write_scenes(tmp_path / "photos")
    return read_images(tmp_path / "photos", Problems())


def test_stored_features_equal_the_encoder_s(clip: ClipEncoder, photos: Images, tmp_path: Path) -> None:
    store, rows = _features(clip, photos, tmp_path)
    pixels = torch.stack([clip.preprocess(Image.open(str(file))) for file in photos.files])
    expected = clip.encode_image(pixels)
    stored = store.batch(np.arange(8))
    assert rows == list(range(8))
    assert expected.grid is not None
    assert stored.grid is not None
    torch.testing.assert_close(stored.embedding, expected.embedding, atol=1e-3, rtol=0)
    torch.testing.assert_close(stored.grid, expected.grid, atol=1e-2, rtol=1e-2)


def test_batches_come_in_the_order_asked_for(clip: ClipEncoder, photos: Images, tmp_path: Path) -> None:
    store, _ = _features(clip, photos, tmp_path)
    assert torch.equal(store.batch(np.array([5, 1])).embedding, store.embeddings()[[5, 1]])


def test_a_drawn_view_is_the_picture_or_its_mirror_image(
    clip: ClipEncoder, photos: Images, tmp_path: Path
) -> None:
    store, _ = _features(clip, photos, tmp_path, views=("original", "flip"))
    mirrored = torch.stack([read_pixels(file, clip.preprocess).flip(-1) for file in photos.files])
    flipped = clip.encode_image(clip.preprocess.normalize(mirrored)).embedding
    drawn = store.batch(np.zeros(32, dtype=int), generator=torch.Generator().manual_seed(0)).embedding
    is_original = (drawn - store.embeddings()[0]).abs().amax(dim=1) < 1e-3
    is_flipped = (drawn - flipped[0]).abs().amax(dim=1) < 1e-3
    assert (is_original | is_flipped).all()
    assert is_original.any()
    assert is_flipped.any()


def test_the_length_of_the_embedding_is_kept_where_it_is_asked_for(
    clip: ClipEncoder, photos: Images, tmp_path: Path
) -> None:
    store, _ = cached_features(
        photos,
        clip,
        views=("original",),
        mapping=MappingConfig(embedding="raw"),
        cache=tmp_path / "cache",
        workers=2,
        problems=Problems(),
    )
    pixels = torch.stack([clip.preprocess(Image.open(str(file))) for file in photos.files])
    raw, _ = clip.model.visual(pixels)  # type: ignore[operator]
    stored = store.batch(np.arange(8))
    assert stored.norm is not None
    torch.testing.assert_close(stored.embedding * stored.norm.unsqueeze(1), raw, atol=1e-2, rtol=1e-2)


@pytest.mark.parametrize("view", ["jpeg", "zoom", "zoom-flip"])
def test_other_views_differ_from_the_picture(
    clip: ClipEncoder, photos: Images, tmp_path: Path, view: str
) -> None:
    plain, _ = _features(clip, photos, tmp_path)
    changed, _ = _features(clip, photos, tmp_path, views=(view,))
    assert not torch.equal(plain.embeddings(), changed.embeddings())


def test_one_view_is_not_taken_for_two_whose_names_it_joins(
    clip: ClipEncoder, photos: Images, tmp_path: Path
) -> None:
    both, first = ("zoom-flip", "zoom", "flip"), ("zoom", "flip", "zoom-flip")
    for views in (("zoom-flip",), ("zoom", "flip"), both, first):
        kept, _ = _features(clip, photos, tmp_path, views=views)
        fresh, _ = _features(clip, photos, tmp_path / "fresh" / "+".join(views), views=views)
        assert torch.equal(_drawn(kept), _drawn(fresh))


def test_unknown_view_names_the_known_ones(clip: ClipEncoder, photos: Images, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="original, flip, jpeg, zoom, zoom-flip"):
        _features(clip, photos, tmp_path, views=("rotate",))


def test_unreadable_pictures_are_left_out_and_named_every_time(
    clip: ClipEncoder, photos: Images, tmp_path: Path
) -> None:
    whole = photos.files[2].read_bytes()
    Path(str(photos.files[2])).write_bytes(whole[: len(whole) // 2])
    Path(str(photos.files[5])).write_text("not a picture")
    for _ in range(2):
        problems = Problems()
        store, rows = _features(clip, photos, tmp_path, problems=problems)
        assert rows == [0, 1, 3, 4, 6, 7]
        assert len(store) == 6
        assert problems.counts() == {"unreadable image": 2}
        assert str(photos.files[5]) in problems.items[1].where


def test_no_file_is_so_damaged_that_it_ends_the_run(
    clip: ClipEncoder, photos: Images, tmp_path: Path
) -> None:
    """Pillow's formats raise what they please: of a changed AVIF a RuntimeError."""
    file = io.BytesIO()
    Image.new("RGB", (64, 48), "red").save(file, "AVIF")
    damaged = file.getvalue().replace(b"pitm", b"none")
    with pytest.raises(RuntimeError), Image.open(io.BytesIO(damaged)) as image:
        image.load()
    Path(str(photos.files[2])).write_bytes(damaged)
    problems = Problems()
    assert _features(clip, photos, tmp_path, problems=problems)[1] == [0, 1, 3, 4, 5, 6, 7]
    assert f"{photos.files[2]}: RuntimeError: " in problems.items[0].where


def test_another_encoder_gets_its_own_features(clip: ClipEncoder, photos: Images, tmp_path: Path) -> None:
    first, _ = _features(clip, photos, tmp_path)
    other, _ = _features(tiny_clip(tmp_path / "other", seed=1), photos, tmp_path)
    assert not torch.allclose(first.embeddings(), other.embeddings(), atol=1e-2)


def test_an_interrupted_computation_goes_on_and_nothing_is_computed_twice(tmp_path: Path) -> None:
    images = _numbered_files(tmp_path, SHARD_ROWS + 3)
    seen: list[int] = []

    def compute(paths: object) -> tuple[dict[str, np.ndarray], dict[int, str]]:
        assert isinstance(paths, tuple)
        if not seen and len(paths) < SHARD_ROWS:
            raise KeyboardInterrupt
        numbers = [int(file.read_bytes()) for file in paths]
        seen.extend(numbers)
        return {"number": np.array(numbers)}, {}

    folder = tmp_path / "cache"
    cached_arrays(
        images.select(range(SHARD_ROWS)), folder=folder, compute=compute, label="", problems=Problems()
    )
    arrays, _ = cached_arrays(images, folder=folder, compute=compute, label="", problems=Problems())
    cached_arrays(images, folder=folder, compute=compute, label="", problems=Problems())
    assert seen == list(range(SHARD_ROWS + 3))
    assert arrays.read("number", np.array([514, 0, 511])).tolist() == [514, 0, 511]


def test_content_is_read_once_and_again_only_where_a_file_has_changed(tmp_path: Path) -> None:
    images = _numbered_files(tmp_path, 3)
    reads: list[str] = []

    @dataclass(frozen=True)
    class CountedFile:
        path: Path

        def read_bytes(self) -> bytes:
            reads.append(self.path.name)
            return self.path.read_bytes()

        def stat(self) -> os.stat_result:
            return self.path.stat()

        def __str__(self) -> str:
            return str(self.path)

    def numbers() -> list[int]:
        arrays, _ = cached_arrays(
            Images(images.ids, [CountedFile(Path(str(file))) for file in images.files]),
            folder=tmp_path / "cache",
            compute=lambda files: (
                {"number": np.array([int(Path(str(one)).read_text()) for one in files])},
                {},
            ),
            label="",
            problems=Problems(),
        )
        read: list[int] = arrays.read("number", np.arange(3)).tolist()
        return read

    assert numbers() == numbers() == [0, 1, 2]
    (tmp_path / "0000.txt").write_text("70")
    assert numbers() == [70, 1, 2]
    assert reads == ["0000.txt", "0001.txt", "0002.txt"] * 2


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="open files are counted in Linux's /proc")
def test_only_some_of_many_shards_are_open_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.shards.OPEN_FILES", 3)
    files = [tmp_path / f"{number}.npy" for number in range(20)]
    for number, file in enumerate(files):
        np.save(file, np.full((SHARD_ROWS, 2), number))
    arrays = ShardedArrays({"x": MappedFiles(files)}, np.arange(20 * SHARD_ROWS))
    before = len(list(Path("/proc/self/fd").iterdir()))
    rows = np.random.default_rng(0).permutation(20 * SHARD_ROWS)[:2000]
    assert arrays.read("x", rows)[:, 0].tolist() == (rows // SHARD_ROWS).tolist()
    assert len(list(Path("/proc/self/fd").iterdir())) - before <= 3


def test_a_changed_picture_is_computed_again(clip: ClipEncoder, photos: Images, tmp_path: Path) -> None:
    before, _ = _features(clip, photos, tmp_path)
    Image.new("RGB", (40, 40), (1, 250, 3)).save(str(photos.files[0]))
    after, _ = _features(clip, photos, tmp_path)
    assert not torch.allclose(before.embeddings()[0], after.embeddings()[0], atol=1e-3)
    assert torch.equal(before.embeddings()[1:], after.embeddings()[1:])


def _features(
    clip: ClipEncoder,
    photos: Images,
    folder: Path,
    *,
    views: tuple[str, ...] = ("original",),
    problems: Problems | None = None,
) -> tuple[FeatureStore, list[int]]:
    return cached_features(
        photos,
        clip,
        views=views,
        mapping=MappingConfig("grid"),
        cache=folder / "cache",
        workers=2,
        problems=problems if problems is not None else Problems(),
    )


def _drawn(store: FeatureStore) -> torch.Tensor:
    """Embeddings of the first photo in views drawn by one seed: as many as find every view."""
    rows = np.zeros(32, dtype=int)
    return store.batch(rows, generator=torch.Generator().manual_seed(0)).embedding


def _numbered_files(folder: Path, count: int) -> Images:
    paths = []
    for number in range(count):
        path = folder / f"{number:04d}.txt"
        path.write_text(str(number))
        paths.append(path)
    return Images(tuple(path.name for path in paths), tuple(paths))
