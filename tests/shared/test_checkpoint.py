"""A checkpoint comes back to the bit, or is refused."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gobelin.shared.checkpoint import (
    MANIFEST,
    MODEL,
    at_rest,
    file_digest,
    read_checkpoint,
    read_extra,
    write_checkpoint,
)
from gobelin.shared.errors import CheckpointError, MachineError
from gobelin.shared.files import json_bytes
from gobelin.shared.model import build_jepa
from gobelin.shared.recipe import load_recipe
from gobelin.shared.vector import ParameterSchema, ParameterVector
from tests.failing_disk import failing_disk

RECIPE = load_recipe("toy")
FACTS = {"federation": "fed", "round": 3, "contributions": [{"member": "north", "images": 64}]}


def small(seed: float = 0.0) -> ParameterVector:
    schema = ParameterSchema.of_shapes({"trunk.w": (3, 2), "trunk.b": (), "projector.e": (0,)})
    return ParameterVector(schema, torch.arange(7.0) + seed)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_checkpoint(
        tmp_path / "c", RECIPE, small(), FACTS, {"outer": {"velocity": torch.arange(7.0)}}
    )
    return tmp_path / "c"


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("pristine") / "c"
    write_checkpoint(place, RECIPE, small(), FACTS, {"outer": {"velocity": torch.arange(7.0)}})
    return place


def test_what_was_just_written_lies_at_rest_as_it_is_read(folder: Path) -> None:
    vector, extra = at_rest(folder, small(), {"outer": {"velocity": torch.zeros(7)}})
    found = read_checkpoint(folder)
    assert torch.equal(vector.values, found.vector.values)
    assert vector.digest == found.vector.digest
    assert torch.equal(extra["outer"]["velocity"], found.extra["outer"]["velocity"])


def test_what_is_written_into_a_mapped_vector_never_reaches_its_file(folder: Path) -> None:
    read_checkpoint(folder).vector.values.fill_(7)
    assert read_checkpoint(folder).vector.digest == small().digest


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    del manifest["manifest_digest"]
    change(manifest)
    digest = hashlib.sha256(json_bytes(manifest)).hexdigest()
    (folder / MANIFEST).write_bytes(json_bytes({**manifest, "manifest_digest": digest}))


def test_a_model_comes_back_with_its_recipe_and_facts(tmp_path: Path) -> None:
    vector = ParameterVector.of(build_jepa(RECIPE, seed=1))
    write_checkpoint(tmp_path / "c", RECIPE, vector, FACTS)
    found = read_checkpoint(tmp_path / "c")
    assert torch.equal(found.vector.values, vector.values)
    assert found.vector.schema == vector.schema
    assert (found.recipe, found.facts, found.extra) == (RECIPE, FACTS, {})


def test_extra_tensors_come_back_beside_the_model(folder: Path) -> None:
    found = read_checkpoint(folder)
    assert torch.equal(found.vector.values, small().values)
    assert list(found.extra) == ["outer"]
    assert torch.equal(found.extra["outer"]["velocity"], torch.arange(7.0))


def test_extra_tensors_are_read_by_themselves_and_verified(folder: Path) -> None:
    (folder / MODEL).unlink()
    assert torch.equal(read_extra(folder, "outer")["velocity"], torch.arange(7.0))
    file = folder / "outer.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"!")
    for name, found in (("outer", "does not match"), ("merge", "cannot be read")):
        with pytest.raises(CheckpointError, match=found):
            read_extra(folder, name)


def test_the_manifest_pins_every_file_and_the_vector(folder: Path) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    assert {path.name for path in folder.iterdir()} == {MANIFEST, *manifest["files"]}
    for name, digest in manifest["files"].items():
        assert file_digest(folder / name) == digest
    assert manifest["vector_digest"] == small().digest
    assert manifest["recipe_digest"] == RECIPE.digest
    assert manifest["parameters"] == 7


def test_the_same_checkpoint_has_the_same_bytes(folder: Path, pristine: Path) -> None:
    for path in pristine.iterdir():
        assert (folder / path.name).read_bytes() == path.read_bytes()


def test_a_new_checkpoint_replaces_the_old_one(folder: Path) -> None:
    write_checkpoint(folder, RECIPE, small(seed=1), {})
    found = read_checkpoint(folder)
    assert torch.equal(found.vector.values, small(seed=1).values)
    assert found.extra == {}
    assert os.listdir(folder.parent) == ["c"]  # noqa: PTH208


def test_a_checkpoint_that_cannot_be_written_leaves_the_old_one(folder: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_checkpoint(folder, RECIPE, small(seed=1), {"loss": float("nan")})
    assert torch.equal(read_checkpoint(folder).vector.values, small().values)
    assert os.listdir(folder.parent) == ["c"]  # noqa: PTH208


def flip_one_bit(pristine: Path, name: str, place: int) -> Path:
    """A copy in which one bit of a file is flipped."""
    copy = pristine.with_name("flipped")
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(pristine, copy)
    data = bytearray((copy / name).read_bytes())
    place %= 8 * len(data)
    data[place // 8] ^= 1 << place % 8
    (copy / name).write_bytes(data)
    return copy


@settings(max_examples=80, deadline=None)
@given(st.sampled_from([MODEL, "outer.safetensors"]), st.integers(0, 1 << 20))
def test_a_flipped_bit_in_a_tensor_file_is_found(pristine: Path, name: str, place: int) -> None:
    with pytest.raises(CheckpointError):
        read_checkpoint(flip_one_bit(pristine, name, place))


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 1 << 20))
def test_a_flipped_bit_in_the_manifest_never_changes_the_model(pristine: Path, place: int) -> None:
    try:
        found = read_checkpoint(flip_one_bit(pristine, MANIFEST, place))
    except CheckpointError:
        return
    assert torch.equal(found.vector.values, small().values)
    assert torch.equal(found.extra["outer"]["velocity"], torch.arange(7.0))


@settings(max_examples=150, deadline=None, database=None)
@given(st.integers(0, 1 << 20))
def test_a_flipped_bit_in_the_manifest_is_found(pristine: Path, place: int) -> None:
    with pytest.raises(CheckpointError):
        read_checkpoint(flip_one_bit(pristine, MANIFEST, place))


@pytest.mark.parametrize("key", ["recipe_digest", "schema_digest", "parameters"])
def test_what_the_manifest_says_of_recipe_and_schema_must_hold(folder: Path, key: str) -> None:
    edit(folder, lambda manifest: manifest.update({key: "0" * 64}))
    with pytest.raises(CheckpointError):
        read_checkpoint(folder)


@pytest.mark.parametrize("name", [MANIFEST, MODEL, "outer.safetensors"])
def test_a_missing_file_is_found(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(CheckpointError):
        read_checkpoint(folder)


@pytest.mark.parametrize("name", [MANIFEST, MODEL, "outer.safetensors"])
def test_a_truncated_or_empty_file_is_found(folder: Path, name: str) -> None:
    data = (folder / name).read_bytes()
    for part in (data[: len(data) // 2], b""):
        (folder / name).write_bytes(part)
        with pytest.raises(CheckpointError):
            read_checkpoint(folder)


def test_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint"):
        read_checkpoint(tmp_path / "nowhere")


def test_the_files_of_another_checkpoint_are_refused(folder: Path, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "other", RECIPE, small(seed=1), FACTS)
    shutil.copy(tmp_path / "other" / MODEL, folder / MODEL)
    with pytest.raises(CheckpointError, match="does not match"):
        read_checkpoint(folder)
    edit(folder, lambda m: m["files"].update({MODEL: file_digest(folder / MODEL)}))
    with pytest.raises(CheckpointError, match="digest"):
        read_checkpoint(folder)


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.update(format="gobelin.checkpoint.v0"),
        lambda m: m.pop("format"),
        lambda m: m.pop("files"),
        lambda m: m.pop("recipe"),
        lambda m: m.pop("vector_digest"),
        lambda m: m.pop("facts"),
        lambda m: m.update(files=7),
        lambda m: m.update(recipe="toy"),
        lambda m: m["recipe"].update(surprise=1),
        lambda m: m["files"].update({MODEL: None}),
    ],
)
def test_a_manifest_of_another_form_is_refused(folder: Path, change: Callable[..., object]) -> None:
    edit(folder, change)
    with pytest.raises(CheckpointError):
        read_checkpoint(folder)


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.update(files="model"),
        lambda m: m.update(facts="none"),
        lambda m: m["files"].update({"nul\0": "0" * 64}),
    ],
    ids=["files", "facts", "a NUL in a name"],
)
def test_a_manifest_with_text_for_a_table_is_refused(
    folder: Path, change: Callable[..., object]
) -> None:
    edit(folder, change)
    with pytest.raises(CheckpointError):
        read_checkpoint(folder)


@pytest.mark.parametrize("trick", ["../outside.safetensors", "absolute", "sub/../../outside"])
def test_a_manifest_cannot_name_files_outside_of_its_folder(folder: Path, trick: str) -> None:
    outside = folder.parent / "outside.safetensors"
    shutil.copy(folder / "outer.safetensors", outside)
    shutil.copy(outside, outside.with_suffix(""))
    (folder / "sub").mkdir()
    name = str(outside) if trick == "absolute" else trick
    assert (folder / name).is_file()
    edit(folder, lambda m: m["files"].update({name: file_digest(outside)}))
    with pytest.raises(CheckpointError):
        read_checkpoint(folder)


@pytest.mark.parametrize("trick", ["../nothing", "..", ".", "", "/"])
def test_a_manifest_that_names_what_is_no_file_is_refused(folder: Path, trick: str) -> None:
    edit(folder, lambda m: m["files"].update({trick: "0" * 64}))
    with pytest.raises(CheckpointError):
        read_checkpoint(folder)


@pytest.mark.parametrize("name", [MANIFEST, MODEL])
def test_a_disk_that_fails_for_now_is_not_taken_for_a_damaged_checkpoint(
    folder: Path, name: str
) -> None:
    with (
        failing_disk(folder / name, errno.EIO),
        pytest.raises(MachineError, match="cannot be read"),
    ):
        read_checkpoint(folder)
    with failing_disk(folder / name, errno.EACCES), pytest.raises(CheckpointError):
        read_checkpoint(folder)
    read_checkpoint(folder)
