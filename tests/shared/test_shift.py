"""Corruptions keep the form of samples, grow with severity, and are the same for every model."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from gobelin.shared.data import MemorySource, Source
from gobelin.shared.errors import ConfigError
from gobelin.shared.evaluation.corrupted_sequences import corrupt_series, corrupt_text
from gobelin.shared.evaluation.corruptions import corrupt_pictures
from gobelin.shared.evaluation.embed import Embedding
from gobelin.shared.evaluation.label_curves import model_curves, raw_curves
from gobelin.shared.evaluation.shift import Corrupted, known_corruptions, shift
from gobelin.shared.modality import AnyModality
from gobelin.shared.recipe import load_recipe

RECIPES = ("tiny", "video_tiny", "series_tiny", "text_tiny")
EVERY = [
    (name, one) for name in RECIPES for one in known_corruptions(load_recipe(name).modality())[0]
]


def made_up(modality: AnyModality, count: int = 12) -> Tensor:
    found: Tensor = modality.made_up(count, torch.Generator().manual_seed(0))
    return found


def away(a: Tensor, b: Tensor) -> float:
    """Share of the values that differ, or their mean distance where values are numbers."""
    if a.is_floating_point():
        lost = (a.isnan() != b.isnan()).double().mean()
        return float((a - b).nan_to_num().abs().mean() + lost)
    return float((a.double() - b.double()).abs().mean())


@pytest.mark.parametrize(("recipe", "name"), EVERY)
def test_a_corruption_keeps_the_form_and_grows(recipe: str, name: str) -> None:
    modality = load_recipe(recipe).modality()
    clean = made_up(modality)
    _, corrupt = known_corruptions(modality)
    found = [corrupt(clean, name, s, torch.Generator().manual_seed(s)) for s in (1, 5)]
    for one in found:
        modality.check(one)  # the model can take it
    assert 0 < away(clean, found[0]) < away(clean, found[1])


def test_what_is_random_in_a_sample_depends_on_its_place_alone() -> None:
    modality = load_recipe("tiny").modality()
    source = MemorySource(made_up(modality), torch.arange(12) % 2)
    _, corrupt = known_corruptions(modality)
    noisy = Corrupted(source, corrupt, "gaussian_noise", 3, seed=1)
    whole = noisy.read(np.arange(12))
    assert torch.equal(noisy.read(np.array([7, 3])), whole[[7, 3]])
    other = Corrupted(source, corrupt, "gaussian_noise", 3, seed=2).read(np.arange(12))
    assert not torch.equal(other, whole)


def test_a_turned_clip_turns_as_one() -> None:
    """All frames of a still clip stay alike."""
    frame = torch.randint(0, 256, (1, 1, 3, 16, 16), dtype=torch.uint8)
    clip = frame.expand(1, 4, 3, 16, 16)
    for name in ("rotation", "translation", "occlusion"):
        turned = corrupt_pictures(clip, name, 5, torch.Generator().manual_seed(0))
        assert torch.equal(turned, turned[:, :1].expand_as(turned))


def test_no_window_of_a_series_loses_all_its_values() -> None:
    lonely = torch.full((20, 8, 1), torch.nan)
    lonely[:, 3] = 1.0
    found = corrupt_series(lonely, "missing", 5, torch.Generator().manual_seed(0))
    assert bool((~found.isnan()).any(dim=1).all())


@pytest.mark.parametrize("name", ["typos", "deletions", "swaps", "case"])
def test_corrupted_text_is_whole_characters_of_its_own_script(name: str) -> None:
    text = "Всі люди народжуються вільними"
    row = torch.zeros(1, 64, dtype=torch.uint8)
    row[0, : len(text.encode())] = torch.tensor(list(text.encode()), dtype=torch.uint8)
    found = corrupt_text(row, name, 5, torch.Generator().manual_seed(0))[0]
    said = bytes(found[found > 0].tolist()).decode()  # strict: no broken character
    assert said != text
    assert set(said.lower()) <= set(text.lower())


def test_what_nobody_has_defined_is_refused() -> None:
    with pytest.raises(ConfigError, match="no corruptions are known for trajectory data"):
        known_corruptions(load_recipe("two_room").modality())


def test_a_head_of_clean_samples_is_tested_on_corrupted_ones() -> None:
    modality = load_recipe("tiny").modality()
    labels = torch.arange(200) % 2
    images = torch.randint(0, 40, (200, 1, 28, 28), generator=torch.Generator().manual_seed(0))
    images[labels == 1] += 150
    source = MemorySource(images.to(torch.uint8), labels)

    def pixels(seen: Source, chosen: npt.NDArray[np.int64] | None) -> tuple[Tensor, Tensor]:
        assert seen.labels is not None
        at = np.arange(len(seen)) if chosen is None else chosen
        return seen.read(at).flatten(1) / 255, seen.labels[torch.from_numpy(at)]

    found = shift(
        pixels, modality, source, source, 2,
        corruptions=["occlusion", "brightness"], severities=[1, 5], label_budget=100, samples=50,
    )  # fmt: skip
    assert (found.clean, found.samples) == (100, 50)
    assert found.corrupted["occlusion"][1] == 100
    assert found.corrupted["brightness"][5] < 75  # the dark class passes for the bright one
    assert found.kept == pytest.approx(found.mean)


def test_raw_samples_have_no_tokens_to_attend_to() -> None:
    x, y = torch.randn(8, 3), torch.arange(8) % 2
    curves = raw_curves((x, y), (x, y), 2, ["attentive", "knn"], [1, 2], draws=1)
    assert list(curves) == ["knn"]
    with pytest.raises(ConfigError, match="no probe 'svm'"):
        model_curves(Embedding(x, x, y), Embedding(x, x, y), 2, ["svm"], [1])
