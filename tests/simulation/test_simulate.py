"""Simulated federations give the bytes of real ones, whatever dies on the way."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from examples.in_process import federate_in_process
from examples.loopback import GOBELIN, Loopback
from gobelin.server.outer import make_outer
from gobelin.shared.checkpoint import read_checkpoint
from gobelin.shared.data import ImageFormat, open_source
from gobelin.shared.data.export import write_idx
from gobelin.shared.errors import RoundError
from gobelin.shared.recipe import load_recipe
from gobelin.simulation.study import StudyHome, open_study
from gobelin.simulation.supervisor import Supervisor, scratch_of

pytest.importorskip("ray", reason="needs Ray: pip install 'gobelin[simulation]'")
pytestmark = pytest.mark.timeout(900)  # Ray starts anew up to four times a test
STEPS, SEED = 3, 7

# Everything a node remembers: what it owes, the base it has, moments, its own model's fragments.
ROUNDS = {"codec": "topk", "broadcast": "int8", "cross_node": True}
OUTER = {"kind": "nesterov", "lr": 0.7, "momentum": 0.9, "fragments": 2}
OPTIONS = (
    *("--codec", "topk", "--broadcast", "int8", "--cross-node", "--fragments", "2"),
    *("--outer", "nesterov", "--outer-lr", "0.7", "--outer-momentum", "0.9"),
)
REMEMBERED = {"codec": "topk", "broadcast": "int8", "cross_node": True, "fragments": 2}


def found(
    folder: Path,
    members: int,
    rounds: int,
    of_rounds: Mapping[str, Any] | None = None,
    outer: Mapping[str, Any] | None = None,
) -> StudyHome:
    """A study of random images, 32 a member."""
    rng = np.random.default_rng(SEED)
    images = torch.from_numpy(rng.integers(0, 256, (32 * members, 1, 28, 28), dtype=np.uint8))
    write_idx(folder / "images", images, torch.arange(32 * members) % 10)
    home = StudyHome(folder / "study")
    given = {"members": members, "skew": "classes", "recipe": "toy", "seed": SEED}
    settings = {
        "rounds": {"rounds": rounds, "local_steps": STEPS, **(of_rounds or {})},
        "outer": dict(outer or {}),
    }
    open_study(home, {**given, "data": str(folder / "images"), "federation": settings})
    return home


def run(home: StudyHome) -> list[dict[str, Any]]:
    """Run a study to its end; returns its events."""
    events: list[dict[str, Any]] = []
    Supervisor(home, events.append).run()
    return events


def consensus(home: StudyHome) -> str:
    return read_checkpoint(home.last_release()).vector.digest


def computed_here(home: StudyHome, rounds: int, but: str = "", **how: Any) -> str:
    """Digest of the consensus after the same rounds, computed in this process."""
    torch.set_num_threads(1)
    names = [name for name in home.study().names if name != but]
    sources = {name: open_source(home.data(name), ImageFormat(28, 1)) for name in names}
    recipe = load_recipe("toy")
    return federate_in_process(recipe, sources, rounds, STEPS, SEED, **how).digest


def test_three_members_give_the_digest_of_one_process_and_of_a_real_federation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    home = found(tmp_path, 3, 4, ROUNDS, OUTER)
    run(home)
    outer = make_outer("nesterov", 0.7, 0.9)
    assert consensus(home) == computed_here(home, 4, outer=outer, **REMEMBERED)
    data = {name: home.data(name) for name in home.study().names}
    real = Loopback(
        tmp_path / "real", data, rounds=4, local_steps=STEPS, seed=SEED, options=OPTIONS
    )
    with real as net:
        net.found()
        net.start()
        net.wait()
        assert consensus(home) == read_checkpoint(net.release).vector.digest


def test_a_node_is_given_its_messages_one_at_a_time_and_in_order(tmp_path: Path) -> None:
    from flwr.app import Message, RecordDict

    from gobelin.simulation.engine import _grid, _open_run, _register, open_mailboxes

    links, state = open_mailboxes()
    grid = _grid(links, _open_run(state))
    one, other = (_register(state, node) for node in found(tmp_path, 2, 1).nodes())
    first, second = (
        message_id
        for kind in ("train", "query")
        for message_id in grid.push_messages([Message(RecordDict(), one, kind)])
    )
    (given,) = state.get_message_ins(one, limit=None)
    assert given.metadata.message_id == first
    assert state.get_message_ins(one, limit=1) == []  # it has not answered yet
    assert state.get_message_ins(other, limit=1) == []
    reply = Message(RecordDict(), reply_to=given)
    reply.metadata.__dict__["_message_id"] = "reply"  # as Flower's engine does
    assert state.store_message_res(reply) == "reply"
    (given,) = state.get_message_ins(one, limit=1)
    assert given.metadata.message_id == second


def test_a_member_that_errs_is_left_out_and_the_log_says_why(tmp_path: Path) -> None:
    home = found(tmp_path, 20, 2)
    (erring,) = [name for name in home.study().names if name.endswith("13")]
    for file in home.data(erring).iterdir():
        file.write_bytes(file.read_bytes()[:100])
    events = run(home)
    sealed = [event["round"] for event in events if event["event"] == "round_sealed"]
    assert sealed == [1, 2]
    refused = [(e["node"], e["found"]) for e in events if e["event"] == "refused"]
    assert refused == [(erring, "gobelin:data")] * 2
    assert f"{erring}: " in home.aggregator.log_file.read_text()
    assert consensus(home) == computed_here(home, 2, but=erring)


def test_a_round_that_nobody_else_will_mend_ends_the_study(tmp_path: Path) -> None:
    home = found(tmp_path, 2, 1, {"min_members": 2})
    for file in home.data("member-0").iterdir():
        file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(RoundError, match="1 of 2 members contributed, none yet from member-0"):
        run(home)
    assert not scratch_of(home.folder).exists()


def test_whatever_is_killed_the_digest_is_the_undisturbed_one(tmp_path: Path) -> None:
    home = found(tmp_path, 6, 6)
    with simulate(home) as process:
        wait_for(home, "round_sealed", 1)
        (engine,) = process.children()
        (actor, *_) = [p for p in engine.children(recursive=True) if "ClientApp" in p.name()]
        assert_on_loopback(engine)
        actor.kill()
        wait_for(home, "round_sealed", 2)
        engine.kill()
        wait_for(home, "round_sealed", 3)
        rays = process.children(recursive=True)
        process.kill()
        assert psutil.wait_procs(rays, timeout=120)[1] == []
    with simulate(home) as process:
        wait_for(home, "round_sealed", 4)
        process.terminate()
        assert process.wait(60) == 0  # stopping on request is no error
    with simulate(home) as process:
        assert process.wait(240) == 0
    assert consensus(home) == computed_here(home, 6)
    assert not scratch_of(home.folder).exists()


class simulate:
    """`gobelin simulate` in a process of its own, ended on leaving the block."""

    def __init__(self, home: StudyHome) -> None:
        self._home = home.folder

    def __enter__(self) -> psutil.Popen:
        with (self._home / "out.log").open("ab") as log:
            self._process = psutil.Popen(
                [GOBELIN, "simulate", "--home", self._home], stdout=log, stderr=log
            )
        return self._process

    def __exit__(self, *_: object) -> None:
        if self._process.is_running():
            self._process.kill()
            self._process.wait()


def wait_for(home: StudyHome, kind: str, count: int) -> None:
    """Wait until `count` events of a kind have been recorded."""
    give_up = time.monotonic() + 200
    while sum(event["event"] == kind for event in home.aggregator.events()[0]) < count:
        assert time.monotonic() < give_up, (home.folder / "out.log").read_text()
        time.sleep(0.05)


def assert_on_loopback(engine: psutil.Process) -> None:
    """No process of the engine listens or talks beyond this machine."""
    seen = 0
    for process in [engine, *engine.children(recursive=True)]:
        for connection in process.net_connections("inet"):
            for end in filter(None, (connection.laddr, connection.raddr)):
                seen += 1
                assert end.ip.removeprefix("::ffff:") in ("127.0.0.1", "::1"), connection
    assert seen
