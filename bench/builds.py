"""Sovereign builds for studies: of one region, one start, a number of labels; and their price.

The release is a study's consensus (`bench.releases`), taken unverified. The region's 6,000 images
are labelled as far as `shots` a class go; nothing is fitted on its 5,000 test images. The region
TEXTS is a language community instead (`bench.community`). *General* is
the consensus's own benchmark: a linear probe on tokens, fitted on 2,000 public images and asked of
5,000 others, as the members' images are.

`fewshot`, `lora` and `forgetting` share these builds: $GOBELIN_BENCH_JOBS keeps what each found.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench import community
from bench.measure import spread
from bench.releases import RECIPE, federation, public, region
from gobelin.client.sovereign import BuildSettings, Given, make_model
from gobelin.client.sovereign.consensus import Consensus, untrained
from gobelin.client.sovereign.lineage import Origin
from gobelin.client.sovereign.moves import adapters
from gobelin.client.sovereign.settings import LoraSettings
from gobelin.shared.data import MemorySource, Subset
from gobelin.shared.evaluation.embed import embed
from gobelin.shared.evaluation.probes import linear_probe
from gobelin.shared.model import encoder_of
from gobelin.shared.recipe import Recipe, load_recipe
from gobelin.shared.seeds import derive_seed
from gobelin.shared.vector import ParameterVector

RELEASE = "round-16"
REGION, TEXTS = "turned", "texts"
CLASSES = 10
STEPS = 400


@dataclass(frozen=True)
class Job:
    """One build: by `method`, on `shots` labels a class, from a start of STARTS."""

    seed: int
    method: str
    shots: int
    start: str = "consensus"
    head: str = "linear"
    steps: int | None = STEPS  # of fine-tuning, at most; None: as many as a build takes by itself
    pretrain: int = 0  # steps on the region's unlabelled images before
    rehearse: bool = False  # the public images, in pre-training
    anchor: float = 0.0  # of pre-training
    general: bool = False  # whether the consensus's own benchmark is asked afterwards
    region: str = REGION


def run_job(job: Job) -> dict[str, float]:
    """Build, and measure on the region's test images."""
    begun, given = _opened(job)
    wanted: dict[str, Any] = {"release": "-", "data": "-", "out": "-", "unverified": True}
    wanted |= {"method": job.method, "seed": job.seed, "head": {"kind": job.head}}
    wanted["compute"] = {"device": "cpu"}
    wanted["tuning"] = {"steps": job.steps}
    if job.start == "scratch":
        wanted["tuning"]["least_gain"] = 0.0  # there is no release to keep
    if job.pretrain:
        wanted["pretrain"] = {"steps": job.pretrain, "anchor": job.anchor}
        wanted["pretrain"] |= {"rehearsal": "-"} if job.rehearse else {}
    settings = BuildSettings.model_validate(wanted)
    model = make_model(begun, given, settings)
    found = model.lineage.evaluation
    told: dict[str, float] = {
        key: float(found[key]) for key in ("accuracy", "balanced") if key in found
    }
    told["frozen"] = found.get("frozen", found).get("accuracy", 0.0)
    told["steps"] = model.lineage.steps
    if job.general:
        told["general"] = general(job.seed, model.recipe, model.vector)
        told["general_before"] = _general_of(job.seed, job.start)
    return told


def _opened(job: Job) -> tuple[Consensus, Given]:
    """What a job builds on, and the data."""
    if job.region == TEXTS:
        return community.start_of(job.seed, job.start), community.given(job.seed, job.shots)
    mine = region(job.region, job.seed)
    older = _benchmark(job.seed).labelled if job.rehearse else None
    labelled = few(mine.labelled, job.shots, job.seed)
    return start_of(job.seed, job.start), Given(labelled, mine.test, mine.labelled, older)


def start_of(seed: int, name: str) -> Consensus:
    """What a build starts from: the consensus, one member's own model, or random weights."""
    if name == "scratch":
        return untrained(load_recipe(RECIPE), seed)
    wanted = "solo" if name == "solo" else RELEASE
    known = federation(seed, names=(wanted,))[wanted]
    return Consensus(known.recipe, known.vector, Origin(vector_digest=known.vector.digest))


def few(source: MemorySource, shots: int, seed: int) -> Subset[Any]:
    """`shots` samples of every class, drawn by seed; fewer shots are among more."""
    assert source.labels is not None
    labels = source.labels.numpy()
    order = np.random.default_rng(derive_seed(seed, "shots")).permutation(len(labels))
    chosen = [order[labels[order] == k][:shots] for k in range(CLASSES)]
    return Subset(source, np.sort(np.concatenate(chosen)))


@functools.lru_cache(maxsize=4)
def _benchmark(seed: int) -> Any:
    return public(seed)


def general(seed: int, recipe: Recipe, vector: ParameterVector) -> float:
    """Percent right on the consensus's own benchmark, of a model of its recipe."""
    encoder, asked = encoder_of(recipe, vector), _benchmark(seed)
    known, unseen = embed(encoder, asked.labelled), embed(encoder, asked.test)
    return linear_probe(known.tokens, known.labels, unseen.tokens, unseen.labels, CLASSES)[0]


@functools.lru_cache(maxsize=4)
def _general_of(seed: int, start: str) -> float:
    begun = start_of(seed, start)
    return general(seed, begun.recipe, begun.vector)


def sizes(seed: int) -> tuple[int, int, int]:
    """The rank of LoRA's adapters, their scalars, and those that full fine-tuning moves.

    That is tokenizer and trunk; the head, which both train, is in neither.
    """
    begun = start_of(seed, "consensus")
    lora = adapters(begun.vector, begun.recipe, "image", LoraSettings())
    moved = [s for s in begun.vector.schema.tensors if s.role in ("tokenizers", "trunk")]
    return lora.rank, lora.size, sum(s.numel for s in moved)


def over_seeds(values: Iterable[float]) -> dict[str, float]:
    """Mean, deviation, least and greatest."""
    return spread(list(values))
