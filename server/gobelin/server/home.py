"""The aggregator's home folder with its settings, its recipe and every round so far."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from gobelin.server.places import FederationName, NetworkSettings, Places, Port
from gobelin.server.sealed_roster import SEALED_MEMBERS, SealedMembers
from gobelin.shared.codec_name import CodecName
from gobelin.shared.errors import ConfigError, StateError
from gobelin.shared.logs import LogSettings
from gobelin.shared.schedule import Schedule
from gobelin.shared.settings import Settings, read_settings
from gobelin.shared.signing import SigningKey

if TYPE_CHECKING:  # who only looks at a home needs no tensors, and neither does its memory
    from gobelin.shared.checkpoint import Checkpoint
    from gobelin.shared.recipe import Recipe

Positive = Annotated[int, Field(gt=0)]
Seconds = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(gt=0, le=1)]


class OuterSettings(Settings):
    """The outer optimizer; `sgd` with lr 1 is plain averaging. What is not set is its default."""

    # nesterov is DiLoCo's; adam and yogi are those of FedOpt
    kind: Literal["sgd", "nesterov", "adam", "yogi"] = "sgd"
    # outer learning rate; unset: sgd 1, nesterov 0.7, adam and yogi 0.01
    lr: Annotated[float, Field(gt=0)] | None = None
    # of nesterov; of adam and yogi: β₁; unset: 0.9
    momentum: Annotated[float, Field(ge=0, lt=1)] | None = None
    beta2: Annotated[float, Field(ge=0, lt=1)] | None = None  # of adam and yogi; unset: 0.99
    tau: Annotated[float, Field(gt=0)] | None = None  # of adam and yogi, their ε; unset: 0.001
    fragments: Positive = 1  # parts of the model, of which a round exchanges one (Streaming DiLoCo)
    # share of a new fragment in a node's own values
    alpha: Annotated[float, Field(gt=0, le=1)] = 1.0

    @model_validator(mode="after")
    def _alpha_has_a_use(self) -> OuterSettings:
        if self.alpha != 1 and self.fragments == 1:
            raise ValueError("alpha mixes fragments into nodes' models: set outer.fragments")
        return self


class AggregationSettings(Settings):
    """How members' deltas become one; `mean` is the weighted mean."""

    # all but mean and clipped_mean bear some members who lie
    rule: Literal[
        "mean", "clipped_mean", "trimmed_mean", "median", "geometric_median", "centered_clipping"
    ] = "mean"
    # share that trimmed_mean leaves out at each end
    trim: Annotated[float, Field(ge=0, lt=0.5)] = 0.2
    # of centered_clipping, a length; unset: the median distance from the centre
    radius: Annotated[float, Field(gt=0)] | None = None


class PolicySettings(Settings):
    """What a member weighs, at most and by what, and what its contributions must be worth."""

    # the most weight one member may have, as a share; 1: no cap
    cap: Annotated[float, Field(gt=0, le=1)] = 1.0
    # equal, or by what contributions are worth on `probe`
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

    rounds: Positive = 100  # how many there are in all
    local_steps: Positive = 500  # H: inner steps a node takes in a round
    # the first so many rounds take one local step each (H = 1)
    warmup_rounds: Annotated[int, Field(ge=0)] = 0
    codec: CodecName = "fp32"  # the finest by which nodes encode their deltas
    # what the consensus is sent by; a lossy one sends steps between bases
    broadcast: CodecName = "fp32"
    cross_node: bool = False  # exchange moments, so that SIGReg tests the data of all nodes
    quorum: Share = 0.5  # of the roster's members, who must contribute to every round …
    min_members: Positive = 2  # … and never fewer
    deadline_s: Seconds = 3600.0  # of one round, from its offer
    # that a round still waits once its quorum is in; unset: until the deadline
    grace_s: Annotated[float, Field(ge=0)] | None = None
    max_staleness: Annotated[int, Field(ge=0)] = 2  # rounds after which a late answer is refused
    staleness_decay: Annotated[float, Field(ge=0)] = 0.5  # s rounds late counts (1 + s)^−decay
    wait_for_members_s: Seconds = 86400.0  # for the quorum to be online, before a round is offered
    attempts: Positive = 3  # at a round that misses its quorum, before giving up
    release_every: Positive = 10  # rounds from one release to the next
    sealed: bool = False  # deltas leave nodes masked, so that only their sum is known
    # more than this share of the nodes must stay for the sum to open
    sealed_threshold: Annotated[float, Field(ge=0.5, lt=1)] = 2 / 3
    # the most nodes that one sum has place for
    sealed_members: SealedMembers = SEALED_MEMBERS
    # largest |δ| of one parameter, a power of two; what is beyond it is owed
    sealed_bound: Annotated[float, Field(gt=0)] = 1.0
    # nodes shorten their deltas to this length; unset: to none
    sealed_norm: Annotated[float, Field(gt=0)] | None = None
    sealed_offline_s: Seconds = 60.0  # after which a silent node has dropped out of the sum
    release_days: Positive = 90  # for which a release may be taken for the newest
    archive: bool = False  # keep contributions as they came, so that rounds can be replayed

    @property
    def schedule(self) -> Schedule:
        """How many local steps each round takes."""
        return Schedule(self.rounds, self.local_steps, self.warmup_rounds)

    @model_validator(mode="after")
    def _warmup_ends(self) -> RoundSettings:
        if self.warmup_rounds >= self.rounds:
            raise ValueError(
                f"warmup_rounds = {self.warmup_rounds} leave none of {self.rounds} rounds: lower it"
            )
        return self


class ReleaseSettings(Settings):
    """What is measured of a release when it is published."""

    probe: Path | None = None  # public labelled samples: what heads of the last release are worth
    modality: str | None = None  # of the probe, where the recipe has several
    probe_samples: Positive = 2000  # of them at most, half to fit heads on and half to test them
    # Releases wait until the members' median premium, by their own word, is so many points …
    least_premium: Annotated[float, Field(ge=-100, le=100)] | None = None
    premium_members: Share = 0.5  # … told by this share of those who contributed to the round


class RetentionSettings(Settings):
    """What stays; what is not set stays for ever."""

    # rounds whose checkpoint stays, the last
    checkpoints: Annotated[int, Field(gt=0)] | None = None
    archives: Annotated[int, Field(ge=0)] | None = None  # rounds whose contributions stay, the last
    releases: Annotated[int, Field(gt=0)] | None = None  # releases that stay, the newest …
    every: Annotated[int, Field(gt=0)] = 100  # … and for ever those of rounds that it divides


class PageSettings(Settings):
    """The aggregator's page; `gobelin aggregator up` serves it where a port is set."""

    host: str = "127.0.0.1"  # the address it listens on; beyond loopback it needs a token and TLS
    port: Port | None = None  # unset: `up` serves no page
    # who reads the page bears the token in it; a must beyond loopback
    token_file: Path | None = None


class FederationSettings(Settings):
    """`federation.toml`."""

    name: FederationName  # the federation's, as members and the page see it
    # of the first model, the slices, the samples' order and every round's draws
    seed: Annotated[int, Field(ge=0)] = 0
    network: NetworkSettings = NetworkSettings()
    rounds: RoundSettings = RoundSettings()
    outer: OuterSettings = OuterSettings()
    aggregation: AggregationSettings = AggregationSettings()
    policy: PolicySettings = PolicySettings()
    releases: ReleaseSettings = ReleaseSettings()
    logs: LogSettings = LogSettings()
    page: PageSettings = PageSettings()
    retention: RetentionSettings = RetentionSettings()

    def require_fit(self, recipe: Recipe) -> None:
        """Raise ConfigError on a probe of no modality, or of one where members have several.

        Scores on samples of one say nothing of what members of another have trained.
        """
        if self.releases.probe is not None:
            recipe.pick(self.releases.modality)
        if self.policy.probe is not None and len(recipe.modalities) > 1:
            names = ", ".join(sorted(recipe.modalities))
            raise ConfigError(
                f"policy.probe is of one modality, the recipe has {names}", "unset policy.probe"
            )


class AggregatorHome(Places):
    """Paths and files under one `--home`."""

    def settings(self) -> FederationSettings:
        """The federation's settings."""
        self.require()
        return read_settings(FederationSettings, self.settings_file)

    def recipe(self) -> Recipe:
        """The federation's recipe."""
        from gobelin.shared.recipe import Recipe

        return read_settings(Recipe, self.recipe_file)

    def signing_key(self) -> SigningKey:
        """The key this aggregator signs with; raises ConfigError when it is gone."""
        return SigningKey.load(self.signing_key_file)

    def latest(self) -> tuple[int, Checkpoint]:
        """The last sealed round and its verified checkpoint."""
        from gobelin.shared.checkpoint import read_checkpoint

        sealed = self.sealed_rounds()
        if not sealed:
            raise StateError(f"{self.rounds} holds no checkpoint", "restore it from a backup")
        return sealed[-1], read_checkpoint(self.round_folder(sealed[-1]))
