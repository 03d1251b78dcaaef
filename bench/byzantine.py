"""2 of 12 members hostile: every attack against every aggregation rule.

Each run federates 12 members, each with a Dirichlet(α) share of Fashion-MNIST, in one process;
hostile members see all honest deltas before they answer. What they send goes through the real
admission (as bytes) and the real collapse gate, so `refused` counts what never reached a rule.
With --floor, contributions are scored on a public probe as well, and those below the quality floor
refused, as an aggregator with policy.probe does.
The figure is the linear probe on tokens; `points_lost` compares with the same rule unattacked,
`worst` with the plain mean unattacked.

Writes bench/results/byzantine.json: the whole matrix, `worst_loss` of the best rule.
"""

from __future__ import annotations

import argparse
import os
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.measure import run_all, spread, write_result
from bench.premium_images import read
from examples.in_process import federate_in_process
from gobelin.protocols.bundle import WireArray
from gobelin.protocols.messages import ENCODING, Contribution, RoundPlan
from gobelin.server.admission import Refusal, admit
from gobelin.server.evidence import harmful, remember
from gobelin.server.merge import Merged, Merger
from gobelin.server.probe import ProbeLoss
from gobelin.server.quality import CollapseGate
from gobelin.server.rules import RULES, Krum, make_rule
from gobelin.shared.codec import Payload
from gobelin.shared.data import MemorySource
from gobelin.shared.data.fashion_mnist import TEST, TRAIN, fetch_fashion_mnist
from gobelin.shared.data.partition import dirichlet
from gobelin.shared.evaluation import evaluate_model
from gobelin.shared.model import encoder_of
from gobelin.shared.recipe import Recipe, load_recipe
from gobelin.shared.vector import DTYPE, ParameterVector

MEMBERS, HOSTILE = 12, 2
PROBE_IMAGES, TAU = 256, 4.0  # the defaults of policy.probe_images and policy.quality_floor
ALIE_Z = 1.5  # standard deviations "a little" is (arXiv:1902.06156)

Attack = Callable[[Tensor, Tensor, Tensor], Tensor]  # base (P,), honest (n, P), own (P,) → (P,)
ATTACKS: dict[str, Attack] = {
    "none": lambda base, honest, own: own,
    "nan": lambda base, honest, own: own * float("nan"),
    "times_minus_10": lambda base, honest, own: -10 * own,
    "sign_flip": lambda base, honest, own: -own,
    "alie": lambda base, honest, own: honest.mean(dim=0) - ALIE_Z * honest.std(dim=0),
    "ipm_0.1": lambda base, honest, own: -0.1 * honest.mean(dim=0),  # arXiv:1903.03936
    "ipm_10": lambda base, honest, own: -10 * honest.mean(dim=0),
    "collapse": lambda base, honest, own: -base,  # an encoder that answers everything alike
    # the same, boosted so that the plain mean has no parameter left of the base
    "collapse_boosted": lambda base, honest, own: -base * (MEMBERS / HOSTILE),
}


@dataclass(frozen=True)
class Job:
    """One federation: a rule under an attack."""

    images: Path
    rule: str
    attack: str
    seed: int
    recipe: str
    rounds: int
    local_steps: int
    alpha: float
    labels: int
    gate: bool
    floor: bool


def run_job(job: Job) -> dict[str, Any]:
    """Federate under attack and probe the consensus."""
    recipe = load_recipe(job.recipe)
    members, train, test, public = member_data(job)
    gate = CollapseGate(recipe, job.seed) if job.gate else None
    probe = ProbeLoss(recipe, job.seed, public)
    history: list[float] = []
    refused: dict[str, int] = {"hostile": 0, "honest": 0}
    losses: list[float] = []

    def tamper(
        number: int, base: ParameterVector, deltas: Mapping[str, ParameterVector]
    ) -> Mapping[str, ParameterVector]:
        hostile = [] if job.attack == "none" else sorted(deltas)[-HOSTILE:]
        honest = torch.stack([deltas[m].values for m in sorted(deltas) if m not in hostile])
        admitted: dict[str, ParameterVector] = {}
        for member, delta in deltas.items():
            sent = delta.values
            if member in hostile:
                sent = ATTACKS[job.attack](base.values, honest, sent)
            outcome = admission(recipe, base, number, sent, gate)
            if isinstance(outcome, Refusal):
                refused["hostile" if member in hostile else "honest"] += 1
            else:
                admitted[member] = outcome
        if job.floor:
            scores = {m: probe.score(base, delta) for m, delta in admitted.items()}
            rows = {m: {"member": m, "measured": {"score": s}} for m, s in scores.items()}
            for member in harmful(rows, history, TAU):
                refused["hostile" if member in hostile else "honest"] += 1
                del admitted[member]
            history[:] = remember(history, {m: scores[m] for m in admitted})
        return admitted

    def on_merge(number: int, merged: Merged) -> None:
        honest = sorted(members)[: MEMBERS - (HOSTILE if job.attack != "none" else 0)]
        present = [m for m in honest if m in merged.members]
        losses.append(statistics.fmean(merged.members[m]["minority_loss"] for m in present))

    rule = Krum(HOSTILE) if job.rule == "krum" else make_rule(job.rule)
    vector = federate_in_process(
        recipe,
        members,
        job.rounds,
        job.local_steps,
        job.seed,
        merger=Merger(rule),
        tamper=tamper,
        on_merge=on_merge,
    )
    model = encoder_of(recipe, vector)
    found = evaluate_model(model, train, test, label_budget=job.labels, seed=job.seed)
    return {
        "tokens": found.tokens,
        "effective_rank": found.effective_rank,
        "refused": refused["hostile"],
        "refused_honest": refused["honest"],
        "minority_loss": statistics.fmean(losses),
    }


def admission(
    recipe: Recipe,
    base: ParameterVector,
    number: int,
    sent: Tensor,  # (P,), anything
    gate: CollapseGate | None,
) -> ParameterVector | Refusal:
    """What the aggregator would make of these bytes."""
    plan = RoundPlan(
        "bench", number, number, recipe.canonical(), base.schema.digest, base.digest, 1, 0, 1.0
    )
    data = {
        name: sent[start:end].contiguous().numpy().tobytes()
        for name, (start, end) in base.schema.segments.items()
    }
    digest = Payload(base.schema, plan.codec, data).digest  # of what is sent, NaN and all
    header = Contribution("bench", number, plan.digest, base.digest, digest, 1, 1, 1.0)
    arrays = {
        name: WireArray(DTYPE, (len(part) // 4,), ENCODING, part) for name, part in data.items()
    }
    outcome = admit(plan, {"": base.schema}, recipe.projector.out, header.to_bytes(), arrays)
    if isinstance(outcome, Refusal):
        return outcome
    seen = gate.judge(base, outcome.delta) if gate is not None else None
    return seen if isinstance(seen, Refusal) else outcome.delta


def member_data(
    job: Job,
) -> tuple[dict[str, MemorySource], MemorySource, MemorySource, MemorySource]:
    """The members' private images, labelled training and test images, and public ones."""
    train, labels = read(job.images / TRAIN, 60_000, job.seed)
    held, held_labels = read(job.images / TEST, 5_000 + PROBE_IMAGES, job.seed)
    test, test_labels, public = held[:5_000], held_labels[:5_000], held[5_000:]
    parts = dirichlet(labels, MEMBERS, job.alpha, job.seed, minimum=200)
    members = {
        f"m{i:02d}": MemorySource(train[torch.from_numpy(np.asarray(part))])
        for i, part in enumerate(parts)
    }
    return (
        members,
        MemorySource(train, labels),
        MemorySource(test, test_labels),
        MemorySource(public),
    )


def main() -> None:
    """Run the matrix, two federations at a time on two cores."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rules", nargs="+", default=[*RULES, "krum"])
    parser.add_argument("--attacks", nargs="+", default=list(ATTACKS), choices=list(ATTACKS))
    parser.add_argument("--recipe", default="tiny")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--local-steps", type=int, default=10)
    parser.add_argument("--alpha", type=float, default=0.3)
    parser.add_argument("--labels", type=int, default=10_000)
    parser.add_argument("--no-gate", action="store_true", help="leave the collapse gate out")
    parser.add_argument("--floor", action="store_true", help="score on a public probe, too")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--data", type=Path)
    parser.add_argument("--name", default="byzantine", help="of the result file")
    options = parser.parse_args()
    images = fetch_fashion_mnist(Path(".cache"), options.data)
    attacks = list(dict.fromkeys(["none", *options.attacks]))
    rules = list(dict.fromkeys(["mean", *options.rules]))
    jobs = [
        Job(
            images,
            rule,
            attack,
            seed,
            options.recipe,
            options.rounds,
            options.local_steps,
            options.alpha,
            options.labels,
            not options.no_gate,
            options.floor,
        )
        for seed in options.seeds
        for attack in attacks
        for rule in rules
    ]
    found = run_all(run_job, jobs, options.workers)
    print(write_result(options.name, summarise(found, rules, attacks, options)))


def summarise(
    found: Mapping[Job, Mapping[str, Any]],
    rules: list[str],
    attacks: list[str],
    options: argparse.Namespace,
) -> dict[str, Any]:
    """Flat keys RULE.ATTACK.figure, and each rule's worst loss against the unattacked mean."""
    cells: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for job, figures in found.items():
        cells.setdefault((job.rule, job.attack), []).append(figures)
    clean = [run["tokens"] for run in cells["mean", "none"]]
    values: dict[str, Any] = {
        **{k: v for k, v in vars(options).items() if k not in ("data", "name", "workers")},
        "members": MEMBERS,
        "hostile": HOSTILE,
        "goal": "worst_loss <= 2 points; every NaN and collapse refused; plain mean fails",
    }
    worst: dict[str, list[float]] = {}
    for (rule, attack), runs in cells.items():
        key = f"{rule}.{attack}"
        values[f"{key}.tokens"] = spread([run["tokens"] for run in runs])
        own = [run["tokens"] for run in cells[rule, "none"]]
        lost = [a - run["tokens"] for a, run in zip(own, runs, strict=True)]
        values[f"{key}.points_lost"] = spread(lost)
        values[f"{key}.below_clean_mean"] = spread(
            [a - run["tokens"] for a, run in zip(clean, runs, strict=True)]
        )
        for figure in ("effective_rank", "minority_loss"):
            values[f"{key}.{figure}"] = spread([run[figure] for run in runs])
        for figure in ("refused", "refused_honest"):
            values[f"{key}.{figure}"] = sum(run[figure] for run in runs)
        worst.setdefault(rule, []).append(values[f"{key}.below_clean_mean"]["mean"])
    for rule in rules:
        values[f"{rule}.worst_loss"] = max(worst[rule])
    candidates = [rule for rule in rules if rule not in ("mean", "krum")] or rules
    values["best_rule"] = min(candidates, key=lambda rule: max(worst[rule]))
    values["worst_loss"] = max(worst[values["best_rule"]])
    values["worst_loss_plain_mean"] = max(worst["mean"])
    attempts = len(options.seeds) * options.rounds * HOSTILE
    for attack in ("nan", "collapse"):
        if attack in attacks:
            refusals = [values[f"{rule}.{attack}.refused"] for rule in rules]
            values[f"refused_share.{attack}"] = min(refusals) / attempts
    return values


if __name__ == "__main__":
    main()
