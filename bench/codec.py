"""What a codec saves on the wire and what it costs in accuracy, against fp32 in the same run.

Three members with a third of Fashion-MNIST each; the same seeds, data and rounds with fp32 and
with each codec (error feedback at every member). Bytes are those of whole contributions as Flower
carries them: header, metrics and framing included. Points are of the linear probe on tokens.

Writes bench/results/codec_NAME.json for each codec.
"""

from __future__ import annotations

import argparse
import os
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from bench import premium_images
from bench.measure import spread, write_result
from examples.demo import one_thread
from examples.in_process import federate_in_process
from gobelin.shared.codec import CODECS, codec_named, compress, distortion
from gobelin.shared.data.fashion_mnist import fetch_fashion_mnist
from gobelin.shared.evaluation import evaluate_model
from gobelin.shared.model import build_jepa
from gobelin.shared.recipe import load_recipe
from gobelin.shared.vector import SEGMENT, ParameterVector

RECIPE = "tiny"
GOALS = {
    "int4": "ratio >= 7.4 at points_lost <= 0.5",
    "topk": "ratio >= 140 at points_lost <= 0.5",
}
SPEED_VALUES = 25_000_000


@dataclass(frozen=True)
class Job:
    """One federation: a codec and a seed."""

    images: Path
    codec: str
    rounds: int
    local_steps: int
    seed: int


@dataclass(frozen=True)
class Found:
    """What one federation sent and reached."""

    points: float  # linear probe on tokens, percent
    sent: int  # bytes of all contributions
    contributions: int


def run_job(job: Job) -> Found:
    """Run the federation in this process and probe its consensus."""
    scenario = premium_images.Job(
        job.images, "even", "consensus", job.rounds, job.local_steps, job.seed
    )
    members, labelled, test = premium_images.scenario_data(scenario)
    sizes: list[int] = []

    def weigh(number: int, deltas: list[ParameterVector]) -> None:
        sizes.extend(contribution_bytes(job.codec, number, delta) for delta in deltas)

    recipe = load_recipe(RECIPE)
    vector = federate_in_process(
        recipe,
        members,
        job.rounds,
        job.local_steps,
        job.seed,
        on_round=weigh,
        codec=job.codec,
    )
    model = build_jepa(recipe, job.seed)
    vector.load_into(model)
    found = evaluate_model(model, labelled, test, label_budget=premium_images.LABELS, seed=job.seed)
    return Found(found.tokens, sum(sizes), len(sizes))


def contribution_bytes(codec: str, number: int, sent: ParameterVector) -> int:
    """Bytes of every Flower object of the contribution that carried `sent`.

    What a codec has decoded it encodes to as many bytes again.
    """
    from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects

    from gobelin.client.link import contribution_record
    from gobelin.client.spool import Spooled
    from gobelin.protocols.messages import METRIC_DISTORTION, METRIC_SENT_BYTES, Contribution

    payload = compress(codec, sent, None).payload
    names = ("loss", "prediction", "anti_collapse", "effective_rank", METRIC_DISTORTION)
    metrics = dict.fromkeys(names, 1 / 3) | {METRIC_SENT_BYTES: float(payload.size)}
    digest = payload.digest
    made = Contribution(
        "bench", number, digest, digest, digest, 50, 3200, 1 / 3, metrics, payload.codec
    )
    objects = get_all_nested_objects(contribution_record(Spooled(made, payload)))
    return sum(len(each.deflate()) for each in objects.values())


def speed(codec: str) -> dict[str, float]:
    """MB/s of fp32 on one core, segment by segment, and distortion on Gaussian values."""
    torch.set_num_threads(1)
    by = codec_named(codec)
    values = torch.randn(SPEED_VALUES, generator=torch.Generator().manual_seed(0)) * 1e-3
    encode = decode = 0.0
    parts = []
    for piece in values.split(SEGMENT):
        started = time.perf_counter()
        data = by.encode(piece)
        between = time.perf_counter()
        parts.append(by.decode(data, piece.numel()))
        encode, decode = (
            encode + between - started,
            decode + time.perf_counter() - between,
        )
    megabytes = 4 * SPEED_VALUES / 1e6
    return {
        "encode_mb_per_s": megabytes / encode,
        "decode_mb_per_s": megabytes / decode,
        "gaussian_distortion": distortion(values, torch.cat(parts)),
    }


def main() -> None:
    """Run fp32 and every codec for each seed, two federations at a time on two cores."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--codecs", nargs="+", default=list(GOALS), choices=sorted(CODECS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--local-steps", type=int, default=50)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--name", default="codec", help="first part of the result files' names")
    options = parser.parse_args()
    images = fetch_fashion_mnist(Path(".cache"), options.data)
    jobs = [
        Job(images, codec, options.rounds, options.local_steps, seed)
        for seed in options.seeds
        for codec in ("fp32", *options.codecs)
    ]
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn"), one_thread) as pool:
        found = dict(zip(jobs, pool.map(run_job, jobs), strict=True))
    rows = {
        codec: [found[job] for job in jobs if job.codec == codec]
        for codec in ("fp32", *options.codecs)
    }
    for codec in options.codecs:
        values = {
            "codec": codec,
            "recipe": RECIPE,
            "seeds": options.seeds,
            "rounds": options.rounds,
            "local_steps": options.local_steps,
            "goal": GOALS.get(codec, "report it"),
            **compared(rows["fp32"], rows[codec]),
            **speed(codec),
        }
        print(write_result(f"{options.name}_{codec}", values))


def compared(plain: list[Found], coded: list[Found]) -> dict[str, Any]:
    """Flat keys: a codec against fp32, seed by seed."""
    return {
        "ratio": sum(run.sent for run in plain) / sum(run.sent for run in coded),
        "points_lost": spread([p.points - c.points for p, c in zip(plain, coded, strict=True)]),
        "points": spread([run.points for run in coded]),
        "baseline_fp32.points": spread([run.points for run in plain]),
        "contribution_bytes": spread([run.sent / run.contributions for run in coded]),
        "baseline_fp32.contribution_bytes": spread([run.sent / run.contributions for run in plain]),
    }


if __name__ == "__main__":
    main()
