"""The aggregator's ledger: made of sealed rounds, mended after kills, checked by nodes and all."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from gobelin.client.accept import accept_path
from gobelin.client.home import DataSettings, NodeHome, NodeSettings, found_node
from gobelin.client.ledger import NodeLedger
from gobelin.protocols.ledger import Cosignature, LedgerView
from gobelin.protocols.messages import Receipt, RoundPlan
from gobelin.server.courier import Parcel, Reply
from gobelin.server.export import export
from gobelin.server.home import AggregatorHome
from gobelin.server.ledger import RoundLedger
from gobelin.server.roster import NodeEntry
from gobelin.server.takeover import take_over
from gobelin.server.verify import verify_path
from gobelin.server.verify_cli import app
from gobelin.shared.checkpoint import _digest_of, read_checkpoint
from gobelin.shared.errors import (
    GobelinError,
    LedgerError,
    ReleaseError,
    SignatureError,
    StaleError,
    StateError,
    TwoHistoriesError,
)
from gobelin.shared.files import folder_atomic, json_bytes, write_json
from gobelin.shared.keys import fingerprint
from gobelin.shared.ledger import PURPOSE, LedgerFolder, SignedEntry, entry_of, verify_history
from gobelin.shared.release import Watch, verify_release
from gobelin.shared.signing import SigningKey
from tests.keys import signing_key
from tests.server.world import Federation, Killed, Node, World, federation

ROUNDS = 4


class Witness(Node):
    """A node with a home of its own, which hears what it is sent, and cosigns."""

    def __init__(self, name: str, folder: Path) -> None:
        super().__init__(name)
        self.folder = folder
        self.home: NodeHome

    def join(self, aggregator: AggregatorHome) -> None:
        """Found the node's home, and get onto the roster."""
        data = DataSettings(path=self.folder)
        settings = NodeSettings(
            member=self.name, node=self.name, aggregator="127.0.0.1:1", data=data
        )
        self.home = found_node(self.folder / self.name, settings, aggregator.tls / "ca.pem")
        pub = self.home.public_key_file.read_bytes()
        self.entry = NodeEntry.of(self.name, self.name, pub, "node.pub")
        self.id = self.entry.id

    def hear(self, parcel: Parcel) -> None:
        """Believe a parcel, or raise."""
        plan = parcel.message if isinstance(parcel.message, RoundPlan) else None
        assert parcel.ledger is not None
        view = LedgerView.from_records(parcel.ledger.to_records())
        NodeLedger(self.home, lambda: 1.7e9).hear("fed", view, parcel.receipts, plan)


class Listening(World):
    """A world whose nodes check what they are sent, and send their cosignatures back."""

    def send(self, parcels: Any) -> None:
        for parcel in parcels:
            node = self.all[parcel.node]
            if isinstance(node, Witness) and parcel.ledger is not None:
                node.hear(parcel)
            super().send([parcel])

    def replies(self) -> Iterator[Reply]:  # type: ignore[override]
        for reply in super().replies():
            node = self.all[reply.node]
            sent = NodeLedger(node.home).cosignature() if isinstance(node, Witness) else b""
            yield dataclasses.replace(reply, cosignature=sent)


def listening(folder: Path, **rounds: Any) -> Federation:
    """A federation of two nodes that check and cosign."""
    nodes = [Witness(name, folder) for name in ("north", "south")]
    fed = Federation(folder / "home", World(), (), **rounds)
    for node in nodes:
        node.join(fed.home)
        fed.admit(node)
    fed.world = Listening(*nodes)
    return fed


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    """A federation that has run to its end; tests work on copies."""
    folder = tmp_path_factory.mktemp("made")
    fed = listening(folder, rounds=ROUNDS, release_every=2, archive=True, outer=NESTEROV)
    fed.run()
    return fed


NESTEROV = {"kind": "nesterov", "lr": 0.7, "momentum": 0.9}


@pytest.fixture
def home(made: Federation, tmp_path: Path) -> AggregatorHome:
    """A copy of the aggregator's home."""
    shutil.copytree(made.home.folder, tmp_path / "home")
    return AggregatorHome(tmp_path / "home")


@pytest.fixture
def node(made: Federation, tmp_path: Path) -> Witness:
    """North, with a copy of its home."""
    north = next(n for n in made.world.all.values() if n.name == "north")
    assert isinstance(north, Witness)
    copy = Witness("north", tmp_path)
    copy.entry, copy.id = north.entry, north.id
    shutil.copytree(north.home.folder, tmp_path / "north")
    copy.home = NodeHome(tmp_path / "north")
    return copy


def ca(home: AggregatorHome) -> Path:
    return home.tls / "ca.pem"


def silent(event: str, facts: object) -> None:
    """Nobody listens."""


def snapshot(folder: Path) -> dict[str, bytes]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


# ---------------------------------------------------------------- what a run leaves


def test_every_round_is_in_the_ledger_and_both_nodes_have_cosigned_every_head(
    made: Federation,
) -> None:
    history = LedgerFolder(made.home.ledger).read()
    told = verify_history(history, made.home.signing_key().public)
    assert (told.rounds, told.contributions) == (ROUNDS, 2 * ROUNDS)
    assert told.cosignatures == 2 * ROUNDS + 2  # and of the last head with the farewell
    assert sorted(told.witnesses) == ["north", "south"]
    for number, signed in enumerate(history.entries):
        sealed = made.sealed(number)
        assert signed.entry.record.vector_digest == sealed.vector.digest
        told_rows = {row["node"]: row["weight"] for row in sealed.facts.get("contributions", ())}
        assert {row.node: row.weight for row in signed.entry.rows} == told_rows


def test_nodes_keep_every_receipt_with_its_proof(made: Federation) -> None:
    for node in made.world.all.values():
        assert isinstance(node, Witness)
        receipts = sorted(node.home.receipts.glob("*.json"))
        assert len(receipts) == ROUNDS
        told = verify_path(receipts[1], ca(made.home), replayed=False, influence=False, memory=None)
        assert (told["node"], told["asked"], told["weight"]) == (node.name, 2, 0.5)


# ---------------------------------------------------------------- kills


def test_a_lost_ledger_is_made_again_to_the_bit_but_for_cosignatures(
    home: AggregatorHome,
) -> None:
    before = snapshot(home.ledger)
    shutil.rmtree(home.ledger / "rounds")
    shutil.rmtree(home.ledger / "heads")
    RoundLedger(home, silent).mend()
    after = snapshot(home.ledger)
    assert after.keys() == before.keys()
    for name, data in after.items():
        assert before[name].startswith(data)  # cosignatures stand behind


@pytest.mark.parametrize("lost", ["rounds/00004.json", "heads/00005.note", "both"])
def test_what_a_kill_left_out_is_written_at_the_next_start(home: AggregatorHome, lost: str) -> None:
    names = ["rounds/00004.json", "heads/00005.note"] if lost == "both" else [lost]
    before = snapshot(home.ledger)
    for name in names:
        (home.ledger / name).unlink()
    for _ in range(2):
        RoundLedger(home, silent).mend()
    after = snapshot(home.ledger)
    assert after.keys() == before.keys()
    assert all(before[name].startswith(after[name]) for name in after)


@pytest.mark.parametrize("writer", ["put_entry", "put_head"])
def test_a_kill_between_seal_and_leaf_loses_nothing_and_doubles_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writer: str
) -> None:
    fed = federation(tmp_path, Node("a"), Node("b"))
    with monkeypatch.context() as patch:
        calls = []
        write = getattr(LedgerFolder, writer)

        def dying(folder: LedgerFolder, signed: Any) -> None:
            calls.append(signed)
            if len(calls) == 2:  # of round 1: that of round 0 comes first
                raise Killed
            write(folder, signed)

        patch.setattr(LedgerFolder, writer, dying)
        with pytest.raises(Killed):
            fed.run()
    assert fed.home.sealed_rounds() == [0, 1]
    fed.run()
    told = verify_history(LedgerFolder(fed.home.ledger).read(), fed.home.signing_key().public)
    assert (told.rounds, told.contributions) == (2, 4)


def test_rounds_sealed_before_there_was_a_ledger_get_their_leaves(tmp_path: Path) -> None:
    """Their manifests say nothing of rosters and aggregates."""
    fed = federation(tmp_path, Node("a"), Node("b"))
    fed.run()
    shutil.rmtree(fed.home.ledger)
    for number in (1, 2):
        manifest = fed.home.manifest(number)
        for name in ("roster_digest", "aggregate_digest", "policy"):
            del manifest["facts"][name]
        write_json(fed.home.round_folder(number) / "manifest.json", manifest)
    entries = []
    for _ in range(2):
        RoundLedger(fed.home, silent).mend()
        history = LedgerFolder(fed.home.ledger).read()
        verify_history(history, fed.home.signing_key().public)
        entries.append(history.entries)
        shutil.rmtree(fed.home.ledger)
    assert entries[0] == entries[1]
    assert entries[0][2].entry.record.roster_digest == ""


def test_an_aggregator_with_another_past_does_not_start(home: AggregatorHome) -> None:
    folder = LedgerFolder(home.ledger)
    signed = folder.entry(ROUNDS)
    assert signed is not None
    record = dataclasses.replace(signed.entry.record, aggregate_digest="0" * 64)
    entry = dataclasses.replace(signed.entry, record=record)
    folder.put_entry(SignedEntry(entry, home.signing_key().sign(PURPOSE, entry.canonical)))
    with pytest.raises(TwoHistoriesError, match="two histories"):
        RoundLedger(home, silent).mend()


def test_an_aggregator_whose_rounds_went_back_does_not_start(home: AggregatorHome) -> None:
    shutil.rmtree(home.round_folder(ROUNDS))
    with pytest.raises(TwoHistoriesError, match=f"the ledger has round {ROUNDS}") as told:
        RoundLedger(home, silent).mend()
    assert told.value.exit_code == 42


# ---------------------------------------------------------------- cosignatures


@pytest.mark.parametrize("size", [0, 3, 99])
def test_a_cosignature_that_is_none_is_told_and_kept_nowhere(
    home: AggregatorHome, node: Witness, size: int
) -> None:
    events = []
    ledger = RoundLedger(home, lambda event, facts: events.append((event, facts)))
    ledger.mend()
    before = snapshot(home.ledger)
    good = Cosignature.from_bytes(NodeLedger(node.home).cosignature())
    for bad in (
        dataclasses.replace(good, size=size).to_bytes(),
        dataclasses.replace(good, signature="zz").to_bytes(),
        dataclasses.replace(good, time=good.time + 1).to_bytes(),
        b"{}",
    ):
        ledger.take(node.id, bad)
    ledger.take("0" * 64, good.to_bytes())  # not on the roster: nobody
    ledger.take(node.id, good.to_bytes())  # and this one is there already
    assert snapshot(home.ledger) == before
    assert [event for event, _ in events] == ["cosignature_refused"] * 4
    assert {facts["node"] for _, facts in events} == {"north"}


# ---------------------------------------------------------------- nodes


def offers(fed: Federation, name: str) -> list[Parcel]:
    return [p for p in fed.world.parcels if fed.world.all[p.node].name == name]


def test_a_node_refuses_to_go_back(made: Federation, node: Witness) -> None:
    with pytest.raises(TwoHistoriesError, match="two histories") as told:
        node.hear(offers(made, "north")[1])
    assert told.value.exit_code == 42
    assert len(list(node.home.heads.glob("other-*.note"))) == 1


def forked(made: Federation, folder: Path) -> Federation:
    """The same aggregator, with the same key, tells another story from round 2 on."""
    shutil.copytree(made.home.folder, folder / "home")
    fed = made.moved(folder)
    for number in range(2, ROUNDS + 1):
        shutil.rmtree(fed.home.round_folder(number))
    shutil.rmtree(fed.home.ledger)
    shutil.rmtree(fed.home.releases)
    settings = fed.home.settings_file.read_text()
    fed.home.settings_file.write_text(settings.replace("seed = 1", "seed = 2"))
    fed.world = World(*made.world.all.values())
    fed.run()
    return fed


def test_a_fork_is_refused_and_both_heads_are_kept(
    made: Federation, node: Witness, tmp_path: Path
) -> None:
    fork = forked(made, tmp_path / "fork")
    shutil.rmtree(node.home.heads)
    for parcel in offers(made, "north")[:3]:  # it knows rounds 0 to 2
        node.hear(parcel)
    known = snapshot(node.home.heads)
    same, longer = (p for p in offers(fork, "north") if p.ledger and p.ledger.head.size in (3, 4))
    for parcel in (same, longer):
        with pytest.raises(TwoHistoriesError, match="two histories"):
            node.hear(parcel)
    kept = snapshot(node.home.heads)
    assert known.items() <= kept.items()
    assert len(kept) == len(known) + 2
    newest = NodeLedger(node.home).newest()
    assert newest is not None
    assert newest.head.size == 3


def lies(parcel: Parcel) -> dict[str, tuple[Parcel, type[GobelinError]]]:
    """The same parcel, not quite true."""
    view, plan = parcel.ledger, parcel.message
    assert view is not None
    assert isinstance(plan, RoundPlan)
    head = view.head

    def bent(**changes: Any) -> Parcel:
        return dataclasses.replace(parcel, ledger=dataclasses.replace(view, **changes))

    (receipt, *others) = [r for r in parcel.receipts if r.counted]
    heavier = (dataclasses.replace(receipt, weight=0.9), *others)
    other = (dataclasses.replace(receipt, delta_digest="0" * 64), *others)
    resigned = dataclasses.replace(head, signature="00" * 64)
    return {
        "unsigned head": (bent(head=resigned), SignatureError),
        "another size": (bent(head=dataclasses.replace(head, size=head.size + 1)), SignatureError),
        "another root": (bent(head=dataclasses.replace(head, root="00" * 32)), SignatureError),
        "no hex": (bent(head=dataclasses.replace(head, signature="zz")), SignatureError),
        "no proof of the past": (bent(consistency=()), LedgerError),
        "no proofs of receipts": (bent(proofs=()), LedgerError),
        "another base": (
            dataclasses.replace(parcel, message=dataclasses.replace(plan, base_digest="0" * 64)),
            LedgerError,
        ),
        "another weight": (dataclasses.replace(parcel, receipts=heavier), LedgerError),
        "another delta": (dataclasses.replace(parcel, receipts=other), LedgerError),
    }


LIES = [
    *("unsigned head", "another size", "another root", "no hex", "no proof of the past"),
    *("no proofs of receipts", "another base", "another weight", "another delta"),
]


@pytest.mark.parametrize("lie", LIES)
def test_a_node_believes_nothing_that_is_not_proved(
    made: Federation, node: Witness, lie: str
) -> None:
    shutil.rmtree(node.home.heads)
    shutil.rmtree(node.home.receipts)
    first, second, third = offers(made, "north")[:3]
    node.hear(first)
    node.hear(second)
    before = snapshot(node.home.folder)
    parcel, error = lies(third)[lie]
    with pytest.raises(error):
        node.hear(parcel)
    assert snapshot(node.home.folder) == before
    node.hear(third)


def test_a_node_that_was_away_goes_on_where_it_was(made: Federation, node: Witness) -> None:
    shutil.rmtree(node.home.heads)
    node.hear(offers(made, "north")[0])
    ledger = RoundLedger(made.home, silent)
    ledger.mend()
    ledger._cosigned.clear()  # its cosignatures never arrived
    receipts: tuple[Receipt, ...] = offers(made, "north")[-1].receipts
    view = ledger.show(node.id, receipts)
    assert [proof.size for proof in view.consistency] == [1, 2, 3, 4]
    NodeLedger(node.home).hear("fed", view, receipts, None)
    newest = NodeLedger(node.home).newest()
    assert newest is not None
    assert newest.head.size == ROUNDS + 1


def test_an_export_brings_a_nodes_memory_up_to_date(
    made: Federation, node: Witness, tmp_path: Path
) -> None:
    shutil.rmtree(node.home.heads)
    node.hear(offers(made, "north")[0])
    export(made.home, tmp_path / "export")
    assert accept_path(node.home, tmp_path / "export")["rounds"] == ROUNDS
    fork = forked(made, tmp_path / "fork")
    export(fork.home, tmp_path / "other")
    with pytest.raises(TwoHistoriesError):
        accept_path(node.home, tmp_path / "other")


# ---------------------------------------------------------------- verify, export, replay


def verify(*arguments: object) -> dict[str, Any]:
    """What `gobelin verify --json` prints; raises what it raises."""
    done = CliRunner().invoke(app, [*map(str, arguments), "--json"])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return dict(json.loads(done.stdout))


def test_the_command_checks_a_home_an_export_a_release_and_replays(
    home: AggregatorHome, tmp_path: Path
) -> None:
    told = verify(home.folder, "--key", ca(home), "--replay", "--influence")
    assert (told["kind"], told["rounds"], told["key_pinned"]) == ("history", ROUNDS, True)
    assert told["replayed"] == list(range(1, ROUNDS + 1))
    assert told["releases"] == ["release-00002", "release-00004"]
    assert told["influence"]["north"]["counted"] == ROUNDS
    export(home, tmp_path / "small")
    small = verify(tmp_path / "small")
    assert (small["sealed"], small["key_pinned"]) == (3, False)  # two may be answered late
    export(home, tmp_path / "whole", replay=True)
    assert verify(tmp_path / "whole", "--replay")["replayed"] == told["replayed"]
    names = {path.name for path in (tmp_path / "whole").rglob("*")}
    assert not {name for name in names if name.endswith(".key") or name == "events.jsonl"}
    with pytest.raises(StateError, match="not empty"):
        export(home, tmp_path / "whole")
    with pytest.raises(StateError):
        verify(tmp_path)


def test_without_an_archive_a_replay_says_what_is_missing(home: AggregatorHome) -> None:
    shutil.rmtree(home.archive / "round-00003")
    with pytest.raises(LedgerError, match=r"round 3.*not in the archive"):
        verify(home.folder, "--replay")


def rewritten(home: AggregatorHome, number: int, change: Any) -> None:
    """The aggregator seals a round with other facts, and signs a ledger of that."""
    path = home.round_folder(number) / "manifest.json"
    manifest = json.loads(path.read_bytes())
    change(manifest["facts"])
    del manifest["manifest_digest"]
    path.write_bytes(json_bytes({**manifest, "manifest_digest": _digest_of(manifest)}))
    shutil.rmtree(home.ledger / "rounds")
    shutil.rmtree(home.ledger / "heads")
    shutil.rmtree(home.releases)
    RoundLedger(home, silent).mend()


def test_an_aggregator_that_reweights_and_signs_it_is_found_out_by_replay(
    home: AggregatorHome,
) -> None:
    def reweight(facts: dict[str, Any]) -> None:
        facts["contributions"][0]["weight"] = 0.25

    rewritten(home, 2, reweight)
    verify(home.folder)  # all of it is signed
    with pytest.raises(LedgerError, match="round 2 differs: the weight of"):
        verify(home.folder, "--replay")


def test_an_aggregator_that_leaves_a_contribution_out_is_found_out_by_replay(
    home: AggregatorHome,
) -> None:
    def drop(facts: dict[str, Any]) -> None:
        facts["contributions"][1:] = []
        facts["contributions"][0]["weight"] = 1.0

    rewritten(home, 3, drop)
    with pytest.raises(LedgerError, match="round 3 differs"):
        verify(home.folder, "--replay")


def test_a_changed_contribution_in_the_archive_names_its_round(home: AggregatorHome) -> None:
    file = sorted((home.archive / "round-00002").iterdir())[0]
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(LedgerError, match="round 2"):
        verify(home.folder, "--replay")


def test_a_sealed_round_that_was_changed_is_found(home: AggregatorHome) -> None:
    manifest = home.manifest(1)
    manifest["facts"]["seconds"] = 1.25
    write_json(home.round_folder(1) / "manifest.json", manifest)
    with pytest.raises(GobelinError):
        verify(home.folder)
    assert entry_of(manifest).record.round == 1


def test_a_kill_between_archive_and_seal_archives_the_round_once_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fed = federation(tmp_path, Node("a"), Node("b"), archive=True, max_staleness=0)
    with monkeypatch.context() as patch:

        def dying(*arguments: object) -> None:
            raise Killed

        patch.setattr("gobelin.server.seal.write_checkpoint", dying)
        with pytest.raises(Killed):
            fed.run()
    assert (fed.home.archive / "round-00001").is_dir()
    fed.run()
    told = verify(fed.home.folder, "--replay")
    assert told["replayed"] == [1, 2]


# ---------------------------------------------------------------- another aggregator


def with_rounds(home: AggregatorHome, rounds: int) -> None:
    settings = home.settings_file.read_text()
    home.settings_file.write_text(settings.replace(f"rounds = {ROUNDS}", f"rounds = {rounds}"))


def test_another_aggregator_goes_on_to_the_same_bits_from_public_files_alone(
    made: Federation, home: AggregatorHome, node: Witness, tmp_path: Path
) -> None:
    export(home, tmp_path / "export")
    public = home.signing_key().public
    take_over(tmp_path / "new", tmp_path / "export", public, "127.0.0.1:0")
    new = AggregatorHome(tmp_path / "new")
    assert new.signing_key().public != public
    before = verify(new.folder, "--key", ca(new))
    assert (before["rounds"], before["cosignatures"]) == (ROUNDS, 2 * ROUNDS + 2)
    digests = []
    for place in (home, new):
        with_rounds(place, ROUNDS + 1)
        fed = made.moved(tmp_path)
        fed.home, fed.world = place, World(*made.world.all.values())
        fed.run()
        digests.append(fed.digest())
    assert digests[0] == digests[1]
    told = verify(new.folder, "--key", ca(new))
    assert told["rounds"] == ROUNDS + 1
    shutil.copyfile(ca(new), node.home.ca_file)  # the member pins the new one
    last = next(p for p in fed.world.parcels if p.node == node.id)
    node.hear(last)
    with pytest.raises(StateError, match="not empty"):
        take_over(tmp_path / "new", tmp_path / "export", public, "127.0.0.1:0")


def test_an_export_that_does_not_hold_is_not_taken_over(
    home: AggregatorHome, tmp_path: Path
) -> None:
    export(home, tmp_path / "export")
    file = tmp_path / "export" / "ledger" / "rounds" / "00002.json"
    file.write_bytes(file.read_bytes().replace(b"0.5", b"0.4"))
    with pytest.raises(LedgerError):
        take_over(tmp_path / "new", tmp_path / "export", home.signing_key().public, "127.0.0.1:0")
    assert not (tmp_path / "new").exists()


# ---------------------------------------------------------------- releases


def test_a_release_says_who_made_it_and_holds(home: AggregatorHome) -> None:
    folder = home.releases / "release-00004"
    told = verify(folder, "--key", ca(home))
    assert (told["kind"], told["round"]) == ("release", 4)
    files = ["bom.cdx.json", "manifest.json", "model.safetensors", "model_card.md"]
    assert told["files"] == [*files, "release.json", "release.pub"]
    assert read_checkpoint(folder).vector.digest == told["vector_digest"]
    bom = json.loads((folder / "bom.cdx.json").read_text())
    (component,) = bom["components"]
    properties = {p["name"]: p["value"] for p in component["properties"]}
    assert (bom["bomFormat"], bom["specVersion"]) == ("CycloneDX", "1.6")
    assert properties["gobelin:vector_digest"] == told["vector_digest"]
    assert properties["gobelin:weight:north:4"] == "0.5"
    card = (folder / "model_card.md").read_text()
    assert "| north | 4 | " in card
    assert told["vector_digest"] in card


def test_no_bit_of_a_release_can_be_flipped(home: AggregatorHome) -> None:
    folder, key = home.releases / "release-00004", home.signing_key().public
    verify_release(folder, key)
    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        for place in {0, len(data) // 3, len(data) // 2, len(data) - 2, len(data) - 1}:
            bent = bytearray(data)
            bent[place] ^= 1
            path.write_bytes(bent)
            with pytest.raises((ReleaseError, SignatureError)):
                verify_release(folder, key)
        path.unlink()
        with pytest.raises(ReleaseError):
            verify_release(folder, key)
        path.write_bytes(data)
    (folder / "more.bin").write_bytes(b"")
    with pytest.raises(ReleaseError, match="never signed"):
        verify_release(folder, key)
    (folder / "more.bin").unlink()
    with pytest.raises(SignatureError):
        verify_release(folder, signing_key(3).public)
    verify_release(folder, key)


def test_a_release_of_the_same_key_and_another_ledger_is_refused(home: AggregatorHome) -> None:
    """The files of one release, with the statement of the other."""
    one, other = (home.releases / f"release-0000{n}" for n in (2, 4))
    with folder_atomic(home.folder / "mixed") as tmp:
        shutil.copytree(one, tmp, dirs_exist_ok=True)
        shutil.copyfile(other / "release.json", tmp / "release.json")
    with pytest.raises(ReleaseError):
        verify_release(home.folder / "mixed", home.signing_key().public)


def test_older_and_expired_releases_are_refused_after_a_newer_one(
    home: AggregatorHome, node: Witness, tmp_path: Path
) -> None:
    old, new = (home.releases / f"release-0000{n}" for n in (2, 4))
    accept_path(node.home, old)
    accept_path(node.home, new)
    accept_path(node.home, new)
    with pytest.raises(StaleError, match="older") as told:
        accept_path(node.home, old)
    assert told.value.exit_code == 42
    statement = verify_release(new, node.home.aggregator_key()).statement
    day = 86_400
    assert statement.expires - statement.issued == 90 * day
    with pytest.raises(StaleError, match="its time is over"):
        Watch(tmp_path / "w", lambda: statement.expires + day).take(statement)
    with pytest.raises(StaleError, match="future"):
        Watch(tmp_path / "w", lambda: statement.issued - day).take(statement)
    other = dataclasses.replace(statement, vector_digest="0" * 64)
    with pytest.raises(TwoHistoriesError, match="two histories"):
        Watch(node.home.newest_file).take(other)
    with pytest.raises(StateError):
        Watch(node.home.newest_file).take(dataclasses.replace(statement, federation="other"))


def test_a_nodes_key_is_the_rosters(node: Witness) -> None:
    assert SigningKey.load(node.home.signing_key_file).public == node.entry.signing_key
    assert fingerprint(node.entry.public_key.encode()) == node.id
