"""The kept base: what a node has it need not be sent, and what it has not it says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from gobelin.client.base import KeptBase
from gobelin.protocols.messages import Step
from gobelin.shared.codec import compress
from gobelin.shared.errors import BaseMissingError, ContributionError
from gobelin.shared.step import CodedStep
from gobelin.shared.vector import ParameterSchema, ParameterVector

SCHEMA = ParameterSchema.of_shapes({"trunk.w": (30, 20), "trunk.b": (30,)})


def vector(seed: int) -> ParameterVector:
    generator = torch.Generator().manual_seed(seed)
    return ParameterVector(SCHEMA, torch.randn(SCHEMA.size, generator=generator))


def course(rounds: int) -> tuple[list[ParameterVector], list[CodedStep]]:
    """The bases that rounds 0 to `rounds` sealed, and the steps between them."""
    bases, steps = [vector(0)], []
    for number in range(1, rounds + 1):
        payload = compress("int8", vector(number), None).payload
        bases.append(bases[-1] + payload.decode())
        header = Step(number, bases[-2].digest, "int8")
        steps.append(CodedStep(header, payload.segments))
    return bases, steps


BASES, STEPS = course(3)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "home" / "base.f32"


def test_steps_lead_from_the_kept_base_also_in_the_next_process(file: Path) -> None:
    KeptBase(file).keep(BASES[0])
    for steps, base in ((STEPS, BASES[3]), (STEPS[:1], BASES[1])):
        assert KeptBase(file).reach(SCHEMA, steps, base.digest).digest == base.digest


def test_of_steps_that_start_earlier_only_the_later_ones_are_taken(file: Path) -> None:
    """A node that was offered a base and then restarted has moved on without being heard."""
    kept = KeptBase(file)
    kept.keep(BASES[2])
    assert kept.reach(SCHEMA, STEPS, BASES[3].digest).digest == BASES[3].digest
    assert kept.reach(SCHEMA, STEPS[:2], BASES[2].digest).digest == BASES[2].digest
    assert kept.reach(SCHEMA, [], BASES[2].digest).digest == BASES[2].digest


def test_the_last_base_alone_is_kept(file: Path) -> None:
    kept = KeptBase(file)
    for base in BASES:
        kept.keep(base)
    assert file.read_bytes() == bytes(BASES[3].canonical_bytes)
    assert [path.name for path in file.parent.iterdir()] == [file.name]
    file.unlink()
    with pytest.raises(BaseMissingError):
        KeptBase(file).reach(SCHEMA, [], BASES[3].digest)
    kept.keep(BASES[3])
    assert KeptBase(file).reach(SCHEMA, [], BASES[3].digest).digest == BASES[3].digest


def test_a_base_in_memory_serves_while_the_file_is_gone(file: Path) -> None:
    kept = KeptBase(file)
    kept.keep(BASES[2])
    file.unlink()
    assert kept.reach(SCHEMA, STEPS[2:], BASES[3].digest).digest == BASES[3].digest


def spoil_nothing(file: Path) -> None:
    """Another base than the steps start from."""
    KeptBase(file).keep(vector(99))


def spoil_bit(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[5] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize(
    "spoil",
    [
        Path.unlink,
        spoil_nothing,
        spoil_bit,
        lambda file: file.write_bytes(b""),
        lambda file: file.write_bytes(file.read_bytes()[:-4]),
        lambda file: file.write_bytes(file.read_bytes()[:-3]),
        lambda file: file.write_bytes(b"\xff" * len(file.read_bytes())),
    ],
)
def test_a_base_that_is_gone_or_another_is_said_to_be_missing(file: Path, spoil: object) -> None:
    KeptBase(file).keep(BASES[2])
    spoil(file)
    with pytest.raises(BaseMissingError, match="no base") as error:
        KeptBase(file).reach(SCHEMA, STEPS[2:], BASES[3].digest)
    assert error.value.code == "contribution.base_missing"
    assert isinstance(error.value, ContributionError)  # no reason for a node to stop


def test_steps_that_are_damaged_or_lead_elsewhere_are_as_good_as_none(file: Path) -> None:
    kept = KeptBase(file)
    kept.keep(BASES[2])
    cut = replace(STEPS[2], segments={k: d[:-1] for k, d in STEPS[2].segments.items()})
    with pytest.raises(BaseMissingError, match="damaged"):
        kept.reach(SCHEMA, [cut], BASES[3].digest)
    with pytest.raises(BaseMissingError, match="do not lead"):
        kept.reach(SCHEMA, STEPS[2:], BASES[1].digest)
