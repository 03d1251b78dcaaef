"""Tables of the world models: what is foreseen, and what is planned."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.markdown import figure, table

PLANNING_FIGURES = {
    "ms.gobelin": "ours, ms",
    "ms.draft": "ours, bf16 draft, ms",
    "ms.baseline_batch_1": "baseline, ms",
    "speedup": "times faster than the better baseline",
    "speedup_draft": "with the draft",
    "speedup_layers": "if it has our layers",
    "speedup_solver": "if it has our rollout",
}


def federated_table(values: Mapping[str, Any]) -> str:
    """A world model woven by members who know a part of the world each."""
    titles = {"random policy": "no model: random actions", "pooled": "all data pooled"}
    titles |= {member: f"{member} alone" for member in values["members"]}
    rows = []
    for name in ("random policy", *values["members"], "pooled", "consensus"):
        imagined = figure(values.get(f"{name}.imagined"), 3)
        done = figure(values[f"{name}.success"])
        rows.append([titles.get(name, name), imagined, done, figure(values[f"{name}.steps_taken"])])
    here = values["in_process"]
    real = [seed for seed in values["seeds"] if seed not in here]
    how = [f"one process for every node and the aggregator (seeds {real})"] if real else []
    how += [f"one process in all, which computes the same bits (seeds {here})"] if here else []
    heading = (
        "## A world model of many hands\n\n"
        f"`make bench-federated_worldmodel`: TwoRoom, {values['warmup_rounds']} rounds of 1 local "
        f"step and {values['rounds'] - values['warmup_rounds']} of {values['local_steps']}, "
        f"{values['tasks']} journeys from anywhere to anywhere each, planned from pictures; "
        f"{', '.join(how)}; {values['machine']}.\n"
    )
    below = (
        f"The consensus does {figure(values['premium'], 2)} times the journeys of the best member "
        f"alone (goal ≥ 2); pooled is {figure(values['gap_to_pooled'])} points ahead (goal ≤ 5).\n"
    )
    columns = ["model", "ten steps foreseen, off by", "journeys done %", "steps each"]
    return "\n".join([heading, table(columns, rows), below])


def world_schedules_table(values: Mapping[str, Any]) -> str:
    """The same federation by how many local steps its rounds have, and when."""
    rows = []
    for name in values["rows"]:
        keys = (("imagined", 3), ("decoded", 3), ("success", 1))
        cells = [figure(values[f"{name}.{key}"], digits) for key, digits in keys]
        rows.append([name, str(values[f"{name}.rounds"] or "–"), *cells])
    heading = (
        "## How many local steps, and when, where each member knows a part\n\n"
        f"`make bench-world_schedules`: the federation above, {values['steps']} steps a member, "
        f"seeds {values['seeds']}, in one process, {values['machine']}. `warm`: rounds of one "
        "local step; `H`: steps of the others; `momentum`: outer Nesterov, lr 1, μ = 0.5; `slow`: "
        "recipe two_room_parts, else two_room.\n"
    )
    columns = ["schedule", "rounds", "ten steps foreseen, off by", "decoded, off by", "done %"]
    return "\n".join([heading, table(columns, rows)])


def planning_time_table(values: Mapping[str, Any]) -> str:
    """Time per decision, ours beside stable-worldmodel's CEM."""
    rows = []
    for model in values["models"]:
        for starts in values["starts"]:
            own = {k: values.get(f"{model}.{starts}.{k}") for k in PLANNING_FIGURES}
            digits = ["speedup" in k for k in PLANNING_FIGURES]
            cells = [figure(own[k], 2 if d else 1) for k, d in zip(own, digits, strict=True)]
            rows.append([f"{model}, {starts} at once", *cells])
    heading = (
        "## Time per decision\n\n"
        f"`make bench-planning_time`: CEM, {values['samples']} samples × {values['iterations']} "
        f"iterations × horizon {values['horizon']}, {values['elites']} elites, device "
        f"{values['device']}, {values['threads']} thread(s), {values['machine']}. Milliseconds a "
        "decision; baseline: stable-worldmodel 0.1.1 with a model of PyTorch's own layers. Same "
        "model, same fp32 arithmetic, but for the bf16 draft, which the speedup "
        f"({values['speedup']:.2f}) leaves out. Our layers: oneDNN's products instead of MKL's, "
        f"much of the gain where the processor is not Intel's. Goal: {values['goal']}.\n"
    )
    return "\n".join([heading, table(["case", *PLANNING_FIGURES.values()], rows)])


def planning_success_table(values: Mapping[str, Any]) -> str:
    """How often a world model gets there by planning, beside what needs none."""
    titles = {
        "": "**planning, ours**",
        ".solver": "planning by stable-worldmodel's CEM, same model and cost",
        ".cloning": "goal-conditioned behaviour cloning",
        ".random": "random actions",
    }
    rows = []
    for case in values["cases"]:
        for row, title in titles.items():
            key = f"{case}{row}"
            low, high = values[f"{key}.interval"]
            by_seed = " ".join(f"{each:.0f}" for each in values[f"{key}.by_seed"])
            taken = figure(values[f"{key}.steps_taken"])
            cells = [figure(values[key]), f"{low:.0f} to {high:.0f}", by_seed, taken]
            rows.append([f"{case}: {title}", *cells])
    trained = "; ".join(
        f"{case}: recipe {values[f'{case}.recipe']}, {values[f'{case}.steps']} steps in "
        f"{figure(values[f'{case}.training_s'], 0)} s"
        for case in values["cases"]
    )
    heading = (
        "## Planning success\n\n"
        f"`make bench-planning_success`: from pixels, {values['episodes']} episodes a seed, seeds "
        f"{values['seeds']}, {values['machine']}, one core a model ({trained}). easy: two rooms "
        "and a door; harder: an arm of two links driven by torques. Success in percent, mean ± "
        "standard deviation over seeds; 95 % interval of all episodes together (Wilson). Goal: "
        f"{values['goal']}.\n"
    )
    heads = ["case", "success, %", "95 % interval", "by seed", "steps each"]
    return "\n".join([heading, table(heads, rows)])


def expectation_table(values: Mapping[str, Any]) -> str:
    """Violation of expectation, beside models without training."""
    heads = ["violation", "surprise, untouched", "violated", "AUROC", "noticed, %", "worst p"]
    rows = []
    for name in values["violations"]:
        for prefix, title in (("", name), ("untrained.", f"{name}, untrained")):
            key = f"{prefix}{name}"
            rows.append(
                [
                    title,
                    figure(values[f"{key}.untouched"], 4),
                    figure(values[f"{key}.violated"], 4),
                    figure(values[f"{key}.auroc"], 3),
                    figure(values[f"{key}.noticed"]),
                    f"{values[f'{key}.p']:.2g}",
                ]
            )
    heading = (
        "## Violation of expectation\n\n"
        f"`make bench-expectation`: recipe {values['recipe']}, {values['steps']} steps, seeds "
        f"{values['seeds']}, {values['machine']}. {values['episodes']} unseen episodes of two "
        f"rooms, broken at one step; surprise is the mean of the {values['around']} steps from "
        "there. AUROC: of telling broken from untouched episodes; noticed: episodes that surprise "
        "more when broken; p: paired one-sided t-test, the worst of the seeds. Goal: "
        f"{values['goal']}.\n"
    )
    return "\n".join([heading, table(heads, rows)])
