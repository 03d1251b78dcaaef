"""Languages: what a byte model of four regions of the world knows of languages and articles.

Data: `gobelin data prepare udhr --split-by region` (the declaration of human rights). Members are
regions. Languages drawn by seed are held out of all training, and articles from LATER on.
*Language* is identification among known languages, by a probe on the earlier articles, asked about
the later ones. *Article* is identification of the article, by a probe on languages of the training,
asked about the held-out ones. Every text is its first window.

Writes bench/results/text_languages.json.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from torch import Tensor

from bench.measure import run_all, spread, write_result
from examples.in_process import federate_in_process
from gobelin.shared.data import MemorySource, Source
from gobelin.shared.data.formats import TextFormat
from gobelin.shared.evaluation import embed
from gobelin.shared.evaluation.probes import knn, linear_probe
from gobelin.shared.model import encoder_of
from gobelin.shared.recipe import Recipe, load_recipe
from gobelin.shared.seeds import derive_seed

LATER = 21  # articles from here on are no one's training data
HELD = 8  # languages of each region that no one has: 32
KNOWN = 15  # languages of each region that are told apart: 60
ARTICLES = 25  # languages of each region that the article probe is fitted on: 100
BUCKETS = 4096  # of hashed n-grams
GRAMS = (1, 2, 3)
TASKS = ("language", "article")
MODELS = ("consensus", "pooled", "random")


@dataclass(frozen=True)
class Job:
    """One model, or the baseline, of one seed."""

    data: Path
    model: str  # of MODELS, "n_grams", or a region
    rounds: int
    local_steps: int
    seed: int


@dataclass(frozen=True)
class Section:
    """An article in one language, as bytes of UTF-8."""

    text: bytes
    article: int
    language: str  # the primary subtag (BCP 47): variants of one are one language


@dataclass(frozen=True)
class Task:
    """Labelled texts a probe is fitted on and tested on."""

    train: MemorySource
    test: MemorySource


def run_job(job: Job) -> dict[str, float]:
    """Train the model and probe it."""
    recipe = load_recipe("text_tiny")
    regions = read_regions(job.data)
    held, known, fitted = draw_languages(regions, job.seed)
    tasks = make_tasks(recipe, regions, held, known, fitted)
    if job.model == "n_grams":
        return baseline(tasks)
    members = {
        name: MemorySource(
            as_windows(
                recipe,
                [s for s in sections if s.article < LATER and s.language not in held],
                whole=True,
            )
        )
        for name, sections in regions.items()
    }
    if job.model == "consensus":
        vector = federate_in_process(recipe, members, job.rounds, job.local_steps, job.seed)
    elif job.model == "random":
        vector = federate_in_process(recipe, {}, 0, 0, job.seed)
    else:
        mine = members.get(job.model) or joined(list(members.values()))
        steps = job.rounds * job.local_steps
        vector = federate_in_process(recipe, {job.model: mine}, 1, steps, job.seed)
    encoder = encoder_of(recipe, vector)
    found: dict[str, float] = {}
    for name, task in tasks.items():
        train, test = embed(encoder, task.train), embed(encoder, task.test)
        sides = (train.pooled, train.labels, test.pooled, test.labels)
        classes = int(train.labels.max()) + 1
        found[name] = linear_probe(*sides, classes)[0]
        found[f"{name}_knn"] = knn(*sides, classes)
    return found


def baseline(tasks: dict[str, Task]) -> dict[str, float]:
    """Logistic regression on hashed n-grams of the same bytes."""
    found = {}
    for name, task in tasks.items():
        known, unseen = counted(task.train), counted(task.test)
        found[name] = linear_probe(*known, *unseen, int(known[1].max()) + 1)[0]
    return found


def counted(source: Source[Tensor]) -> tuple[Tensor, Tensor]:
    """n-grams (N, BUCKETS) of labelled texts, and the labels (N,)."""
    assert source.labels is not None
    return n_grams(source.read(np.arange(len(source)))), source.labels


def n_grams(texts: Tensor) -> Tensor:
    """Counts (N, BUCKETS) of hashed byte n-grams of texts (N, L): log(1 + count), of length 1."""
    padded = texts.numpy().astype(np.int64)
    counts = np.zeros((len(padded), BUCKETS), dtype=np.float32)
    rows = np.arange(len(padded))[:, None]
    for n in GRAMS:
        windows = np.lib.stride_tricks.sliding_window_view(padded, n, axis=1)  # (N, L - n + 1, n)
        key = np.full(windows.shape[:2], n, dtype=np.int64)
        for place in range(n):
            key = (key * 1_000_003 + windows[..., place]) % 2_147_483_647
        np.add.at(counts, (rows, key % BUCKETS), windows.all(axis=2))
    logs = np.log1p(counts)
    return torch.from_numpy(logs / np.linalg.norm(logs, axis=1, keepdims=True))


def read_regions(data: Path) -> dict[str, list[Section]]:
    """The sections of each region."""
    regions = {}
    for folder in sorted(p for p in data.iterdir() if p.is_dir()):
        table = pq.read_table(folder, columns=["text", "article", "language"]).to_pylist()
        regions[folder.name] = [
            Section(row["text"].encode(), int(row["article"]), row["language"].split("-")[0])
            for row in table
        ]
    return regions


def draw_languages(
    regions: dict[str, list[Section]], seed: int
) -> tuple[set[str], set[str], set[str]]:
    """Languages held out of training, told apart, and fitted on for articles."""
    held: set[str] = set()
    known: set[str] = set()
    fitted: set[str] = set()
    for name, sections in regions.items():
        counts: dict[str, int] = {}
        for section in sections:
            counts[section.language] = counts.get(section.language, 0) + 1
        elsewhere = {s.language for n, each in regions.items() if n != name for s in each}
        complete = sorted(x for x, count in counts.items() if count >= 30 and x not in elsewhere)
        order = np.random.default_rng(derive_seed(seed, "languages", name)).permutation(
            len(complete)
        )
        drawn = [complete[i] for i in order]
        held |= set(drawn[:HELD])
        known |= set(drawn[HELD : HELD + KNOWN])
        fitted |= set(drawn[HELD : HELD + ARTICLES])
    return held, known, fitted


def make_tasks(
    recipe: Recipe,
    regions: dict[str, list[Section]],
    held: set[str],
    known: set[str],
    fitted: set[str],
) -> dict[str, Task]:
    """Both tasks."""
    sections = [section for each in regions.values() for section in each]
    number = {language: i for i, language in enumerate(sorted(known))}

    def source(chosen: list[Section], by_language: bool) -> MemorySource:
        labels = [number[s.language] if by_language else s.article for s in chosen]
        return MemorySource(as_windows(recipe, chosen), torch.tensor(labels))

    of_known = [s for s in sections if s.language in known]
    earlier = [s for s in of_known if s.article < LATER]
    later = [s for s in of_known if s.article >= LATER]
    return {
        "language": Task(source(earlier, True), source(later, True)),
        "article": Task(
            source([s for s in sections if s.language in fitted], False),
            source([s for s in sections if s.language in held], False),
        ),
    }


def as_windows(recipe: Recipe, sections: list[Section], whole: bool = False) -> Tensor:
    """Windows uint8 (N, L) of texts, cut between characters: all of each, or the first."""
    form = recipe.modality().form
    assert isinstance(form, TextFormat)
    length = form.length
    cut = [w for s in sections for w in (windows_of(s.text, length))] if whole else [
        next(windows_of(s.text, length)) for s in sections
    ]  # fmt: skip
    texts = np.zeros((len(cut), length), dtype=np.uint8)
    for row, window in enumerate(cut):
        texts[row, : len(window)] = np.frombuffer(window, dtype=np.uint8)
    return torch.from_numpy(texts)


def windows_of(text: bytes, length: int) -> Iterator[bytes]:
    """The text in pieces of at most `length` bytes, none of which splits a character."""
    start = 0
    while start < len(text):
        stop = min(start + length, len(text))
        while stop < len(text) and text[stop] & 0xC0 == 0x80:
            stop -= 1
        yield text[start:stop]
        start = stop


def joined(sources: list[MemorySource]) -> MemorySource:
    """All texts in one place."""
    return MemorySource(torch.cat([s.read(np.arange(len(s))) for s in sources]))


def main() -> None:
    """Run every model and seed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, default=Path(".cache/udhr"), help="regions")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--local-steps", type=int, default=40)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    if not options.data.is_dir():
        parser.error(
            f"there is no {options.data}: `gobelin data prepare udhr --split-by region --out` it"
        )
    regions = list(read_regions(options.data))
    jobs = [
        Job(options.data, model, options.rounds, options.local_steps, seed)
        for seed in options.seeds
        for model in (*MODELS, "n_grams", *regions)
    ]
    found = run_all(run_job, jobs, options.workers)
    facts = {
        "seeds": options.seeds,
        "rounds": options.rounds,
        "local_steps": options.local_steps,
        "regions": regions,
        "held_languages": HELD * len(regions),
        "known_languages": KNOWN * len(regions),
        "goal": "consensus beats every solo",
    }
    print(write_result("text_languages", {**facts, **summary(found, regions)}))


def summary(found: dict[Job, dict[str, float]], regions: list[str]) -> dict[str, Any]:
    """Flat keys `model.task` over seeds, and the consensus's lead over the best solo.

    `premium` is the lead in the task where it is least.
    """
    seeds = sorted({job.seed for job in found})
    by_seed = [{job.model: v for job, v in found.items() if job.seed == seed} for seed in seeds]
    values: dict[str, Any] = {
        f"{model}.{figure}": spread([here[model][figure] for here in by_seed])
        for model, figures in by_seed[0].items()
        for figure in figures
    }
    leads = [
        {t: here["consensus"][t] - max(here[r][t] for r in regions) for t in TASKS}
        for here in by_seed
    ]
    for task in TASKS:
        values[f"premium.{task}"] = spread([lead[task] for lead in leads])
        over = [here["consensus"][task] - here["n_grams"][task] for here in by_seed]
        values[f"over_n_grams.{task}"] = spread(over)
    values["premium"] = spread([min(lead.values()) for lead in leads])
    return values


if __name__ == "__main__":
    main()
