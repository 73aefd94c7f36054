"""Tensors out of a .pt or .safetensors file, without executing anything that the file says.

`torch.load(weights_only=True)` was bypassed twice (CVE-2025-32434, CVE-2026-24747), so it is not used. A .pt
file is a zip archive of one pickle program and one raw file for each storage. The program is read here opcode
by opcode into plain values: names in it are compared as text and never looked up, so there is nothing that it
could call.
"""

import math
import pickletools
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

MAX_PICKLE_BYTES = 16 * 1024 * 1024
"""Of the program alone, without the numbers; that of GPT-2 small with a mapping network has 20 kB."""

DTYPES: Mapping[str, torch.dtype] = {
    "torch.DoubleStorage": torch.float64,
    "torch.FloatStorage": torch.float32,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
    "torch.ShortStorage": torch.int16,
    "torch.CharStorage": torch.int8,
    "torch.ByteStorage": torch.uint8,
    "torch.BoolStorage": torch.bool,
}
_ZIP_MAGIC = b"PK\x03\x04"
_DICT = "collections.OrderedDict"
_TENSOR = "torch._utils._rebuild_tensor_v2"
_PARAMETER = "torch._utils._rebuild_parameter"
_KNOWN_NAMES = frozenset({_DICT, _TENSOR, _PARAMETER, *DTYPES})


class TorchFileError(ValueError):
    """A weights file that cannot be read, or is refused; the message says why and what to do."""


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The state dict in a file.

    Raises:
        TorchFileError: no such file, not one of the formats, damaged, or a pickle that does more than
            describe tensors; nothing of it has been executed.
    """
    if not path.is_file():
        raise TorchFileError(f"there is no file {path}")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise TorchFileError(f"{path} is not a safetensors file: {error}") from error
    with path.open("rb") as file:
        is_zip = file.read(len(_ZIP_MAGIC)) == _ZIP_MAGIC
    if not is_zip:
        raise TorchFileError(
            f"{path} is neither .safetensors nor in the format of torch 1.6 and newer. An older file is one "
            "pickle, which can run code when it is loaded. Where you trust it: "
            f"""python -c "import torch; torch.save(torch.load('{path.name}'), 'new.pt')"; import new.pt"""
        )
    try:
        with zipfile.ZipFile(path) as archive:
            state = _Program(_Storages(archive)).run()
    except (zipfile.BadZipFile, EOFError, OSError) as error:
        raise TorchFileError(f"{path} is damaged ({error}); fetch it again") from error
    except TorchFileError as error:
        raise TorchFileError(f"{path} {error}") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise TorchFileError(f"{path} holds something else than a state dict (names and tensors)")
    return {str(name): tensor for name, tensor in state.items()}


@dataclass(frozen=True)
class _Name:
    """A module and attribute that the program names."""

    text: str


class _Storages:
    """The raw numbers of an archive; tensors that share a storage share it here too."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        programs = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        if len(programs) != 1:
            raise TorchFileError("is a zip file without a data.pkl, so not one that torch wrote")
        self._archive = archive
        self._root = programs[0].removesuffix("data.pkl")
        self._read: dict[str, Tensor] = {}
        if f"{self._root}byteorder" in archive.namelist() and self._bytes("byteorder") != b"little":
            raise TorchFileError("was written on a big-endian machine, which is not read here")

    def program(self) -> bytes:
        if self._archive.getinfo(f"{self._root}data.pkl").file_size > MAX_PICKLE_BYTES:
            raise TorchFileError(f"has a data.pkl of more than {MAX_PICKLE_BYTES} bytes")
        return self._bytes("data.pkl")

    def storage(self, key: str, dtype: torch.dtype, count: int) -> Tensor:
        """A storage of `count` numbers as a flat tensor."""
        if key not in self._read:
            info = self._archive.getinfo(f"{self._root}data/{key}")
            if info.compress_type != zipfile.ZIP_STORED or info.file_size != count * dtype.itemsize:
                raise TorchFileError(f"is damaged: storage {key} is not {count} numbers of {dtype}")
            numbers = bytearray(self._bytes(f"data/{key}"))
            self._read[key] = torch.frombuffer(numbers, dtype=dtype) if count else torch.empty(0, dtype=dtype)
        return self._read[key]

    def _bytes(self, name: str) -> bytes:
        return self._archive.read(self._root + name)


class _Program:
    """The pickle of a state dict, run on a stack of plain values with the few opcodes that torch writes."""

    def __init__(self, storages: _Storages) -> None:
        self._storages = storages
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}

    def run(self) -> Any:
        """What the program describes."""
        try:
            for opcode, argument, _ in pickletools.genops(self._storages.program()):
                if opcode.name == "STOP":
                    return self._stack.pop()
                self._step(opcode.name, argument)
        except TorchFileError:
            raise
        except (AttributeError, IndexError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise TorchFileError(
                f"is damaged: its data.pkl is not that of a state dict ({error!r})"
            ) from error
        raise TorchFileError("is damaged: its data.pkl has no end")

    def _step(self, opcode: str, argument: Any) -> None:
        stack = self._stack
        match opcode:
            case "PROTO" | "FRAME":
                pass
            case "MARK":
                self._marks.append(len(stack))
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[opcode])
            case "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT" | "BINUNICODE" | "SHORT_BINUNICODE":
                stack.append(argument)
            case "EMPTY_DICT" | "EMPTY_LIST" | "EMPTY_TUPLE":
                stack.append({"EMPTY_DICT": {}, "EMPTY_LIST": [], "EMPTY_TUPLE": ()}[opcode])
            case "TUPLE":
                stack.append(tuple(self._pop_to_mark()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                stack.append(tuple(self._pop(int(opcode[-1]))))
            case "APPEND" | "APPENDS":
                items = self._pop(1) if opcode == "APPEND" else self._pop_to_mark()
                stack[-1].extend(items)
            case "SETITEM" | "SETITEMS":
                items = self._pop(2) if opcode == "SETITEM" else self._pop_to_mark()
                stack[-1].update(zip(items[::2], items[1::2], strict=True))
            case "BINPUT" | "LONG_BINPUT":
                self._memo[argument] = stack[-1]
            case "MEMOIZE":
                self._memo[len(self._memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(self._memo[argument])
            case "GLOBAL":
                stack.append(_known_name(argument.replace(" ", ".")))
            case "STACK_GLOBAL":
                stack.append(_known_name(".".join(self._pop(2))))
            case "BINPERSID":
                stack.append(self._storage(stack.pop()))
            case "REDUCE":
                callee, arguments = self._pop(2)
                stack.append(_rebuilt(callee, arguments))
            case "BUILD":
                self._skip_attributes()
            case _:
                raise TorchFileError(f"is refused: a state dict does not need the pickle opcode {opcode}")

    def _pop(self, count: int) -> list[Any]:
        popped = [self._stack.pop() for _ in range(count)]
        return popped[::-1]

    def _pop_to_mark(self) -> list[Any]:
        return self._pop(len(self._stack) - self._marks.pop())

    def _storage(self, reference: Sequence[Any]) -> Tensor:
        kind, storage_type, key, _location, count = reference
        if kind != "storage" or not isinstance(storage_type, _Name):
            raise TorchFileError("is damaged: it refers to something else than a storage")
        return self._storages.storage(key, DTYPES[storage_type.text], count)

    def _skip_attributes(self) -> None:
        """A state dict carries its modules' versions as an attribute, which nothing here needs."""
        self._stack.pop()
        if not isinstance(self._stack[-1], dict):
            raise TorchFileError("is refused: it sets attributes of something else than a dict")


def _known_name(name: str) -> _Name:
    if name not in _KNOWN_NAMES:
        raise TorchFileError(
            f"is refused: it names {name}, which a state dict does not need and which could run code on "
            "loading; nothing of it was run"
        )
    return _Name(name)


def _rebuilt(callee: Any, arguments: Sequence[Any]) -> Any:
    if callee == _Name(_DICT):
        return dict(*arguments)
    if callee == _Name(_PARAMETER):
        return arguments[0]
    if callee == _Name(_TENSOR):
        return _view(*arguments[:4])
    raise TorchFileError("is refused: it calls something else than what makes a tensor or a dict")


def _view(storage: Tensor, offset: int, size: Sequence[int], stride: Sequence[int]) -> Tensor:
    if math.prod(size) > len(storage):
        raise TorchFileError(f"is damaged: a tensor of {tuple(size)} in a storage of {len(storage)} numbers")
    return storage.as_strided(size, stride, offset)
