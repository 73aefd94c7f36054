"""Which photos a run trains on and which it holds out."""

from pathlib import Path

from service.finetuning.photos import Photo, fingerprint_of, split, write_results
from service.finetuning.runner import read_results
from service.jobs.documents import ItemResult


def photos(count: int, *, first: int = 0) -> list[Photo]:
    return [Photo(n, f"{n}.jpg", f"{n + first:064x}", Path(f"{n}.jpg")) for n in range(count)]


def test_split_depends_on_content_alone() -> None:
    some = photos(300)
    renamed = [Photo(300 - one.number, f"x{one.name}", one.sha256, one.path) for one in reversed(some)]
    assert fingerprint_of(some) == fingerprint_of(renamed)
    _, held_out = split(some, fingerprint_of(some))
    _, again = split(renamed, fingerprint_of(renamed))
    assert {one.sha256 for one in held_out} == {one.sha256 for one in again}
    assert fingerprint_of(photos(300, first=1)) != fingerprint_of(some)


def test_a_tenth_is_held_out_within_bounds() -> None:
    for count, expected in ((50, 20), (300, 30), (9000, 500)):
        train, held_out = split(photos(count), "salt")
        assert (len(train), len(held_out)) == (count - expected, expected)
        assert {one.number for one in train}.isdisjoint(one.number for one in held_out)


def test_results_of_any_name_are_read_as_they_were_written(tmp_path: Path) -> None:
    names = ("one\u2028two.jpg", "a\x85b\u2029c.jpg", "d\re\nf.jpg")
    results = [ItemResult(item=n, file_name=name, outcome="used") for n, name in enumerate(names)]
    write_results(results, tmp_path / "items.jsonl")
    assert read_results(tmp_path / "items.jsonl") == results
