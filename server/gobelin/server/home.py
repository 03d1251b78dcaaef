"""The aggregator's home folder: its settings, its roster, its keys and every round so far."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from gobelin.server.roster import NodeEntry, Roster
from gobelin.shared.checkpoint import MANIFEST, Checkpoint, read_checkpoint
from gobelin.shared.codec import CodecName
from gobelin.shared.errors import ConfigError, StateError
from gobelin.shared.files import read_json, write_json
from gobelin.shared.recipe import Recipe
from gobelin.shared.settings import Settings, read_settings
from gobelin.shared.signing import SigningKey

Positive = Annotated[int, Field(gt=0)]
Seconds = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(gt=0, le=1)]


class OuterSettings(Settings):
    """The outer optimizer; `sgd` with lr 1 is plain averaging. What is not set is its default."""

    kind: Literal["sgd", "nesterov", "adam", "yogi"] = "sgd"
    lr: Annotated[float, Field(gt=0)] | None = None
    momentum: Annotated[float, Field(ge=0, lt=1)] | None = None  # of adam and yogi: β₁
    beta2: Annotated[float, Field(ge=0, lt=1)] | None = None
    tau: Annotated[float, Field(gt=0)] | None = None
    fragments: Positive = 1  # parts of the model, of which a round exchanges one (Streaming DiLoCo)
    alpha: Annotated[float, Field(gt=0, le=1)] = 1.0  # of a new fragment in a node's own values

    @model_validator(mode="after")
    def _alpha_has_a_use(self) -> OuterSettings:
        if self.alpha != 1 and self.fragments == 1:
            raise ValueError("alpha mixes fragments into nodes' models: set outer.fragments")
        return self


class AggregationSettings(Settings):
    """How members' deltas become one; `mean` is the weighted mean."""

    rule: Literal[
        "mean", "clipped_mean", "trimmed_mean", "median", "geometric_median", "centered_clipping"
    ] = "mean"
    trim: Annotated[float, Field(ge=0, lt=0.5)] = 0.2  # of trimmed_mean, at each end
    radius: Annotated[float, Field(gt=0)] | None = None  # of centered_clipping; unset: the median


class PolicySettings(Settings):
    """What a member weighs, at most and by what, and what its contributions must be worth."""

    cap: Annotated[float, Field(gt=0, le=1)] = 1.0
    weights: Literal["equal", "evidence"] = "equal"
    probe: Path | None = None  # public images; evidence and the quality floor come from them
    probe_images: Positive = 256  # of them at most, and at least the recipe's reference batch
    quality_floor: Annotated[float, Field(gt=0)] = (
        4.0  # τ, robust standard deviations; honest ones reach 3
    )
    collapse_gate: bool = True  # refuse encoders that answer all images alike

    @model_validator(mode="after")
    def _evidence_has_a_source(self) -> PolicySettings:
        if self.weights == "evidence" and self.probe is None:
            raise ValueError("weights by evidence need images to measure it on: set policy.probe")
        return self


class RoundSettings(Settings):
    """How many rounds there are and what bounds each of them."""

    rounds: Positive = 100
    local_steps: Positive = 500
    codec: CodecName = "fp32"  # the finest that nodes encode their deltas by
    broadcast: CodecName = "fp32"  # what the consensus is told by; lossy: as steps between bases
    cross_node: bool = False  # exchange moments, so that SIGReg tests the data of all nodes
    quorum: Share = 0.5  # of the roster's members, who must contribute to every round …
    min_members: Positive = 2  # … and never fewer
    deadline_s: Seconds = 3600.0  # of one round, from its offer
    grace_s: Annotated[float, Field(ge=0)] | None = None  # after the quorum; unset: the deadline
    max_staleness: Annotated[int, Field(ge=0)] = 2  # rounds after which a late answer is refused
    staleness_decay: Annotated[float, Field(ge=0)] = 0.5  # s rounds late counts (1 + s)^−decay
    wait_for_members_s: Seconds = 86400.0  # for the quorum to be online
    attempts: Positive = 3  # of a round that misses its quorum, before giving up
    release_every: Positive = 10
    release_days: Positive = 90  # for which a release may be taken for the newest
    archive: bool = False  # keep contributions as they came, so that rounds can be replayed


class NetworkSettings(Settings):
    """Where nodes reach the aggregator: the one published port."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(gt=0, lt=65536)] = 9092


class FederationSettings(Settings):
    """`federation.toml`."""

    name: Annotated[str, Field(min_length=1, max_length=48, pattern=r"^[A-Za-z0-9][\w.-]*$")]
    seed: Annotated[int, Field(ge=0)] = 0
    network: NetworkSettings = NetworkSettings()
    rounds: RoundSettings = RoundSettings()
    outer: OuterSettings = OuterSettings()
    aggregation: AggregationSettings = AggregationSettings()
    policy: PolicySettings = PolicySettings()

    def require_fit(self, recipe: Recipe) -> None:
        """Raise ConfigError on a probe where members have several modalities.

        Scores on samples of one say nothing of what members of another have trained.
        """
        if self.policy.probe is not None and len(recipe.modalities) > 1:
            names = ", ".join(sorted(recipe.modalities))
            raise ConfigError(
                f"policy.probe is of one modality, the recipe has {names}", "unset policy.probe"
            )


class AggregatorHome:
    """Paths and files under one `--home`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.settings_file = folder / "federation.toml"
        self.recipe_file = folder / "recipe.toml"
        self.roster_file = folder / "roster.json"
        self.tls = folder / "tls"
        self.signing_key_file = self.tls / "signing.key"
        self.rounds = folder / "rounds"
        self.releases = folder / "releases"
        self.journal = folder / "journal"  # of the open round: its events and counted replies
        self.collecting = folder / "collecting"  # scratch: the open round's deltas, decoded
        self.flower = folder / "flower"  # everything that is Flower's
        self.events_file = folder / "events.jsonl"
        self.ledger = folder / "ledger"  # what anybody may check of the rounds
        self.archive = folder / "archive"  # contributions as they came, where they are kept
        self.release_key_file = self.tls / "release.key"  # EC, for tools that know no Ed25519

    def require(self) -> None:
        """Raise StateError unless `gobelin aggregator init` has been here."""
        if not self.settings_file.exists():
            raise StateError(
                f"{self.folder} is no aggregator home", "run `gobelin aggregator init` first"
            )

    def settings(self) -> FederationSettings:
        """The federation's settings."""
        self.require()
        return read_settings(FederationSettings, self.settings_file)

    def recipe(self) -> Recipe:
        """The federation's recipe."""
        return read_settings(Recipe, self.recipe_file)

    def roster(self) -> Roster:
        """The roster as it is on disk now."""
        if not self.roster_file.exists():
            return Roster(())
        try:
            return Roster(tuple(NodeEntry(**row) for row in read_json(self.roster_file)["nodes"]))
        except (KeyError, TypeError):
            raise StateError(
                f"{self.roster_file} is no roster", "restore it from a backup"
            ) from None

    def write_roster(self, roster: Roster) -> None:
        """Replace the roster on disk."""
        write_json(self.roster_file, {"nodes": [vars(node) for node in roster.nodes]})

    def signing_key(self) -> SigningKey:
        """The key that the aggregator signs its word with; raises ConfigError without one."""
        return SigningKey.load(self.signing_key_file)

    def round_folder(self, number: int) -> Path:
        """Folder of the checkpoint that round `number` sealed (0 is the initial model)."""
        return self.rounds / f"round-{number:05d}"

    def sealed_rounds(self) -> list[int]:
        """Numbers of the sealed rounds, ascending."""
        folders = self.rounds.glob("round-[0-9]*") if self.rounds.exists() else []
        return sorted(int(folder.name.removeprefix("round-")) for folder in folders)

    def latest(self) -> tuple[int, Checkpoint]:
        """The last sealed round and its verified checkpoint."""
        sealed = self.sealed_rounds()
        if not sealed:
            raise StateError(f"{self.rounds} holds no checkpoint", "restore it from a backup")
        return sealed[-1], read_checkpoint(self.round_folder(sealed[-1]))

    def facts(self, number: int) -> dict[str, Any]:
        """What is recorded of a sealed round, read without its model."""
        return dict(self.manifest(number)["facts"])

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
        if not self.events_file.exists():
            return [], offset
        with self.events_file.open("rb") as file:
            file.seek(offset)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        return [row for row in map(_event, whole.splitlines()) if row], offset + len(whole)


def _event(line: bytes) -> dict[str, Any]:
    """One event, or nothing where a full disk or a power cut has torn its line."""
    try:
        row = json.loads(line)
    except ValueError:
        return {}
    return row if isinstance(row, dict) else {}
