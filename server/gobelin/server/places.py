"""What of the aggregator's home needs no model: paths, roster, events, the facts of rounds.

Our service runs on this alone, so that it starts at once and stays small.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from cryptography import x509
from pydantic import ConfigDict, Field, IPvAnyAddress

from gobelin.server.roster import Roster
from gobelin.server.roster_book import RosterBook
from gobelin.server.sealed_roster import SealedSettings, require_places
from gobelin.shared.errors import StateError
from gobelin.shared.federation import federation_digest, parse_certificate, spki_pin
from gobelin.shared.files import MANIFEST, find_json, numbered, read_json
from gobelin.shared.formats import AGGREGATOR, require_readable
from gobelin.shared.ledger.folder import entry_file
from gobelin.shared.logs import LogSettings
from gobelin.shared.settings import Settings, read_settings, read_toml
from gobelin.shared.signing import find_signing_key

FederationName = Annotated[str, Field(min_length=1, max_length=48, pattern=r"^[A-Za-z0-9][\w.-]*$")]
Port = Annotated[int, Field(gt=0, lt=65536)]
EVENT_BYTES = 1 << 21  # of the event log, read at a time
TERMS = (
    "rounds",
    "local_steps",
    "warmup_rounds",
    "deadline_s",
    "codec",
    "broadcast",
    "cross_node",
    "sealed",
)


class NetworkSettings(Settings):
    """Where nodes reach the aggregator: a port for rounds and one for our own service."""

    # what nodes call it by: of other machines, a name or address that they reach
    host: str = "127.0.0.1"
    # the address of this machine that both ports listen on, 0.0.0.0 for all; unset: that of `host`
    listen: IPvAnyAddress | None = None
    port: Port = 9092  # of rounds, Flower's Fleet API
    service_port: Port = 9093  # of our own service: joining, roster, releases, ledger

    @property
    def local(self) -> str:
        """Where it listens: behind NAT or in a container that is not where nodes call."""
        return self.host if self.listen is None else str(self.listen)


class Front(Settings):
    """What the outside knows of a federation; the rest of `federation.toml` is passed over."""

    model_config = ConfigDict(extra="ignore")

    name: FederationName
    network: NetworkSettings = NetworkSettings()
    rounds: SealedSettings = SealedSettings()
    logs: LogSettings = LogSettings()


class Places:
    """Paths and light files under one `--home`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.settings_file = folder / "federation.toml"
        self.recipe_file = folder / "recipe.toml"
        self.tls = folder / "tls"
        self.ca_file = self.tls / "ca.pem"
        self.signing_key_file = self.tls / "signing.key"
        self.rounds = folder / "rounds"
        self.releases = folder / "releases"
        self.issued_file = folder / "issued.json"  # when the last plan was
        self.evidence = folder / "evidence"  # that goes with the releases to come
        self.processes_file = self.folder / "flower" / "processes.json"  # of `up`
        self.journal = folder / "journal"  # of the open round: its events and counted replies
        self.collecting = folder / "collecting"  # scratch: the open round's deltas, decoded
        self.enrolment = folder / "enrolment"  # invites and the requests they have led to
        self.flower = folder / "flower"  # everything that is Flower's
        self.events_file = folder / "events.jsonl"
        self.logs = folder / "logs"
        self.log_file = self.logs / "aggregator.log"  # of all the aggregator's processes
        self.ledger = folder / "ledger"  # what anybody may check of the rounds
        self.archive = folder / "archive"  # contributions as they came, where they are kept
        self.release_key_file = self.tls / "release.key"  # EC, for tools that know no Ed25519
        self.book = RosterBook(
            folder / "roster", self.federation_digest, self.aggregator_key, self.require_places
        )
        self.roster_file = self.book.file

    def require(self) -> None:
        """Raise StateError unless `gobelin aggregator init` has been here, in a version known here.

        Else FormatError.
        """
        if not self.settings_file.exists():
            raise StateError(
                f"{self.folder} is no aggregator home", "run `gobelin aggregator init` first"
            )
        require_readable(self.folder, AGGREGATOR)

    def front(self) -> Front:
        """Name and addresses of the federation."""
        self.require()
        return read_settings(Front, self.settings_file)

    def terms(self) -> dict[str, Any]:
        """What [rounds] and [outer] of federation.toml ask of nodes; no more than a plan says."""
        told = read_toml(self.settings_file)
        rounds = {key: told.get("rounds", {}).get(key) for key in TERMS}
        return {**rounds, "fragments": told.get("outer", {}).get("fragments", 1)}

    def ca(self) -> x509.Certificate:
        """The federation's CA."""
        return parse_certificate(self.ca_file.read_bytes(), str(self.ca_file))

    def aggregator_key(self) -> str:
        """The aggregator's public signing key."""
        return find_signing_key(self.ca_file.read_bytes(), str(self.ca_file))

    def genesis(self) -> str:
        """Digest of the model that round 1 starts from; the ledger knows it where that is gone."""
        told = find_json(self.round_folder(0) / MANIFEST)
        told = told or read_json(entry_file(self.ledger, 0))["record"]
        return str(told["vector_digest"])

    def federation_digest(self) -> str:
        """What invites, the roster log and nodes name this federation by."""
        name, key = self.front().name, self.aggregator_key()
        return federation_digest(name, spki_pin(self.ca()), key, self.genesis())

    def roster(self) -> Roster:
        """The roster as it is on disk now."""
        return self.book.roster()

    def require_places(self, roster: Roster, member: str = "") -> None:
        """Raise NoPlaceError where rounds are sealed and have no place for a roster, or a member.

        Asked of the settings as they are now, as everything is that the roster's turn is taken for.
        """
        require_places(self.front().rounds, roster, member)

    def roster_head(self) -> str:
        """Digest of the last change of the roster, which a round's record names."""
        return self.book.log().head

    def write_roster(self, roster: Roster) -> None:
        """Make the roster this one: who is new is admitted, who is not in it is revoked."""
        self.book.become(roster, self.signing_key_file)

    def round_folder(self, number: int) -> Path:
        """Folder of the checkpoint that round `number` sealed (0 is the initial model)."""
        return self.rounds / f"round-{number:05d}"

    def sealed_rounds(self) -> list[int]:
        """Numbers of the sealed rounds, ascending."""
        return numbered(self.rounds, "round-")

    def facts(self, number: int) -> dict[str, Any]:
        """What is recorded of a sealed round, read without its model."""
        return dict(self.manifest(number)["facts"])

    def find_facts(self, number: int) -> dict[str, Any] | None:
        """The same, or None: a running aggregator's retention may remove any but the last."""
        manifest = find_json(self.round_folder(number) / MANIFEST)
        return None if manifest is None else dict(manifest["facts"])

    def manifest(self, number: int) -> dict[str, Any]:
        """The manifest of a sealed round's checkpoint."""
        return read_json(self.round_folder(number) / MANIFEST)

    def record(self, event: Mapping[str, Any]) -> None:
        """Append one event to the event log and flush it to disk."""
        line = json.dumps(event, sort_keys=True).encode() + b"\n"
        with self.events_file.open("ab+") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                line = line if file.read() == b"\n" else b"\n" + line  # behind a torn line
            file.write(line)
            file.flush()
            os.fsync(file.fileno())

    def events(self, offset: int = 0) -> tuple[list[dict[str, Any]], int]:
        """Complete events from byte `offset` on, and the offset behind them."""
        found: list[dict[str, Any]] = []
        while True:
            lines, offset = self.event_lines(offset)
            found += filter(None, map(parse_event, lines))
            if not lines:
                return found, offset

    def event_lines(self, offset: int) -> tuple[list[bytes], int]:
        """Whole lines of the event log from byte `offset` on, some MB at most, and their end."""
        if not self.events_file.exists():
            return [], offset
        with self.events_file.open("rb") as file:
            file.seek(offset)
            data = file.read(EVENT_BYTES)
        whole = data[: data.rfind(b"\n") + 1]
        return whole.splitlines(), offset + len(whole)


def parse_event(line: bytes) -> dict[str, Any]:
    """One event, or nothing where a full disk or a power cut has torn its line."""
    try:
        row = json.loads(line)
    except ValueError:
        return {}
    return row if isinstance(row, dict) else {}
