"""A contributor node's home folder: its settings, its key, its spool."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from gobelin.shared.errors import ConfigError, EnrolmentError, StateError
from gobelin.shared.files import (
    PRIVATE,
    find_json,
    folder_atomic,
    write_atomic,
    write_json,
    write_once,
)
from gobelin.shared.formats import NODE, require_readable
from gobelin.shared.keys import (
    check_certificate,
    fingerprint,
    load_private_key,
    make_key,
    private_pem,
    public_pem,
)
from gobelin.shared.locks import change
from gobelin.shared.logs import LogSettings
from gobelin.shared.settings import Settings, read_settings, write_settings
from gobelin.shared.signing import SigningKey, find_signing_key, public_signing_pem

SECRET_BYTES = 32
Name = Annotated[str, Field(min_length=1, max_length=48, pattern=r"^[A-Za-z0-9][\w.-]*$")]


class DataSettings(Settings):
    """Where the private data lie; they never leave this machine."""

    path: Path  # file or folder; `gobelin node plan` says whether it is understood
    modality: str | None = None  # one of the recipe's; need not be said where it has only one
    # a sample that cannot be read stops the node, or is left out, counted and logged
    on_bad: Literal["refuse", "skip"] = "refuse"
    # What order and augmentation derive from: the plan alone, or this node's secret, too. Homes of
    # before there was a choice say nothing, and keep to what they had.
    order: Literal["plan", "private"] = "plan"
    cache_mb: Annotated[int, Field(gt=0)] = 256  # decoded samples kept in memory, at most


class MachineSettings(Settings):
    """What is trained on."""

    device: str = "auto"  # auto, cpu, cuda, cuda:1, mps …
    precision: Literal["auto", "fp32", "bf16"] = "auto"  # auto: bf16 on a GPU that has it
    compile: bool = False  # by torch.compile: a slower start, then faster steps, on a GPU above all
    threads: Annotated[int, Field(ge=0)] = 0  # 0: as many as the machine offers


class ComputeSettings(MachineSettings):
    """What the node trains on, and how long."""

    # Fewer local steps where all of a round's take longer, or longer than the plan's deadline
    # allows. Unset, every step is taken, whatever it takes.
    seconds_per_round: Annotated[float, Field(gt=0)] | None = None


class EgressSettings(Settings):
    """What may leave this node, and what a round's encoded delta may weigh.

    A node takes a coarser codec than the plan's to keep its budget.
    """

    moments: bool = True  # of projections, where the federation asks for them; else they stay here
    # a coarser codec is taken to keep to it
    max_mb_per_round: Annotated[float, Field(gt=0)] | None = None
    # as above, at the rate measured so far
    seconds_per_round: Annotated[float, Field(gt=0)] | None = None
    sealed_only: bool = False  # refuse rounds in which the aggregator sees this node's delta
    min_sealed_members: Annotated[int, Field(ge=2)] = 3  # fewest in a sum, this one included

    def __str__(self) -> str:
        """For an operator: what leaves this node."""
        moments = "moments of projections if asked for" if self.moments else "no moments"
        deltas = "masked deltas" if self.sealed_only else "encoded deltas"
        always = f"{deltas} with their training figures, cosignatures of the ledger"
        return f"leaving this node: {always}; {moments}"


class PrivacySettings(Settings):
    """Example-level DP-SGD (arXiv:1607.00133) on this node; where the table is, all training is."""

    noise_multiplier: Annotated[float, Field(gt=0)]  # σ: noise on a step's sum, in clip norms
    clip_norm: Annotated[float, Field(gt=0)] = 1.0  # C: the most one sample's gradient may be long
    batch_size: Annotated[int, Field(ge=32)] | None = None  # expected; unset: the recipe's

    def __str__(self) -> str:
        """For an operator: what that means for what leaves."""
        return (
            f"trained with differential privacy (noise {self.noise_multiplier:g}, clip norm "
            f"{self.clip_norm:g}): no training figures leave, and no moments"
        )


class ShadowSettings(Settings):
    """A solo model trained beside, to know what federating gives; where the table is, it is."""

    compute: Annotated[float, Field(gt=0, le=0.5)] = 0.25  # of the time this node trains, its own
    # Of the samples, those that no model here is trained on, this node's contributions included.
    held_out: Annotated[float, Field(gt=0, le=0.5)] = 0.1
    share: bool = False  # tell the aggregator the premium, with each contribution

    def __str__(self) -> str:
        """For an operator: what it costs, and what leaves."""
        told = "its premium goes with contributions" if self.share else "its premium stays here"
        return (
            f"a solo model may take {self.compute:.0%} of the training time; {self.held_out:.0%} "
            f"of the samples are held out of all training; {told}"
        )


class LinkSettings(Settings):
    """The way to the aggregator."""

    # An HTTP proxy, http://host:port or http://user:password@host:port; "" for none. Unset: what
    # the environment says (see `route`).
    proxy: str | None = None


class NodeSettings(Settings):
    """`node.toml`."""

    member: Name  # the institution it belongs to; weights and caps are per member
    node: Name  # its name, one among the member's
    aggregator: Annotated[str, Field(pattern=r"^\S+:\d{1,5}$")]  # where rounds are, as host:port
    data: DataSettings
    compute: ComputeSettings = ComputeSettings()
    egress: EgressSettings = EgressSettings()
    network: LinkSettings = LinkSettings()
    privacy: PrivacySettings | None = None
    logs: LogSettings = LogSettings()
    shadow: ShadowSettings | None = None

    @model_validator(mode="after")
    def _premium_is_covered(self) -> NodeSettings:
        if self.privacy is not None and self.shadow is not None and self.shadow.share:
            raise ValueError(
                "shadow.share tells a figure of the data that no ε of [privacy] covers: "
                "leave one of them out"
            )
        return self


class NodeHome:
    """Paths and files under one `--home`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.settings_file = folder / "node.toml"
        self.ca_file = folder / "ca.pem"  # the pinned CA of the federation
        self.key_file = folder / "node.key"
        self.signing_key_file = folder / "signing.key"
        self.public_key_file = folder / "node.pub"  # both public keys, for the roster
        self.certificate_file = folder / "node.pem"  # of a node that has joined by an invite
        self.enrolment_file = folder / "enrolment.json"  # whom it joined, and by which invite
        self.roster_file = folder / "roster.jsonl"  # its roster log, as last seen and verified
        self.invite_file = folder / "invite.key"  # the invite's secret; bound to this node's keys
        self.exit = folder / "exit"  # what it was given when it left
        self.secret_file = folder / "node.secret"  # of what random streams nobody else may know
        self.spool = folder / "spool"
        self.pins_file = folder / "pins.json"  # what this node has bound itself to
        self.status_file = folder / "status.json"
        self.log_file = folder / "logs" / "node.log"
        self.sealed = folder / "sealed"  # the plan and the secrets of the last sealed round
        self.base_file = folder / "base.f32"  # the last base, where the federation sends steps
        self.policy_file = folder / "policy.toml"  # the site policy, where there is one
        self.plan_file = folder / "plan.json"  # the last round plan, for who asks what it asked
        self.egress_file = folder / "egress.jsonl"  # the egress ledger
        self.shadow = folder / "shadow"  # the solo model, and what was measured of it
        self.heads = folder / "heads"  # of the ledger, as believed and cosigned
        self.receipts = folder / "receipts"  # with their proofs, for ever
        self.releases = folder / "releases"  # that were fetched and hold
        self.fetching = folder / "fetching"  # of releases, what has come so far
        self.newest_file = folder / "newest.json"  # the newest release that was accepted
        self.uplink_file = folder / "uplink.json"  # how fast contributions have left so far

    def settings(self) -> NodeSettings:
        """The node's settings; raises StateError unless `gobelin node init` has been here.

        FormatError where it was a newer gobelin.
        """
        if not self.settings_file.exists():
            raise StateError(
                f"{self.folder} is no node home",
                "run `gobelin node join`, or `gobelin node init`, first",
            )
        require_readable(self.folder, NODE)
        return read_settings(NodeSettings, self.settings_file)

    def aggregator_key(self) -> str:
        """The aggregator's public signing key, which stands in the pinned ca.pem."""
        return find_signing_key(self.ca_file.read_bytes(), str(self.ca_file))

    def secret(self) -> bytes:
        """32 bytes that this node alone knows, made when they are first asked for.

        Raises StateError where the file is damaged: another secret would mean other noise.
        """
        write_once(self.secret_file, lambda: os.urandom(SECRET_BYTES).hex().encode())
        try:
            secret = bytes.fromhex(self.secret_file.read_text())
        except ValueError:
            secret = b""
        if len(secret) != SECRET_BYTES:
            raise StateError(f"{self.secret_file} is damaged", "bring it back from a copy")
        return secret

    @property
    def id(self) -> str:
        """Fingerprint of this node's public key."""
        return fingerprint(self.public_key_file.read_bytes(), str(self.public_key_file))

    def pin(self, name: str, value: Any) -> None:
        """Bind this node to `value` for ever; raises StateError when it is bound to another."""
        with change(self.pins_file):
            pins = self._pins()
            if pins.setdefault(name, value) != value:
                raise StateError(
                    f"this node is bound to {name} {pins[name]!r}, the aggregator offers {value!r}",
                    "use another --home to take part in another federation",
                )
            write_json(self.pins_file, pins)

    def remember(self, name: str, value: Any) -> None:
        """Keep `value` beside the pins; unlike them it may change."""
        self.renew(name, lambda _: value)

    def renew(self, name: str, of: Callable[[Any], Any]) -> None:
        """Remember what `of` makes of what is remembered, which nobody else changes meanwhile."""
        with change(self.pins_file):
            pins = self._pins()
            write_json(self.pins_file, {**pins, name: of(pins.get(name))})

    def pinned(self, name: str) -> Any:
        """What this node is bound to or remembers, or None."""
        return self._pins().get(name)

    def _pins(self) -> dict[str, Any]:
        return find_json(self.pins_file) or {}


def found_node(folder: Path, settings: NodeSettings, ca: Path) -> NodeHome:
    """Write a new node home with a key made here, whole or not at all."""
    home = NodeHome(folder)
    if folder.exists() and any(folder.iterdir()):
        raise StateError(f"{folder} is not empty", "choose an empty or new --home")
    try:
        pem = ca.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"{ca} cannot be read: {error.strerror}", "ask the aggregator's operator for ca.pem"
        ) from None
    check_certificate(pem, str(ca))
    find_signing_key(pem, str(ca))  # refuses a ca.pem without the aggregator's
    key, signing = make_key(), SigningKey.generate()
    with folder_atomic(folder, new=True) as tmp:
        place = NodeHome(tmp)
        write_atomic(place.key_file, private_pem(key), PRIVATE)
        signing.write(place.signing_key_file)
        both = public_pem(key.public_key()) + public_signing_pem(signing.public)
        write_atomic(place.public_key_file, both)
        write_atomic(place.ca_file, pem)
        write_settings(place.settings_file, settings)
    load_private_key(home.key_file)
    return home


def require_member(home: NodeHome) -> None:
    """Raise EnrolmentError when the node has left its federation."""
    if home.exit.exists():
        raise EnrolmentError(
            f"the node in {home.folder} has left its federation: see {home.exit}",
            "join again with a new invite and another --home",
        )


BUSY = ("training", "shadow")  # states that are told of step by step


@dataclass(frozen=True)
class NodeStatus:
    """What a node is doing, for its terminal view and `status.json`."""

    state: str  # idle, waiting, paused, training, shadow, warning, sending, finished
    round: int = 0
    rounds: int = 0
    step: int = 0
    steps: int = 0
    samples_per_second: float = 0.0
    loss: float = 0.0
    effective_rank: float = 0.0
    time_left_s: float = 0.0
    codec: str = ""  # of the contribution last sent, as are the next four
    sent_bytes: int = 0
    distortion: float = 0.0
    delta_digest: str = ""
    moments_bytes: int = 0  # 0 where none were asked for, or this node declined
    peak_mb: float = 0.0  # most memory this process has held so far
    note: str = ""

    def facts(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)


Say = Callable[[NodeStatus], None]  # tells a status to whoever watches
