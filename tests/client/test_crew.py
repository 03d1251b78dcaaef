"""A node of several processes: the first contributes, and the others train along."""

from __future__ import annotations

import multiprocessing
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist

from gobelin.client.contributor import Contributor
from gobelin.client.crew import dismiss, enlist, follow
from gobelin.client.home import NodeHome, NodeSettings, found_node
from gobelin.client.spool import Spool
from gobelin.shared.data.export import write_idx
from gobelin.shared.keys import write_authority
from tests.client.contributing import BASE, RECIPE, in_spool, plan


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(3).integers(0, 256, (40, 1, 28, 28), dtype=np.uint8)
    write_idx(tmp_path / "data", torch.from_numpy(pixels), torch.zeros(40, dtype=torch.int64))
    write_authority(tmp_path / "tls", "fed", ["localhost"])
    return tmp_path


def home_at(folder: Path, name: str) -> NodeHome:
    values = {
        "member": "north",
        "node": "north",
        "aggregator": "host:9092",
        "data": {"path": str(folder / "data")},
        "compute": {"device": "cpu", "threads": 1},
    }
    settings = NodeSettings.model_validate(values)
    return found_node(folder / name, settings, folder / "tls" / "ca.pem")


def contribute(home: NodeHome, numbers: list[int], cross_node: bool) -> list[str]:
    """Digests of what a new process of the node contributes to rounds on one base."""
    contributor = Contributor(home, lambda status: None)
    digests = []
    for number in numbers:
        asked = plan(number, BASE, cross_node=cross_node)
        digests.append(in_spool(contributor, asked, BASE.segments()).contribution.delta_digest)
    return digests


def member_of_crew(
    rank: int, port: int, home: Path, numbers: list[int], cross_node: bool, answers: Any
) -> None:
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:  # what torchrun sets
        found = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_PORT": port}
        for name, value in {**found, "MASTER_ADDR": "127.0.0.1"}.items():
            patch.setenv(name, str(value))
        patch.setenv("TORCHELASTIC_RUN_ID", "test")
        assert enlist("cpu") == rank
        if rank:
            follow(NodeHome(home).settings())
            answers.put((rank, []))
        else:
            answers.put((rank, contribute(NodeHome(home), numbers, cross_node)))
            dismiss()
        dist.destroy_process_group()


def by_crew(home: NodeHome, numbers: list[int], cross_node: bool = False) -> list[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    crew = [
        context.Process(
            target=member_of_crew, args=(rank, port, home.folder, numbers, cross_node, answers)
        )
        for rank in range(2)
    ]
    for process in crew:
        process.start()
    found = sorted(answers.get(timeout=120) for _ in crew)
    for process in crew:
        process.join(timeout=30)
        assert process.exitcode == 0
    return found[0][1]


def test_a_crew_that_starts_again_goes_on_to_the_byte(folder: Path) -> None:
    undisturbed = by_crew(home_at(folder, "one"), [1, 2])
    stopped = home_at(folder, "two")
    assert [*by_crew(stopped, [1]), *by_crew(stopped, [2])] == undisturbed
    assert undisturbed != contribute(home_at(folder, "alone"), [1, 2], False)  # its views differ


def test_a_crew_finds_the_moments_of_one_process(folder: Path) -> None:
    crew, alone = home_at(folder, "one"), home_at(folder, "alone")
    by_crew(crew, [1], cross_node=True)
    contribute(alone, [1], True)
    found, expected = (
        Spool(home.spool).moments_of(1, RECIPE.projector.out) for home in (crew, alone)
    )
    assert found is not None
    assert expected is not None
    assert found.samples == expected.samples
    torch.testing.assert_close(found.mean, expected.mean, rtol=1e-4, atol=1e-5)


def test_a_process_that_torchrun_did_not_start_is_alone() -> None:
    assert enlist("cpu") == 0
    dismiss()
    assert not dist.is_initialized()
