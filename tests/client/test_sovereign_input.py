"""Bad input and bad luck: a clear error, nothing half-written, the old build untouched; a kill is
no more than a pause."""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from gobelin.client.sovereign import BuildSettings, build, read_package
from gobelin.client.sovereign.labels import LabelledStream, open_task
from gobelin.client.sovereign.lineage import region_key
from gobelin.client.sovereign.stage import Progress
from gobelin.client.sovereign.unfinished import Unfinished
from gobelin.client.sovereign_cli import app
from gobelin.shared.checkpoint import write_checkpoint
from gobelin.shared.data import MemorySource
from gobelin.shared.data.export import write_idx, write_image_folder
from gobelin.shared.errors import (
    CheckpointError,
    ConfigError,
    GobelinError,
    InUseError,
    LabelsError,
    MachineError,
    ReleaseError,
    UnverifiedError,
)
from gobelin.shared.locks import sole_owner
from gobelin.shared.signing import SigningKey, public_signing_pem
from tests.client.sovereign_world import NAMES, bytes_of, consensus, halves, labelled, settings


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """A bare checkpoint and labelled images, and an older model."""
    base = consensus()
    write_checkpoint(tmp_path / "release", base.recipe, base.vector, {"round": 1})
    write_image_folder(tmp_path / "data", *halves(60), NAMES)
    build(at(tmp_path, "linear"), tmp_path / "home")
    return tmp_path


def at(folder: Path, method: str = "lora", **changes: Any) -> BuildSettings:
    paths = {name: str(folder / name) for name in ("release", "data", "out")}
    return settings(method, **{**paths, **changes})


def refused(world: Path, wanted: BuildSettings, error: type[GobelinError], match: str) -> None:
    """The build fails so, and leaves everything as it was."""
    before = bytes_of(world / "out"), sorted(path.name for path in world.iterdir())
    with pytest.raises(error, match=match):
        build(wanted, world / "home")
    assert (bytes_of(world / "out"), sorted(path.name for path in world.iterdir())) == before


def test_a_tampered_release_is_refused(world: Path) -> None:
    file = world / "release" / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    refused(world, at(world), CheckpointError, "does not match its manifest")


def test_a_release_that_nobody_vouches_for_is_refused(world: Path) -> None:
    refused(world, at(world, unverified=False), UnverifiedError, "to verify the release against")
    pem = world / "ca.pem"
    pem.write_bytes(public_signing_pem(SigningKey.generate().public))
    wanted = at(world, unverified=False, key=str(pem))
    refused(world, wanted, ReleaseError, "is no release")


def test_unusable_labels_are_refused(world: Path) -> None:
    images, _ = halves(30)
    write_idx(world / "one", images, torch.zeros(30, dtype=torch.int64))
    refused(world, at(world, data=str(world / "one")), LabelsError, "of one class")
    wanted = at(world, labels={"classes": ["only"]})
    refused(world, wanted, LabelsError, "2 classes, the head has 1")
    write_image_folder(world / "test", *halves(9), ("high", "sideways"))
    refused(world, at(world, test=str(world / "test")), LabelsError, "'sideways'")
    refused(world, at(world, method="linear", modality="smell"), ConfigError, "no modality")


def test_labels_out_of_range_and_singles_are_refused() -> None:
    options: dict[str, Any] = {"budget": 100, "held_out": 0.2, "seed": 0}
    images = halves(4)[0]
    below = MemorySource(images, torch.tensor([0, 1, -1, 0]))
    with pytest.raises(LabelsError, match="a label -1"):
        open_task(below, None, **options)
    with pytest.raises(LabelsError, match="leave none to stop"):
        open_task(MemorySource(images[:2], torch.tensor([0, 1])), None, **options)
    known, beyond = labelled(20), MemorySource(images, torch.tensor([0, 1, 2, 0]))
    with pytest.raises(LabelsError, match="the test samples have 3 classes, the head has 2"):
        open_task(known, beyond, **options)


def test_test_samples_are_told_apart_by_the_names_of_their_classes() -> None:
    images, labels = halves(10)
    turned = MemorySource(images, 1 - labels, NAMES[::-1])  # as an image folder would sort them
    task = open_task(labelled(20), turned, budget=100, held_out=0.2, seed=0)
    assert task.test.labels is not None
    assert torch.equal(task.test.labels, labels)
    assert torch.equal(task.test.read(torch.arange(10).numpy()), images)


def test_every_class_is_in_both_parts_where_it_can_be() -> None:
    labels = torch.tensor([0] * 50 + [1] * 4 + [2])
    source = MemorySource(torch.zeros(55, 1, 28, 28, dtype=torch.uint8), labels)
    task = open_task(source, None, budget=100, held_out=0.2, seed=0)
    assert task.counts.tolist() == [40, 3, 1]
    assert task.held.labels is not None
    assert task.held.labels.bincount().tolist() == [10, 1]
    weights = task.weights("loss")
    assert weights is not None
    assert torch.allclose(weights * task.counts, torch.full((3,), 44 / 3))


def test_balanced_batches_have_as_many_of_every_class() -> None:
    source = labelled(100, share=0.1)
    stream = LabelledStream(source, 16, 0, balanced=True)
    assert [stream.batch(step).labels.bincount().tolist() for step in range(3)] == [[8, 8]] * 3
    plain = LabelledStream(source, 16, 0, balanced=False)
    seen = torch.cat([plain.batch(step).labels for step in range(6)])
    assert int((seen == 0).sum()) < 24
    assert len(LabelledStream(labelled(5), 16, 0, balanced=False).batch(0)) == 5


class Ended(BaseException):
    """As a kill: nobody catches it."""


def test_an_ended_build_goes_on_to_the_same_bytes(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = at(world, "lora", pretrain={"steps": 4, "every": 2, "lr": 1e-3})
    build(wanted, world / "home")
    undisturbed = bytes_of(world / "out")
    build(at(world, "linear"), world / "home")
    save, saves = Unfinished.save, iter(range(99))

    def saved(self: Unfinished, *told: Any) -> None:
        save(self, *told)
        if next(saves) % 2 == 0:
            raise Ended

    def in_a_run(now: Progress) -> None:
        if next(saves) % 5 == 4:
            raise Ended

    monkeypatch.setattr(Unfinished, "save", saved)
    ends, older = 0, bytes_of(world / "out")
    while True:
        try:
            build(wanted, world / "home", in_a_run)
            break
        except Ended:
            ends += 1
            assert bytes_of(world / "out") == older
            assert (world / "out.unfinished").is_dir()
    assert ends >= 3
    assert bytes_of(world / "out") == undisturbed
    assert not (world / "out.unfinished").exists()


def test_what_is_left_of_another_build_is_not_believed(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(at(world, seed=1), world / "home")
    expected = bytes_of(world / "out")

    def ended(now: Progress) -> None:
        if now.step == 6:
            raise Ended

    with pytest.raises(Ended):
        build(at(world, seed=2), world / "home", ended)
    steps: list[int] = []
    build(at(world, seed=1), world / "home", lambda now: steps.append(now.step))
    assert steps[0] == 1
    assert bytes_of(world / "out") == expected


def test_two_builds_to_one_place_are_one_too_many(world: Path) -> None:
    with sole_owner(world / "out.unfinished"):
        refused(world, at(world), InUseError, "another process")


def test_a_full_disk_leaves_the_old_build_and_what_was_trained(world: Path) -> None:
    before = bytes_of(world / "out")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for size in (8_000, 20_000):  # no room for a stage's state; for the model's vector alone
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        try:
            with pytest.raises((MachineError, OSError)):
                build(at(world), world / "home")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert bytes_of(world / "out") == before
        assert not [path for path in world.iterdir() if path.name.startswith(".")]
    build(at(world), world / "home")
    assert read_package(world / "out").lineage.method == "lora"


def test_the_command_reads_a_toml_under_its_options(world: Path) -> None:
    file = world / "build.toml"
    file.write_text(
        'release = "release"\ndata = "nowhere"\nout = "toml"\nunverified = true\nregion = "north"\n'
        'method = "attentive"\n[tuning]\nsteps = 4\nevery = 2'
    )
    arguments = ["build", str(file), "--data", str(world / "data"), "--home", str(world / "home")]
    arguments += ["--set", "tuning.batch_size=8", "--method", "full", "--json"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    *progress, built = map(json.loads, done.stdout.splitlines())
    assert {line["event"] for line in progress} == {"progress"}
    assert (built["event"], built["region"], built["method"]) == ("built", "north", "full")
    model = read_package(world / "toml", key=region_key(world / "home").public)
    assert model.digest == built["digest"]
    assert (model.build["tuning"]["steps"], model.build["tuning"]["batch_size"]) == (4, 8)
    plain = CliRunner().invoke(app, [*arguments[:-1], "--method", "linear"])
    assert "samples told right, 2 classes" in plain.stdout
    assert "nobody has verified" in plain.stdout


def test_bad_settings_are_told_before_anything_is_read(world: Path) -> None:
    for assignment, match in (
        ("tuning.stepps=3", "did you mean 'steps'"),
        ("tuning.steps=0", "greater than 0"),
        ("head.kind=attentive", "fits no head"),
    ):
        done = CliRunner().invoke(
            app, ["build", "--release", "r", "--data", "d", "--out", "o", "--method", "linear",
                  "--set", assignment],
        )  # fmt: skip
        assert isinstance(done.exception, ConfigError)
        assert match in str(done.exception)
    done = CliRunner().invoke(app, ["build", str(world / "none.toml")])
    assert "sovereign example" in str(done.exception)
    assert "method" in CliRunner().invoke(app, ["example"]).stdout


@pytest.mark.faults
def test_a_build_that_is_killed_goes_on_to_the_same_bytes(world: Path) -> None:
    wanted = at(world, "full", tuning={"steps": 60, "every": 5, "patience": 99})
    build(wanted, world / "home")
    undisturbed = bytes_of(world / "out")
    build(at(world, "linear"), world / "home")
    code = (
        "import sys, torch; torch.set_num_threads(1)\n"
        "from pathlib import Path\n"
        "from gobelin.client.sovereign import BuildSettings, build\n"
        "settings = BuildSettings.model_validate_json(sys.argv[1])\n"
        "build(settings, Path(sys.argv[2]), lambda now: print(now.step, flush=True))\n"
    )
    arguments = [sys.executable, "-c", code, wanted.model_dump_json(), str(world / "home")]
    for last in (3, 11, 17, 30, 46):
        with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if int(line) >= last:
                    process.send_signal(signal.SIGKILL)
                    break
        assert process.returncode == -signal.SIGKILL
    subprocess.run(arguments, check=True, stdout=subprocess.DEVNULL)
    assert bytes_of(world / "out") == undisturbed
