"""Few labels: what a region reaches on the consensus, on one member's model, and from scratch.

Two regions. One's scanner turns images by 90°, which no member has seen; the other is a language
community none of whose twelve languages any member has. Each builds by every method, with the
product's own settings, on the consensus, on a member's solo model (a head on it) and from random
weights. What `from scratch` is, is the best of what was built there of labels. The consensus's
figure is that of AUTO, the method that a build takes by itself, which nobody chose by test samples.
Beside them, of texts, a head on what was first pre-trained on the community's own unlabelled ones.

Seeds 0 to 4 are those by which the product chose when a build is taken; the table is of others.

Writes bench/results/fewshot.json; its headlines are the images', those of texts begin with `texts`.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from bench import community
from bench.builds import REGION, RELEASE, TEXTS, Job, over_seeds, run_job
from bench.measure import run_all, write_result

METHODS = ("linear", "lora", "full")
AUTO = "full"  # of those with labels
ROWS = {  # name → from where, and by which method
    **{f"consensus.{method}": ("consensus", method) for method in METHODS},
    "solo.linear": ("solo", "linear"),
    **{f"scratch.{method}": ("scratch", method) for method in METHODS},
}
PRETRAINED = {"consensus.pretrained": "consensus", "scratch.pretrained": "scratch"}
PRETRAIN = 400  # steps
SCRATCH = [name for name, (start, _) in ROWS.items() if start == "scratch"]


def main() -> None:
    """Run every build of every seed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[5, 6, 7, 8, 9])
    parser.add_argument("--shots", type=int, nargs="+", default=[10, 100, 600], help="of images")
    parser.add_argument("--text-shots", type=int, nargs="*", default=[10])
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    asked = {REGION: options.shots, TEXTS: options.text_shots}
    jobs = {
        (region, seed, shots, name): Job(
            seed, method, shots, start, head="auto", steps=None, region=region
        )
        for region, each in asked.items()
        for shots in each
        for seed in options.seeds
        for name, (start, method) in ROWS.items()
    }
    jobs |= {
        (TEXTS, seed, shots, name): Job(
            seed, "linear", shots, start, head="auto", pretrain=PRETRAIN, region=TEXTS
        )
        for shots in options.text_shots
        for seed in options.seeds
        for name, start in PRETRAINED.items()
    }
    found = run_all(run_job, list(jobs.values()), options.workers)
    values: dict[str, Any] = {
        "seeds": options.seeds,
        "shots": options.shots,
        "text_shots": options.text_shots,
        "pretrain": PRETRAIN,
        "text_steps": community.ROUNDS * community.LOCAL_STEPS,
        "release": RELEASE,
        "goal": "gain_over_scratch >= 10 points and gain_over_solo > 0 at 10 labels a class",
    }
    for region, prefix in ((REGION, ""), (TEXTS, "texts.")):
        for shots in asked[region]:
            right = {
                (seed, name): found[job]["accuracy"]
                for (of, seed, labels, name), job in jobs.items()
                if (of, labels) == (region, shots)
            }
            told = summary(right, options.seeds)
            values |= {f"{prefix}{shots}.{key}": value for key, value in told.items()}
        for headline in ("gain_over_scratch", "gain_over_solo"):
            if asked[region]:
                values[f"{prefix}{headline}"] = values[f"{prefix}{asked[region][0]}.{headline}"]
    print(write_result("fewshot", values))


def summary(right: Mapping[tuple[int, str], float], seeds: Sequence[int]) -> dict[str, Any]:
    """Every row over seeds, and the consensus's lead, seed by seed."""
    names = dict.fromkeys(name for _, name in right)
    values = {name: over_seeds(right[seed, name] for seed in seeds) for name in names}

    def lead(over: Sequence[str], ours: str = f"consensus.{AUTO}") -> dict[str, float]:
        return over_seeds(
            right[seed, ours] - max(right[seed, name] for name in over) for seed in seeds
        )

    leads = {"gain_over_scratch": lead(SCRATCH), "gain_over_solo": lead(["solo.linear"])}
    if ours := set(PRETRAINED) & set(names):
        alone = [name for name in ours if PRETRAINED[name] == "scratch"]
        for rival, over in (("scratch", SCRATCH), ("solo", ["solo.linear"]), ("own", alone)):
            leads[f"pretrained_over_{rival}"] = lead(over, "consensus.pretrained")
    return values | leads


if __name__ == "__main__":
    main()
