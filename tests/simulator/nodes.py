"""A contributor node as the aggregator sees it: a mailbox, a spool, and a time to train."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch

from gobelin.protocols.messages import (
    NOT_SPOOLED,
    SUPERSEDED,
    Contribution,
    RoundPlan,
)
from gobelin.server.courier import NodeState, Reply
from gobelin.server.roster import NodeEntry
from gobelin.shared.vector import ParameterSchema, ParameterVector
from tests.answers import contribution, wired
from tests.keys import signing_key

if TYPE_CHECKING:
    from tests.simulator.world import World

SCHEMA = ParameterSchema.of_shapes({"bias": (4,), "weight": (3, 4)})  # 16 parameters
SPOOLED = 2  # contributions a node keeps


@dataclass(frozen=True)
class Entry(NodeEntry):
    """A place on the roster whose id needs no cryptography."""

    @classmethod
    def of_number(cls, member: str, seed: int, number: int) -> Entry:
        """That of node `number` of a history."""
        return cls(member, f"n{number}", f"{seed} {number}", signing_key(number).public)

    @property
    def id(self) -> str:
        """As long as a fingerprint."""
        return id_of(self.public_key)


@functools.lru_cache(maxsize=64)
def id_of(key: str) -> str:
    """The fingerprint of what stands for a public key."""
    return hashlib.sha256(key.encode()).hexdigest()


@dataclass(frozen=True)
class Mail:
    """A plan on its way to a node, with its base or without."""

    run: int  # of the aggregator; nobody waits for answers to an earlier one
    plan: RoundPlan
    recall: bool


def delta_of(node: str, plan_digest: str) -> ParameterVector:
    """What a node learns for a plan, whoever asks and how often."""
    seed = hashlib.sha256(f"{node} {plan_digest}".encode()).digest()
    units = np.frombuffer(seed[: SCHEMA.size], np.uint8).astype(np.float32)
    return ParameterVector(SCHEMA, torch.from_numpy((units - 127.5) * np.float32(1e-3)))


def honest(node: str, plan: RoundPlan) -> Reply:
    """The contribution of a node to a plan."""
    delta = delta_of(node, plan.digest)
    header = contribution(plan, delta.digest)
    return reply_of(node, plan, header, delta.segments())


def reply_of(node: str, plan: RoundPlan, header: Contribution, segments: dict[str, bytes]) -> Reply:
    return Reply(node, header.to_bytes(), wired(segments), plan=plan.digest)


def spoiled(node: str, plan: RoundPlan, how: str) -> Reply:
    """A reply that must not count, or not again."""
    if how == "error":
        return Reply(node, error="gobelin:data", plan=plan.digest)
    if how == "garbage":
        return Reply(node, b"{}", {}, plan=plan.digest)
    values = torch.full((SCHEMA.size,), float("nan"))
    segments = {"00000": values.numpy().tobytes()} if how == "nan" else {}
    made = Contribution.from_bytes(honest(node, plan).header)
    if how == "nan":
        digest = hashlib.sha256(b"".join(segments.values())).hexdigest()
        return reply_of(node, plan, dataclasses.replace(made, delta_digest=digest), segments)
    lie = {"digest": {"delta_digest": "0" * 64}, "steps": {"local_steps": 999}}[how]
    delta = delta_of(node, plan.digest)
    return reply_of(node, plan, dataclasses.replace(made, **lie), delta.segments())


@dataclass
class Node:
    """Answers its mail in order; a crash loses all but the spool."""

    entry: Entry
    world: World
    pace: float  # seconds that training takes
    online: bool = True
    session: int = 0
    mail: list[Mail] = field(default_factory=list)
    training: Mail | None = None
    spool: dict[str, RoundPlan] = field(default_factory=dict)  # finished, the oldest first

    @property
    def id(self) -> str:
        """The fingerprint of its key."""
        return self.entry.id

    @property
    def state(self) -> NodeState:
        """As the engine sees it."""
        return NodeState(self.id, self.online, f"session {self.session}")

    def deliver(self, mail: Mail) -> None:
        """A message has arrived."""
        self.mail.append(mail)
        self.work()

    def work(self) -> None:
        """Answer what waits: recalls, then the newest plan; older plans are declined."""
        if self.training is not None:
            return
        waiting, self.mail = self.mail, []
        for mail in (one for one in waiting if one.recall):
            finished = mail.plan.digest in self.spool
            self.answer(mail, honest(self.id, mail.plan) if finished else None)
        plans = [one for one in waiting if not one.recall]
        for mail in plans[:-1]:
            self.world.reply(mail, Reply(self.id, error=SUPERSEDED, plan=mail.plan.digest))
        for mail in plans[-1:]:
            if mail.plan.digest in self.spool:
                self.answer(mail, honest(self.id, mail.plan))
            else:
                self.training = mail
                self.world.after(self.pace, self.in_session(self.finish))

    def finish(self) -> None:
        """Training is over: into the spool, then on its way."""
        mail, self.training = self.training, None
        assert mail is not None
        self.spool[mail.plan.digest] = mail.plan
        for digest in list(self.spool)[:-SPOOLED]:
            del self.spool[digest]
        self.answer(mail, honest(self.id, mail.plan))
        self.work()

    def answer(self, mail: Mail, reply: Reply | None) -> None:
        """Send a reply; now and then a spoiled one, or an old one once more."""
        how = self.world.mischief(self)
        if reply is None:
            reply = Reply(self.id, error=NOT_SPOOLED, plan=mail.plan.digest)
        elif how == "replay":
            self.world.reply(mail, honest(self.id, next(iter(self.spool.values()))))
        elif how:
            reply = spoiled(self.id, mail.plan, how)
        self.world.reply(mail, reply)

    def crash(self) -> None:
        """Killed: what is in its memory is gone."""
        self.online, self.training, self.mail = False, None, []
        self.session += 1

    def back(self) -> None:
        """Started, or reachable, again."""
        self.online = True

    def in_session(self, action: Callable[[], None]) -> Callable[[], None]:
        """The action, unless the process is another one by then."""
        session = self.session

        def act() -> None:
            if self.session == session:
                action()

        return act
