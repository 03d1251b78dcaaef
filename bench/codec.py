"""What a codec saves on the wire and what it costs in accuracy, against fp32 in the same run.

Three members with a third of Fashion-MNIST each; the same seeds, data and rounds with fp32 and
with each codec (error feedback at every member). Bytes are those of whole contributions as Flower
carries them: header, metrics and framing included. Points are of the linear probe on tokens.

With --broadcast it is the way down that is measured: the consensus broadcast by each codec, as
steps from the base a node has, against whole fp32 bases; contributions go by --uplink in both.

Writes bench/results/codec_NAME.json for each codec, or broadcast_NAME.json.
"""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bench import premium_images
from bench.measure import run_all, spread, write_result
from examples.in_process import federate_in_process
from gobelin.server.broadcast import Broadcast
from gobelin.shared.codec import CODECS, codec_named, compress, distortion
from gobelin.shared.data.fashion_mnist import fetch_fashion_mnist
from gobelin.shared.evaluation import evaluate_model
from gobelin.shared.model import build_jepa, encoder_of
from gobelin.shared.recipe import Recipe, load_recipe
from gobelin.shared.step import CodedStep
from gobelin.shared.vector import SEGMENT, ParameterVector

RECIPE = "tiny"
GOALS = {
    "int4": "ratio >= 7.4 at points_lost <= 0.5",
    "topk": "ratio >= 140 at points_lost <= 0.5",
}
SPEED_VALUES = 25_000_000


@dataclass(frozen=True)
class Job:
    """One federation: a codec each way and a seed."""

    images: Path
    codec: str
    broadcast: str
    rounds: int
    local_steps: int
    seed: int


@dataclass(frozen=True)
class Found:
    """What one federation sent and reached."""

    points: float  # linear probe on tokens, percent
    sent: int  # bytes of all contributions
    contributions: int
    offers: tuple[int, ...]  # bytes of what one node is sent, round by round


def run_job(job: Job) -> Found:
    """Run the federation in this process and probe its consensus."""
    scenario = premium_images.Job(
        job.images, "even", "consensus", job.rounds, job.local_steps, job.seed
    )
    members, labelled, test = premium_images.scenario_data(scenario)
    recipe = load_recipe(RECIPE)
    sizes: list[int] = []
    offers = [offer_bytes(recipe, 1, Broadcast(ParameterVector.of(build_jepa(recipe, job.seed))))]

    def weigh(number: int, deltas: list[ParameterVector]) -> None:
        sizes.extend(contribution_bytes(job.codec, number, delta) for delta in deltas)

    def weigh_offer(number: int, told: Broadcast) -> None:
        if number < job.rounds:
            offers.append(offer_bytes(recipe, number + 1, told))

    vector = federate_in_process(
        recipe,
        members,
        job.rounds,
        job.local_steps,
        job.seed,
        on_round=weigh,
        codec=job.codec,
        broadcast=job.broadcast,
        on_broadcast=weigh_offer,
    )
    model = encoder_of(recipe, vector)
    found = evaluate_model(model, labelled, test, label_budget=premium_images.LABELS, seed=job.seed)
    return Found(found.tokens, sum(sizes), len(sizes), tuple(offers))


def contribution_bytes(codec: str, number: int, sent: ParameterVector) -> int:
    """Bytes of every Flower object of the contribution that carried `sent`.

    What a codec has decoded it encodes to as many bytes again.
    """
    from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects

    from gobelin.client.records import contribution_record
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


def offer_bytes(recipe: Recipe, number: int, told: Broadcast) -> int:
    """Bytes of every Flower object of a round's offer to a node that has the base before."""
    from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects

    from gobelin.protocols.messages import Receipt, RoundPlan, Step
    from gobelin.server.courier import Enclosure
    from gobelin.server.records import enclosed, message_record

    base = told.consensus
    digest, schema = base.digest, base.schema.digest
    plan = RoundPlan(
        "bench", number, 99, recipe.canonical(), schema, digest, 50, 0, 3600.0, "int4", "int4"
    )
    receipts = [Receipt("bench", n, digest, True, "", 1 / 3) for n in range(1, number)][-2:]
    if told.payload is None or told.payload.size >= 4 * base.schema.size:
        enclosure = Enclosure(base)
    else:
        header = Step(number - 1, digest, told.payload.codec)
        enclosure = Enclosure(None, (CodedStep(header, told.payload.segments),))
    record = message_record(plan, enclosed(enclosure), receipts)
    return sum(len(each.deflate()) for each in get_all_nested_objects(record).values())


def speed(codec: str) -> dict[str, float]:
    """MB/s of fp32 on one core, segment by segment, and distortion on Gaussian values."""
    torch.set_num_threads(1)
    by = codec_named(codec)
    values = torch.randn(SPEED_VALUES, generator=torch.Generator().manual_seed(0)) * 1e-3
    encode = decode = 0.0
    parts = []
    for piece in torch.split(values, SEGMENT):
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
    parser.add_argument("--broadcast", nargs="+", default=[], choices=sorted(CODECS))
    parser.add_argument("--uplink", default="fp32", choices=sorted(CODECS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--local-steps", type=int, default=50)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--name", help="first part of the result files' names")
    options = parser.parse_args()
    images = fetch_fashion_mnist(Path(".cache"), options.data)
    down = bool(options.broadcast)
    codecs = ("fp32", *(options.broadcast or options.codecs))
    ways: dict[str, tuple[str, str]] = {
        codec: (options.uplink, codec) if down else (codec, "fp32") for codec in codecs
    }
    jobs = {
        codec: [
            Job(images, *ways[codec], options.rounds, options.local_steps, seed)
            for seed in options.seeds
        ]
        for codec in codecs
    }
    each = [job for seed in zip(*jobs.values(), strict=True) for job in seed]
    found = run_all(run_job, each, os.cpu_count())
    rows = {codec: [found[job] for job in jobs[codec]] for codec in codecs}
    name = options.name or ("broadcast" if down else "codec")
    for codec in codecs[1:]:
        shared = {
            "codec": codec,
            "recipe": RECIPE,
            "seeds": options.seeds,
            "rounds": options.rounds,
            "local_steps": options.local_steps,
        }
        if down:
            values = {"uplink": options.uplink, **received(rows["fp32"], rows[codec])}
        else:
            values = {"goal": GOALS.get(codec, "report it"), **speed(codec)}
            values |= compared(rows["fp32"], rows[codec])
        print(write_result(f"{name}_{codec}", shared | values))


def received(plain: list[Found], coded: list[Found]) -> dict[str, Any]:
    """Flat keys: a broadcast's codec against whole fp32 bases, seed by seed.

    `ratio` is over all rounds, of which a node's first brings a whole base; `step_ratio` over the
    others.
    """
    return {
        "ratio": sum(sum(run.offers) for run in plain) / sum(sum(run.offers) for run in coded),
        "step_ratio": sum(sum(run.offers[1:]) for run in plain)
        / sum(sum(run.offers[1:]) for run in coded),
        "points_lost": spread([p.points - c.points for p, c in zip(plain, coded, strict=True)]),
        "points": spread([run.points for run in coded]),
        "baseline_fp32.points": spread([run.points for run in plain]),
        "offer_bytes": spread([size for run in coded for size in run.offers[1:]]),
        "baseline_fp32.offer_bytes": spread([size for run in plain for size in run.offers[1:]]),
    }


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
