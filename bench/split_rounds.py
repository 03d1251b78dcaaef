"""Rounds of members who see parts of one world, with remedies for what that does to averaging.

Each remedy is one field of `Setting` and a few lines; they compose.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cache
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.sketch import Sketch
from bench.two_rooms import (
    DIM,
    KNOTS,
    LR,
    SLICES,
    T_MAX,
    Correction,
    Film,
    Member,
    Slices,
    WorldModel,
)
from gobelin.server.aggregation import InMemory
from gobelin.server.merge import Counted, Merger
from gobelin.server.outer import OuterOptimizer, OuterState, Sgd
from gobelin.shared.objective import Moments, Offset
from gobelin.shared.objective.sigreg import directions
from gobelin.shared.seeds import derive_seed
from gobelin.shared.vector import ParameterSchema, ParameterVector
from gobelin.shared.worlds import WORLD

CrossNode = Literal["no", "sketch", "moments"]  # what members say of a round's base first
INNER = ("exp_avg", "exp_avg_sq")  # AdamW's moments, as PyTorch names them
PUBLIC = 64  # pictures an anchor holds on to


@dataclass(frozen=True)
class Setting:
    """How a federation goes about its rounds; the defaults are plain FedAvg."""

    local_steps: int = 10
    lr: float = LR  # of the inner optimizer, at its peak
    cross_node: CrossNode = "no"
    inner: Literal["kept", "averaged", "reset"] = "kept"  # AdamW's moments after a round
    outer: OuterOptimizer = field(default_factory=Sgd)
    proximal: float = 0.0  # μ of FedProx
    drift: bool = False  # SCAFFOLD's control variates
    layerwise: bool = False  # tensors weighted by how far members agree with the mean
    often: str = ""  # role of the tensors averaged in the middle of a round, too
    late: bool = False  # the second member joins when half of the rounds are over
    anchor: float = 0.0  # weight of staying near the base's latents of public pictures


def federate(films: Sequence[Film], seed: int, steps: int, setting: Setting) -> WorldModel:
    """The consensus of members with these films; with one film, that member training alone."""
    torch.manual_seed(seed)
    base = ParameterVector.of(WorldModel())
    everyone = [
        Member(film, derive_seed(seed, "node", k), steps, setting.lr)
        for k, film in enumerate(films)
    ]
    drifts = {member: Drift(member.model) for member in everyone} if setting.drift else {}
    state: OuterState = {}
    for number, start in enumerate(range(0, steps, setting.local_steps)):
        stop = min(start + setting.local_steps, steps)
        away = setting.late and start < steps / 2
        members = everyone[::2] if away else everyone
        for member in members:
            base.load_into(member.model)
            member.corrections = corrections(setting, member, drifts.get(member))
        train(members, start, stop, draws(members, number, seed, setting.cross_node), setting.often)
        deltas = [(ParameterVector.of(member.model) - base).values for member in members]
        values, state = setting.outer.step(base.values, merge(deltas, base.schema, setting), state)
        base = ParameterVector(base.schema, values)
        renew_inner(members, setting.inner)
        if setting.drift:
            Drift.exchange([drifts[member] for member in members])
    base.load_into(everyone[0].model)
    return everyone[0].model


def train(
    members: Sequence[Member], start: int, stop: int, slices: Sequence[Slices], often: str
) -> None:
    """A round's local steps, with the tensors of the role `often` averaged in their middle."""
    middle = (start + stop) // 2 if often else stop
    for member, drawn in zip(members, slices, strict=True):
        member.train(start, middle, drawn)
    if often:
        average_role(members, often)
        for member, drawn in zip(members, slices, strict=True):
            member.train(middle, stop, drawn)


def merge(deltas: Sequence[Tensor], schema: ParameterSchema, setting: Setting) -> Tensor:
    """The members' deltas as one."""
    if setting.layerwise:
        return layerwise(schema, torch.stack(list(deltas)))
    return Merger().merge(InMemory(deltas), [Counted(str(k)) for k in range(len(deltas))], {}).delta


def draws(members: Sequence[Member], number: int, seed: int, form: CrossNode) -> list[Slices]:
    """How each member draws a step's slices in this round: shared seeds, own offsets."""
    offsets: list[Offset] = []
    if form == "sketch":
        own = [member.sketch(number, seed) for member in members]
        together = Sketch.mean((sketch, Fraction(1)) for sketch in own)
        offsets += [together.offset_from(sketch) for sketch in own]
    elif form == "moments":
        seen = [Moments.of(member.projections(number)) for member in members]
        pooled = Moments.pool((moments, Fraction(1)) for moments in seen)
        offsets += [pooled.offset_from(moments) for moments in seen]
    else:
        return [
            lambda step: (directions(derive_seed(seed, "slices", step), DIM, SLICES), None)
        ] * len(members)
    return [by_offset(offset, seed) for offset in offsets]


def by_offset(offset: Offset, seed: int) -> Slices:
    """A step's slices, with what the other members add there."""
    return lambda step: offset.draw(derive_seed(seed, "slices", step), DIM, SLICES, KNOTS, T_MAX)


def renew_inner(members: Sequence[Member], how: str) -> None:
    """After a round: leave the members' AdamW moments, or give all the mean, or zeros."""
    if how == "kept":
        return
    for parameters in zip(*(member.model.parameters() for member in members), strict=True):
        states = [m.optimizer.state[p] for m, p in zip(members, parameters, strict=True)]
        steps = torch.zeros(()) if how == "reset" else max(state["step"] for state in states)
        for state in states:
            state["step"] = steps.clone()
        for moment in INNER:
            mean = torch.stack([state[moment] for state in states]).mean(dim=0)
            for state in states:
                state[moment].copy_(torch.zeros_like(mean) if how == "reset" else mean)


def average_role(members: Sequence[Member], role: str) -> None:
    """Give all members the mean of their tensors of one role, in the middle of a round."""
    with torch.no_grad():
        for rows in zip(*(member.model.named_parameters() for member in members), strict=True):
            if rows[0][0].startswith(f"{role}."):
                mean = torch.stack([parameter for _, parameter in rows]).mean(dim=0)
                for _, parameter in rows:
                    parameter.copy_(mean)


def layerwise(schema: ParameterSchema, deltas: Tensor) -> Tensor:
    """Deltas (n, P) to one (P,): in each tensor weights ∝ max(0, cos(dᵢ, mean)).

    L-DAWA's (arXiv:2307.07393) on deltas instead of weights, whose cosines are all about 1.
    """
    merged = deltas.mean(dim=0)
    for start, end in schema.offsets.values():
        part = deltas[:, start:end]
        agreement = F.cosine_similarity(part, part.mean(dim=0, keepdim=True)).clamp(min=0)
        if agreement.sum() > 0:
            merged[start:end] = (agreement / agreement.sum()) @ part
    return merged


def corrections(setting: Setting, member: Member, drift: Drift | None) -> list[Correction]:
    """What changes the member's gradients in this round; its model is at the base."""
    made: list[Correction] = []
    if drift is not None:
        made.append(drift)
    if setting.proximal:
        made.append(Proximal(member.model, setting.proximal))
    if setting.anchor:
        made.append(Anchor(member.model, setting.anchor))
    return made


class Proximal:
    """FedProx (arXiv:1812.06127): μ / 2 · ‖θ − base‖² in the loss."""

    def __init__(self, base: nn.Module, weight: float) -> None:
        self.base = [parameter.detach().clone() for parameter in base.parameters()]
        self.weight = weight

    def __call__(self, model: nn.Module) -> None:
        for parameter, base in zip(model.parameters(), self.base, strict=True):
            gradient_of(parameter).add_(parameter.detach() - base, alpha=self.weight)


class Drift:
    """SCAFFOLD (arXiv:1910.06378): g + c − cₖ, with the last round's mean gradients cₖ and c."""

    def __init__(self, model: nn.Module) -> None:
        self.total = [torch.zeros_like(parameter) for parameter in model.parameters()]
        self.shift = [torch.zeros_like(parameter) for parameter in model.parameters()]
        self.steps = 0

    def __call__(self, model: nn.Module) -> None:
        self.steps += 1
        for parameter, total, shift in zip(model.parameters(), self.total, self.shift, strict=True):
            gradient = gradient_of(parameter)
            total.add_(gradient)
            gradient.add_(shift)

    @staticmethod
    def exchange(drifts: Sequence[Drift]) -> None:
        """After a round: every member's mean gradient, and the mean of those."""
        for rows in zip(*(zip(d.total, d.shift, strict=True) for d in drifts), strict=True):
            own = [total / drift.steps for drift, (total, _) in zip(drifts, rows, strict=True)]
            mean = torch.stack(own).mean(dim=0)
            for gradient, (total, shift) in zip(own, rows, strict=True):
                shift.copy_(mean - gradient)
                total.zero_()
        for drift in drifts:
            drift.steps = 0


class Anchor:
    """weight · mean ‖z − z_base‖² of public pictures: latents stay where the base has them."""

    def __init__(self, base: WorldModel, weight: float) -> None:
        self.pictures = public_pictures()
        with torch.no_grad():
            self.latents = base.encode(self.pictures)
        self.weight = weight

    def __call__(self, model: WorldModel) -> None:
        off = (model.encode(self.pictures) - self.latents).square().mean()
        (self.weight * off).backward()  # type: ignore[no-untyped-call]


@cache
def public_pictures() -> Tensor:
    """Pictures (N, 1, H, W) of the whole world that nobody owns."""
    return Film.of(WORLD, PUBLIC, derive_seed(0, "public")).pictures[:, 0]


def gradient_of(parameter: nn.Parameter) -> Tensor:
    """The parameter's gradient, which a step has made."""
    assert parameter.grad is not None
    return parameter.grad
