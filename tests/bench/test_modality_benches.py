"""The benches of sensors and text: baselines that work, splits that leak nothing, their tables."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from bench import sensors, text_languages
from bench.modality_tables import languages_table, sensors_table
from bench.rocket import random_kernels, ridge_accuracy, transform
from gobelin.shared.data.export import write_series, write_texts
from gobelin.shared.recipe import load_recipe


def test_auroc_is_the_share_of_pairs_in_order() -> None:
    scores = torch.tensor([0.1, 0.4, 0.35, 0.8])
    assert sensors.auroc(scores, torch.tensor([False, False, True, True])) == 75
    assert sensors.auroc(torch.ones(4), torch.tensor([False, False, True, True])) == 50


def test_far_windows_are_anomalous() -> None:
    random = torch.Generator().manual_seed(0)
    known = torch.randn(300, 4, generator=random)
    asked = torch.randn(100, 4, generator=random)
    odd = torch.arange(100) < 30
    asked[odd] += 8
    assert sensors.anomaly_auroc(known, asked, odd) > 99


def test_rocket_tells_rhythms_apart_whatever_their_phase() -> None:
    random = torch.Generator().manual_seed(0)
    labels = torch.arange(200) % 2
    phase = 6.3 * torch.rand(200, 1, generator=random)
    angle = torch.arange(96) * (0.3 + 0.25 * labels)[:, None] + phase
    noise = torch.randn(200, 96, 2, generator=random)
    series = torch.stack([angle.sin(), angle.cos()], dim=2) + 0.5 * noise
    features = transform(series, random_kernels(96, 2, 60, seed=0))
    assert features.shape == (200, 120)
    halves = (features[:100], labels[:100], features[100:], labels[100:])
    assert ridge_accuracy(*halves, classes=2) > 95


def test_n_grams_count_bytes_and_not_padding() -> None:
    short, padded = torch.zeros(1, 8), torch.zeros(1, 20)
    text = torch.tensor(list(b"banana"))
    short[0, :6], padded[0, :6] = text, text
    one, two = (text_languages.n_grams(x.to(torch.uint8)) for x in (short, padded))
    assert torch.equal(one, two)
    assert (one > 0).sum() == 3 + 3 + 3  # b a n; ba an na; ban ana nan
    assert one.max() == pytest.approx(np.log(4) / float(np.linalg.norm(
        np.log1p([1, 3, 2, 1, 2, 2, 1, 2, 1]))), rel=1e-5)  # fmt: skip


@pytest.fixture
def watch(tmp_path: Path) -> Path:
    """Five subjects, three exercises that differ in rhythm."""
    rng = np.random.default_rng(0)
    for subject in range(5):
        series = [
            np.sin(np.arange(400)[:, None] * (0.1 + 0.2 * kind) + rng.uniform(0, 6, 6))
            + rng.normal(0, 0.2, (400, 6))
            for kind in range(3)
        ]
        write_series(
            tmp_path / f"subject-{subject}" / "watch.parquet",
            [s.astype(np.float32) for s in series],
            list("abcdef"),
            ["x", "y", "z"],
            50.0,
        )
    return tmp_path


def test_no_subject_is_on_both_sides_and_nobody_has_the_unknown_exercise(watch: Path) -> None:
    recipe = load_recipe("series_tiny")
    plain = sensors.split_subjects(recipe, watch, seed=1, anomaly=False)
    assert len(plain.members) == 2
    assert plain.unknown is None
    split = sensors.split_subjects(recipe, watch, seed=1, anomaly=True)
    assert split.unknown is not None
    assert split.unknown not in sensors.labels_of(split.train)
    assert split.unknown in sensors.labels_of(split.test)
    train, test = (sensors.whole(s).flatten(1) for s in (plain.train, plain.test))
    assert torch.cdist(train, test).min() > 0


def test_the_sensors_bench_runs_and_is_shown(watch: Path) -> None:
    torch.set_num_threads(1)
    members = sensors.members_of(watch, 0)
    jobs = [
        sensors.Job(watch, model, anomaly, 1, 2, 0)
        for anomaly in (False, True)
        for model in (*sensors.MODELS, "baselines", *members)
        if not anomaly or model in (*sensors.MODELS, "baselines")
    ]
    values = sensors.summary({job: sensors.run_job(job) for job in jobs})
    assert values["rocket.ridge"]["mean"] > 90
    assert values["accuracy"] == values["consensus.tokens"]
    facts = {"rounds": 1, "local_steps": 2, "held_subjects": 3, "seeds": [0], "machine": "here"}
    shown = sensors_table({**values, **facts})
    assert f"{values['accuracy']['mean']:.1f}" in shown
    assert "nan" not in shown


@pytest.fixture
def regions(tmp_path: Path) -> Path:
    """Two regions with 30 languages each, of 31 articles."""
    rng = np.random.default_rng(0)
    for region in ("east", "west"):
        texts, articles, languages = [], [], []
        for language in range(30):
            letters = rng.permutation(list("abcdefghijklmnopqrstuvwxyz"))[:9]
            for article in range(31):
                texts.append("".join(rng.choice(letters, 300)))
                articles.append(str(article))
                languages.append(f"{region[0]}{language}-Latn")
        folder = tmp_path / region
        others = {"article": articles, "language": languages}
        write_texts(folder / "udhr.parquet", texts, languages, others)
    return tmp_path


def test_held_languages_and_later_articles_are_nobodys(regions: Path) -> None:
    recipe = load_recipe("text_tiny")
    read = text_languages.read_regions(regions)
    held, known, fitted = text_languages.draw_languages(read, seed=0)
    assert len(held) == 2 * text_languages.HELD
    assert known <= fitted
    assert not held & fitted
    tasks = text_languages.make_tasks(recipe, read, held, known, fitted)
    assert len(tasks["language"].train) == 21 * len(known)
    assert len(tasks["language"].test) == 10 * len(known)
    assert len(tasks["article"].test) == 31 * len(held)


def test_the_languages_bench_runs_and_is_shown(regions: Path) -> None:
    torch.set_num_threads(1)
    jobs = [
        text_languages.Job(regions, model, 1, 2, 0)
        for model in (*text_languages.MODELS, "n_grams", "east", "west")
    ]
    found = {job: text_languages.run_job(job) for job in jobs}
    values = text_languages.summary(found, ["east", "west"])
    assert values["n_grams.language"]["mean"] > 95
    best = max(found[job]["language"] for job in jobs if job.model in ("east", "west"))
    lead = found[jobs[0]]["language"] - best
    assert values["premium.language"]["mean"] == pytest.approx(lead)
    assert values["premium"]["mean"] <= lead
    facts = {"rounds": 1, "local_steps": 2, "seeds": [0], "machine": "here", "goal": "a goal"}
    facts |= {"regions": ["east", "west"], "known_languages": 30, "held_languages": 16}
    shown = languages_table({**values, **facts})
    assert "solo, east" in shown
    assert "nan" not in shown


def test_windows_of_a_text_lose_nothing_and_split_no_character() -> None:
    text = ("Všichni 自由平等 " * 20).encode()
    pieces = list(text_languages.windows_of(text, 50))
    assert b"".join(pieces) == text
    assert all(piece.decode() for piece in pieces)
