"""Tensors in safetensors files: mapped as they lie there, and nothing kept of those let go."""

from __future__ import annotations

import gc
import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from gobelin.shared.checkpoint import DTYPES, load_tensors

READS = 200


def many() -> dict[str, torch.Tensor]:
    """Of every type and form that is kept."""
    numbers = torch.arange(24).reshape(2, 3, 4)
    made = {f"of.{kind}": numbers.to(dtype) for kind, dtype in DTYPES.items()}
    made |= {"scalar": torch.tensor(0.5), "empty": torch.zeros(0, 4), "one": torch.tensor([True])}
    return made | {f"block.{number}": torch.randn(40, 3) for number in range(20)}


def test_tensors_are_those_that_safetensors_reads(tmp_path: Path) -> None:
    save_file(many(), file := tmp_path / "a.safetensors")
    found, known = load_tensors(file), load_file(file)
    assert found.keys() == known.keys()
    for name, tensor in known.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape)
        assert torch.equal(found[name], tensor)


def test_what_is_written_into_them_never_reaches_the_file(tmp_path: Path) -> None:
    save_file(many(), file := tmp_path / "a.safetensors")
    before = file.read_bytes()
    for tensor in load_tensors(file).values():
        tensor.fill_(1)
    assert file.read_bytes() == before


def test_nothing_is_kept_of_what_was_read_and_let_go(tmp_path: Path) -> None:
    save_file(many(), file := tmp_path / "a.safetensors")

    def kept() -> int:
        for _ in range(READS):
            load_tensors(file)
        gc.collect()
        return sys.getallocatedblocks()

    before = kept()
    assert kept() - before < READS  # not one object a read; safetensors' own keeps dozens


def by_hand(file: Path, tensors: dict[str, tuple[str, list[int], bytes]]) -> None:
    header, data = {}, b""
    for name, (kind, shape, content) in tensors.items():
        place = [len(data), len(data) + len(content)]
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": place}
        data += content
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    file.write_bytes(len(text).to_bytes(8, "little") + text + data)


def test_tensors_that_others_have_laid_at_odd_places_are_read_as_well(tmp_path: Path) -> None:
    flat = torch.arange(3.0).numpy().tobytes()
    by_hand(file := tmp_path / "a.safetensors", {"a": ("U8", [1], b"\7"), "b": ("F32", [3], flat)})
    assert load_tensors(file)["b"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("data", [b"", b"{}", b"\7" * 64, (1 << 40).to_bytes(8, "little") + b"{}"])
def test_a_file_that_holds_none_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.safetensors").write_bytes(data)
    with pytest.raises(SafetensorError):
        load_tensors(tmp_path / "a.safetensors")


def test_a_type_that_is_not_kept_is_refused_by_name(tmp_path: Path) -> None:
    by_hand(file := tmp_path / "a.safetensors", {"odd": ("U16", [1], b"\1\2")})
    with pytest.raises(SafetensorError, match="odd is of type U16"):
        load_tensors(file)
