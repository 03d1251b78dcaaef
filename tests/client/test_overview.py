"""The overview tells what a node's home says, by every way the same, and nothing of the data."""

from __future__ import annotations

import dataclasses
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from gobelin.client import observer as observing
from gobelin.client.egress_ledger import EgressLedger, total
from gobelin.client.home import NodeHome, NodeStatus
from gobelin.client.machine import folder_bytes, parse_gpus
from gobelin.client.observer import Observer
from gobelin.client.overview import next_of
from gobelin.client.refusals import ASK, remedy_of
from gobelin.client.spool_entry import HEADER, folder_of
from gobelin.client.status import lines_of, print_status
from gobelin.client.watch import watch_node
from gobelin.protocols.messages import METRIC_DISTORTION, METRIC_SENT_BYTES, Contribution
from gobelin.shared.errors import StateError
from gobelin.shared.files import write_atomic
from gobelin.shared.locks import sole_owner
from tests.client.lived_in import DELTA, PACE_S, START, lived_in
from tests.vanishing import vanishing


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> NodeHome:
    return lived_in(tmp_path_factory.mktemp("lived"))


def test_what_left_is_what_the_egress_ledger_says(home: NodeHome) -> None:
    of = Observer(home).look()
    records = EgressLedger(home.egress_file).records()
    sums = total(records)
    assert (of.left.wire_bytes, of.left.requests) == (sums.wire_bytes, sums.requests)
    assert of.left.by_purpose["deltas"] == 11 * DELTA
    assert of.left.by_purpose["moments"] == 9 * 2184
    assert of.left.by_purpose["calls"] == 900
    assert sum(of.left.by_purpose.values()) == sums.wire_bytes  # nothing is left out or told twice
    assert of.left.head == sums.head


def test_rounds_say_what_became_of_them(home: NodeHome) -> None:
    of = Observer(home).look()
    assert [each.round for each in of.rounds] == [n for n in range(1, 13) if n != 5]
    assert [each.state for each in of.rounds] == ["counted"] * 10 + ["sent"]
    assert of.counted == 10
    assert of.rounds[0].weight == pytest.approx(0.21)
    ((reason, remedy),) = {(each.reason, each.remedy) for each in of.refusals}
    assert reason == "site_policy"
    assert "policy explain" in remedy


def test_the_premium_is_the_records(home: NodeHome) -> None:
    premium = Observer(home).look().premium
    assert premium is not None
    assert premium.points is not None
    assert premium.points == pytest.approx((premium.consensus or 0) - (premium.solo or 0))
    assert (premium.seen_samples, premium.contributed) == (128_000, 384_000)
    assert len(premium.history) == 4
    assert premium.share == pytest.approx(151 / (151 + 480))


def test_the_next_round_is_expected_as_the_last_ones_came(home: NodeHome) -> None:
    rounds = Observer(home).look().rounds
    idle = next_of(NodeStatus("idle"), True, rounds, 100)
    last = START + 11 * PACE_S
    assert (idle.round_s, idle.next_at) == (PACE_S, last + PACE_S)
    assert idle.finished_at == last + 88 * PACE_S
    at_work = next_of(NodeStatus("training", round=13, time_left_s=9.0), True, rounds, 100)
    assert (at_work.done_s, at_work.next_at) == (9.0, None)
    assert next_of(NodeStatus("idle"), False, rounds, 100).next_at is None
    assert next_of(NodeStatus("idle"), True, rounds[:1], 100).round_s is None
    assert next_of(NodeStatus("idle"), True, rounds, 12).finished_at is None


def test_a_node_that_tells_of_no_step_is_silent(home: NodeHome) -> None:
    later = home.status_file.stat().st_mtime + 300
    assert not Observer(home, lambda: later).look().silent  # it does not even run
    with sole_owner(home.folder):
        assert Observer(home, lambda: later).look().silent
        assert not Observer(home, lambda: later - 299).look().silent
        assert "silent" in "\n".join(lines_of(Observer(home, lambda: later).look()))


def test_every_view_shows_the_same_figures(
    home: NodeHome, capsys: pytest.CaptureFixture[str]
) -> None:
    print_status(home, as_json=True)
    facts = json.loads(capsys.readouterr().out)
    watch_node(home, 0.0, as_json=True, looks=1)
    watched = json.loads(capsys.readouterr().out)
    assert facts["left"] == watched["left"]
    assert facts["premium"] == watched["premium"]
    print_status(home, as_json=False)
    text = capsys.readouterr().out
    assert f"11 contributions left in {facts['left']['wire_bytes']:,} bytes; 10 counted" in text
    assert "has seen 128,000 of 384,000 samples" in text
    assert f"premium {facts['premium']['points']:+.1f} ± " in text


def test_watching_tells_each_change_once_where_there_is_no_terminal(home: NodeHome) -> None:
    shown = io.StringIO()
    watch_node(home, 0.0, False, 3, Console(file=shown, width=400), lambda s: None)
    assert len(shown.getvalue().splitlines()) == 1
    screen = io.StringIO()
    terminal = Console(file=screen, force_terminal=True, width=120, height=40)
    watch_node(home, 0.0, False, 2, terminal, lambda s: None)
    assert "on the wire" in screen.getvalue()
    assert "premium" in screen.getvalue()


def test_nothing_of_the_data_is_told(home: NodeHome) -> None:
    path = home.settings().data.path
    told = json.dumps(Observer(home).look().facts())
    assert str(path) not in told
    assert str(home.folder) not in told


def test_a_damaged_ledger_is_told_and_a_damaged_record_ends_the_premium(tmp_path: Path) -> None:
    home = lived_in(tmp_path, 3)
    home.egress_file.write_bytes(home.egress_file.read_bytes().replace(b"int4", b"int8"))
    (home.shadow / "record.json").write_text("[]")
    of = Observer(home).look()
    assert "is damaged" in of.left.broken
    assert of.premium is not None
    assert "remove" in of.premium.ended
    text = "\n".join(lines_of(of))
    assert "no premium yet" in text


def test_a_fresh_home_and_one_without_a_shadow_are_told_too(tmp_path: Path) -> None:
    home = lived_in(tmp_path, 2, shadow=False)
    assert Observer(home).look().premium is None
    for file in (home.egress_file, home.plan_file, home.status_file):
        file.unlink()
    of = Observer(home).look()
    assert (of.left.wire_bytes, of.rounds_planned, of.status.state) == (0, 0, "idle")
    assert lines_of(of)


def test_a_record_of_the_shadow_that_is_removed_while_it_is_looked_at_is_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, read = lived_in(tmp_path, 3), observing.read_record
    with vanishing(home.shadow):
        assert Observer(home).look().premium is not None  # to come: the node has a shadow

    def removed(folder: Path) -> Any:
        found = read(folder)
        shutil.rmtree(folder)
        return found

    home = lived_in(tmp_path / "later", 3)
    monkeypatch.setattr(observing, "read_record", removed)
    premium = Observer(home).look().premium
    assert premium is not None
    assert premium.ended == ""


def test_a_contribution_that_the_running_node_drops_meanwhile_is_no_damage(tmp_path: Path) -> None:
    home = lived_in(tmp_path, 3)
    for number in (1, 2):
        metrics = {METRIC_SENT_BYTES: 10.0, METRIC_DISTORTION: 0.0}
        made = Contribution("fed", number, "plan", "base", "delta", 1, 32, 1.0, metrics)
        write_atomic(folder_of(home.spool, number) / HEADER, made.to_bytes())
    with vanishing(folder_of(home.spool, 1)):
        assert [entry.round for entry in Observer(home).look().spool] == [2]
    (folder_of(home.spool, 2) / HEADER).write_bytes(b"{")
    with pytest.raises(StateError, match="round-00002 is damaged"):
        Observer(home).look()


def test_looking_needs_no_tensors(home: NodeHome) -> None:
    script = (
        "import sys; from pathlib import Path; from gobelin.client.home import NodeHome; "
        "from gobelin.client.observer import Observer; import gobelin.client.watch; "
        "Observer(NodeHome(Path(sys.argv[1]))).look(); print('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, home.folder], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"


def test_gpus_are_read_as_nvidia_smi_tells_them() -> None:
    (one,) = parse_gpus("NVIDIA H100, 80GB HBM3, 37, 1024, 81559\nbroken, [N/A], 1, 2\n")
    assert dataclasses.astuple(one) == ("NVIDIA H100, 80GB HBM3", 0.37, 1 << 30, 81559 << 20)
    assert parse_gpus("") == ()


def test_a_file_with_two_names_weighs_once(tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(b"x" * 100_000)
    before = folder_bytes(tmp_path)
    (tmp_path / "two").hardlink_to(tmp_path / "one")
    assert folder_bytes(tmp_path) == before >= 100_000


def test_what_a_running_node_drops_meanwhile_weighs_nothing(tmp_path: Path) -> None:
    (tmp_path / "spool" / "round-00001").mkdir(parents=True)
    (tmp_path / "spool" / "round-00001" / "delta").write_bytes(b"x")
    with vanishing(tmp_path / "spool" / "round-00001"):
        assert folder_bytes(tmp_path) == 0


def test_every_code_has_a_remedy() -> None:
    assert "clock" in remedy_of("envelope.expired")
    assert "ca.pem" in remedy_of("envelope.signature")  # by its first part
    assert "policy explain" in remedy_of("gobelin:site_policy")
    assert remedy_of("never heard of") == ASK
