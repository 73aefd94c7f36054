"""Weights files: what torch writes is read, what could run code is refused without running."""

import io
import os
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from models.torch_file import TorchFileError, read_tensors


def test_state_dict_is_read_as_torch_wrote_it(tmp_path: Path) -> None:
    shared = torch.arange(12.0).view(3, 4)
    state = OrderedDict(
        weight=shared,
        transposed=shared.t(),
        row=shared[1],
        parameter=nn.Parameter(torch.randn(2)),
        empty=torch.empty(0),
        number=torch.tensor(-1e4),
        **{
            str(dtype): torch.tensor([0, 1, 3]).to(dtype)
            for dtype in (torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.uint8, torch.bool)
        },
    )
    torch.save(state, tmp_path / "weights.pt")
    read = read_tensors(tmp_path / "weights.pt")
    assert list(read) == list(state)
    for name, value in state.items():
        assert read[name].dtype == value.dtype
        assert torch.equal(read[name], value.detach())


def test_module_state_with_its_versions_is_read(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    torch.save(module.state_dict(), tmp_path / "weights.pt", pickle_protocol=4)
    read = read_tensors(tmp_path / "weights.pt")
    assert read.keys() == module.state_dict().keys()
    assert torch.equal(read["0.weight"], module.state_dict()["0.weight"])


class Evil:
    """Runs a command when it is unpickled in the ordinary way."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self._call = (function, arguments)

    def __reduce__(self) -> Any:
        return self._call


def evil_things(trace: Path) -> list[Any]:
    return [
        Evil(os.system, f"touch {trace}"),
        Evil(eval, f"open({str(trace)!r}, 'w').close()"),
        Evil(getattr, str, "format"),
        {"weight": torch.zeros(2), "more": [Evil(exec, f"open({str(trace)!r}, 'w').close()")]},
        {Evil(os.system, f"touch {trace}"): torch.zeros(2)},
    ]


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("index", range(5))
def test_pickle_that_would_run_code_is_refused_and_runs_nothing(
    tmp_path: Path, protocol: int, index: int
) -> None:
    trace = tmp_path / "trace"
    torch.save(evil_things(trace)[index], tmp_path / "weights.pt", pickle_protocol=protocol)
    with pytest.raises(TorchFileError, match=r"refused: it names \S+.*nothing of it was run"):
        read_tensors(tmp_path / "weights.pt")
    assert not trace.exists()
    torch.load(tmp_path / "weights.pt", weights_only=False)
    assert trace.exists() or index == 2  # the file was a real threat


def program(*parts: bytes) -> bytes:
    return b"\x80\x02" + b"".join(parts) + b"."


TENSOR = b"ctorch._utils\n_rebuild_tensor_v2\n("
STORAGE = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x04tQ"


@pytest.mark.parametrize(
    ("pickled", "message"),
    [
        (program(b"ccollections\nOrderedDict\n)\x81"), "opcode NEWOBJ"),
        (program(b"(ios\nsystem\n"), "opcode INST"),
        (program(b"ctorch\nFloatStorage\n}b"), "attributes of something else"),
        (program(b"ctorch\nFloatStorage\n)R"), "calls something else"),
        (program(b"}ccollections\nOrderedDict\nX\x01\x00\x00\x00as"), "something else than a state dict"),
        (program(b"K\x01X\x01\x00\x00\x00as"), "data.pkl is not that of a state dict"),
        (program(b"h\x07"), "data.pkl is not that of a state dict"),
        (b"\x80\x02}", "data.pkl is not that of a state dict"),
        (
            program(TENSOR, STORAGE, b"K\x02K\x03\x85K\x01\x85tR"),
            "data.pkl is not that of a state dict",
        ),
        (
            program(
                b"ctorch._utils\n_rebuild_tensor_v2\n(", STORAGE, b"K\x00J\x00\x00\x00\x40\x85K\x00\x85tR"
            ),
            "in a storage of 4 numbers",
        ),
    ],
)
def test_program_that_torch_would_not_write_is_refused(tmp_path: Path, pickled: bytes, message: str) -> None:
    write_archive(tmp_path / "weights.pt", {"data.pkl": pickled, "data/0": bytes(16)})
    with pytest.raises(TorchFileError, match=message):
        read_tensors(tmp_path / "weights.pt")


def test_storage_of_another_size_than_the_program_says_is_damage(tmp_path: Path) -> None:
    pickled = program(b"}X\x01\x00\x00\x00a", TENSOR, STORAGE, b"K\x00)))ttRs")
    write_archive(tmp_path / "weights.pt", {"data.pkl": pickled, "data/0": bytes(12)})
    with pytest.raises(TorchFileError, match="storage 0 is not 4 numbers"):
        read_tensors(tmp_path / "weights.pt")


def test_older_format_is_refused_with_the_way_to_convert_it(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(2)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(TorchFileError, match=r"torch 1\.6 and newer.*torch\.save\(torch\.load\('old\.pt'\)"):
        read_tensors(tmp_path / "old.pt")
    trace = tmp_path / "trace"
    (tmp_path / "evil.pt").write_bytes(pickle.dumps(Evil(os.system, f"touch {trace}")))
    with pytest.raises(TorchFileError, match="can run code when it is loaded"):
        read_tensors(tmp_path / "evil.pt")
    assert not trace.exists()


def test_damaged_missing_and_foreign_files_are_named(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    torch.save({"a": torch.zeros(1000)}, buffer)
    whole = buffer.getvalue()
    (tmp_path / "cut.pt").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "flipped.pt").write_bytes(whole.replace(bytes(4000), bytes(3999) + b"\x01"))
    (tmp_path / "wrong.safetensors").write_bytes(b"no tensors")
    write_archive(tmp_path / "photos.pt", {"photo.jpg": b"x"})
    for file, message in {
        "cut.pt": "cut.pt is damaged",
        "flipped.pt": "flipped.pt is damaged .*CRC",
        "wrong.safetensors": "wrong.safetensors is not a safetensors file",
        "photos.pt": "photos.pt is a zip file without a data.pkl",
        "none.pt": "there is no file .*none.pt",
    }.items():
        with pytest.raises(TorchFileError, match=message):
            read_tensors(tmp_path / file)


def write_archive(path: Path, files: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(f"archive/{name}", content)
