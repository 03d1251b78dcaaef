"""When does federating pay? The premium against data, skew, local steps and compute.

Three members with shares of Fashion-MNIST by Dirichlet(α). From one centre, one thing is changed at
a time: images a member has, α, local steps H, steps in all. The premium is what the consensus
gains over a member alone, mean over members: by the token probe on data like the member's, and by
nearest neighbours on all test images.

Writes bench/results/when_it_pays.json.
"""

from __future__ import annotations

import argparse
import io
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench.measure import run_all, spread, write_result
from bench.noniid import BEST, Found, Job, World, run_job
from gobelin.shared.data.fashion_mnist import fetch_fashion_mnist
from gobelin.shared.evaluation.charts import COLOURS

GREY = "#888888"  # seen on light pages and on dark ones
LEGEND = {"premium": "token probe, own mix", "premium_knn": "nearest neighbours"}
MEMBERS, LABELLED, TESTS = 3, 3_000, 5_000


@dataclass(frozen=True)
class Point:
    """A place in the grid."""

    images: int = 1_000  # of each member, at most
    alpha: float = 0.1
    local_steps: int = 25
    steps: int = 200


CENTRE = Point()
AXES: dict[str, tuple[float, ...]] = {
    "images": (200, 1_000, 5_000, 20_000),
    "alpha": (0.03, 0.1, 0.5, 100.0),
    "local_steps": (5, 25, 50, 200),
    "steps": (50, 100, 200, 400),
}
AXIS_TITLES = {
    "images": "images a member",
    "alpha": "Dirichlet α",
    "local_steps": "local steps H",
    "steps": "steps in all",
}
MODELS = (BEST, "pooled", *(f"{k:03d}" for k in range(MEMBERS)))


def points() -> dict[tuple[str, float], Point]:
    """Every point by its axis and its value there; the centre is on all axes."""
    return {
        (axis, value): replace(CENTRE, **{axis: value})  # type: ignore[arg-type]
        for axis, values in AXES.items()
        for value in values
    }


def job_of(point: Point, model: str, seed: int, data: Path) -> Job:
    """A model's job at a point."""
    world = World(MEMBERS, point.alpha, point.images)
    rounds = point.steps // point.local_steps
    return Job.of(
        model,
        rounds,
        point.local_steps,
        data=data,
        world=world,
        seed=seed,
        labels=LABELLED,
        tests=TESTS,
    )


def worth(here: Mapping[str, Found]) -> dict[str, float]:
    """What federating was worth at one point with one seed, in points."""
    consensus, pooled = here[BEST], here["pooled"]
    alone = [here[model] for model in MODELS if model.isdigit()]
    own = [consensus.on(k) - solo.on(k) for k, solo in enumerate(alone)]
    neighbours = [consensus.probes["knn"] - solo.probes["knn"] for solo in alone]
    return {
        "premium": sum(own) / len(own),
        "least_premium": min(own),
        "premium_knn": sum(neighbours) / len(neighbours),
        "gap_to_pooled": pooled.probes["tokens"] - consensus.probes["tokens"],
        "gap_to_pooled_knn": pooled.probes["knn"] - consensus.probes["knn"],
    }


def main() -> None:
    """Run every point and seed, `--workers` at a time; what points share is trained once."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--data", type=Path)
    parser.add_argument("--name", default="when_it_pays", help="of the result file")
    options = parser.parse_args()
    images = fetch_fashion_mnist(Path(".cache"), options.data)
    wanted = {
        (place, seed, model): job_of(point, model, seed, images)
        for place, point in points().items()
        for seed in options.seeds
        for model in MODELS
    }
    jobs = sorted(set(wanted.values()), key=cost, reverse=True)  # the long ones first
    found = run_all(run_job, jobs, options.workers)
    values: dict[str, Any] = {
        "seeds": options.seeds,
        "members": MEMBERS,
        "centre": CENTRE.__dict__,
        "goal": "report the premium whatever it is",
    }
    for axis, value in points():
        runs = [
            worth({model: found[wanted[(axis, value), seed, model]] for model in MODELS})
            for seed in options.seeds
        ]
        for figure in runs[0]:
            values[f"{axis}.{value:g}.{figure}"] = spread([run[figure] for run in runs])
    print(write_result(options.name, values))


def chart(values: Mapping[str, Any]) -> str:
    """The premium along each axis as an SVG file's text; bars are standard deviations."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 2.6), layout="constrained")
    panels = figure.subplots(1, len(AXES), sharey=True)
    for panel, (axis, places) in zip(panels, AXES.items(), strict=True):
        for name, colour in (("premium", COLOURS[0]), ("premium_knn", COLOURS[1])):
            rows = [values[f"{axis}.{place:g}.{name}"] for place in places]
            means, sds = [row["mean"] for row in rows], [row["sd"] for row in rows]
            panel.errorbar(places, means, sds, color=colour, marker="o", ms=3, label=LEGEND[name])
        panel.axhline(0, color=GREY, lw=0.8)
        panel.set_xscale("log")
        panel.set_xticks(places, [f"{place:g}" for place in places])
        panel.minorticks_off()
        panel.set_xlabel(AXIS_TITLES[axis], color=GREY)
        panel.tick_params(colors=GREY, which="both", labelsize=8)
        for spine in panel.spines.values():
            spine.set_color(GREY)
    panels[0].set_ylabel("premium, points", color=GREY)
    panels[0].legend(frameon=False, labelcolor=GREY, fontsize=8)
    text = io.StringIO()
    with rc_context({"svg.hashsalt": "when it pays", "svg.fonttype": "none"}):
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    return text.getvalue()


def cost(job: Job) -> int:
    """Steps of all members."""
    members = job.world.members if job.model == BEST else 1
    return members * job.rounds * job.local_steps


if __name__ == "__main__":
    main()
