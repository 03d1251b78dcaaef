"""Evaluation: the figures of a model, their table, and a report that needs no network."""

import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import nn

from gobelin.shared.data import MemorySource
from gobelin.shared.errors import ConfigError, DataError
from gobelin.shared.evaluation import (
    MemberWorth,
    Results,
    Row,
    embed,
    evaluate_model,
    evaluate_raw,
    print_results,
)
from gobelin.shared.evaluation.charts import Cloud, Curve, principal_plane
from gobelin.shared.evaluation.embed import require_device
from gobelin.shared.evaluation.held_out_loss import held_out_loss
from gobelin.shared.evaluation.html import write_report
from gobelin.shared.model import build_jepa
from gobelin.shared.recipe import load_recipe

NASTY = '<script>alert("$x^2$")</script> [red]'


def squares(count, seed, size=28, classes=3):
    """Noisy images whose class is where a bright square lies."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (count,), generator=generator)
    images = torch.randint(0, 60, (count, 1, size, size), generator=generator)
    for image, label in zip(images, labels.tolist(), strict=True):
        image[:, 7 * label : 7 * label + 7, 7:14] += 180
    return MemorySource(images.to(torch.uint8), labels)


@pytest.fixture(scope="module")
def toy():
    return build_jepa(load_recipe("toy"), seed=0).encoder()


@pytest.fixture(scope="module")
def evaluation(toy):
    return evaluate_model(toy, squares(200, 0), squares(90, 1), also={"own": squares(40, 2)})


def test_a_model_and_the_pixels_are_measured_alike(evaluation):
    assert evaluation.tokens > 90
    assert evaluation.also["own"] > 90
    assert evaluation.train_images == 200
    assert evaluation.test_images == 90
    assert 1 <= evaluation.effective_rank <= 16
    pixels = evaluate_raw(load_recipe("toy").modality(), squares(200, 0), squares(90, 1))
    assert pixels.tokens > 90
    assert pixels.pooled is None


def test_the_same_model_gets_the_same_figures(toy, evaluation):
    again = evaluate_model(toy, squares(200, 0), squares(90, 1), also={"own": squares(40, 2)})
    assert again == evaluation


def test_no_more_labels_are_used_than_the_budget(toy):
    assert evaluate_model(toy, squares(200, 0), squares(90, 1), label_budget=50).train_images == 50


def test_embedding_leaves_the_model_as_it_was_and_keeps_the_order(toy):
    toy.train()
    source = squares(50, 0)
    some = embed(toy, source, np.array([9, 3]), batch=1)
    every = embed(toy, source)
    assert toy.training
    assert torch.allclose(some.tokens, every.tokens[[9, 3]], atol=1e-5)
    assert some.labels.tolist() == source.labels[[9, 3]].tolist()
    assert torch.allclose(every.pooled, every.tokens.view(50, 16, 16).mean(1), atol=1e-6)


def test_the_held_out_loss_is_the_same_each_time(toy):
    objective = load_recipe("toy").objective_of()
    first = held_out_loss(toy, objective, squares(40, 1), batches=2)
    assert first == held_out_loss(toy, objective, squares(40, 1), batches=2) > 0


def test_images_without_labels_and_models_that_diverged_are_refused(toy):
    unlabelled = MemorySource(torch.zeros(9, 1, 28, 28, dtype=torch.uint8))
    with pytest.raises(DataError, match="no labels"):
        evaluate_model(toy, unlabelled, unlabelled)

    class Diverged(nn.Module):
        def prepare(self, batch):
            return batch

        def tokens(self, prepared):
            return torch.full((len(prepared), 4, 8), torch.nan)

        def pool(self, tokens, prepared):
            return tokens.mean(dim=1)

    with pytest.raises(DataError, match="NaN or infinity"):
        evaluate_model(Diverged(), squares(20, 0), squares(20, 1))
    with pytest.raises(DataError, match="no images to embed"):
        embed(toy, squares(9, 0), np.array([], dtype=np.int64))


def test_a_device_this_machine_lacks_is_refused():
    assert require_device("cpu").type == "cpu"
    for name in ("cuda:99", "warp"):
        with pytest.raises(ConfigError, match="does not exist here"):
            require_device(name)


def test_the_main_directions_are_found_with_a_fixed_sign():
    x = torch.randn(500, 6, generator=torch.Generator().manual_seed(0))
    x = x * torch.tensor([0.1, 5, 0.1, 9, 0.1, 0.1])
    plane = principal_plane(x)
    for direction, feature in enumerate((3, 1)):
        pair = torch.stack([plane[:, direction], x[:, feature].double()])
        assert torch.corrcoef(pair)[0, 1] > 0.99


def some_results(evaluation):
    rows = [Row("random", evaluation), Row(NASTY, evaluation, highlight=True)]
    return Results(rows, [MemberWorth(NASTY, 1234, 80.0, 79.5)], [NASTY])


def test_the_table_prints_names_as_they_are_and_a_negative_premium(evaluation):
    console = Console(file=io.StringIO(), width=140)
    print_results(some_results(evaluation), console)
    printed = console.file.getvalue()
    assert printed.count("[red]") == 3
    assert "-0.5" in printed


class Links(HTMLParser):
    """Collects what a page would load, and the scripts it holds."""

    def __init__(self):
        super().__init__()
        self.loads, self.tags = [], set()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.loads += [v for k, v in attrs if k in ("src", "href", "xlink:href") and v]


def test_the_report_is_one_page_that_loads_nothing_and_escapes_everything(tmp_path, evaluation):
    clouds = [Cloud(NASTY, torch.randn(50, 8), torch.arange(50) % 3, ("a$b$", NASTY, "c"))]
    curves = [
        Curve(NASTY, "loss", [1, 2, 3], [3.0, 2.0, float("nan")]),
        Curve("b", "loss", [1], [1.0]),
        Curve("b", "effective rank", [1, 2], [4.0, 5.0]),
    ]
    path = tmp_path / "report.html"
    facts = {"consensus": NASTY}
    write_report(path, some_results(evaluation), curves, clouds, facts=facts)
    page = path.read_text()
    links = Links()
    links.feed(page)
    assert "script" not in links.tags
    assert all(link.startswith(("#", "data:image/png;base64,")) for link in links.loads)
    assert "@import" not in page
    assert not re.search(r"url\((?!#)", page)
    assert page.count("<svg") == 2
    assert "currentColor" in page
    assert "prefers-color-scheme: dark" in page
    ids = re.findall(r'id="([^"]+)"', page)
    assert all(ids.count(used) == 1 for used in re.findall(r"url\(#([^)]+)\)", page))


def test_a_report_of_the_bare_table_is_fine(tmp_path, evaluation):
    write_report(tmp_path / "bare.html", Results([Row("random", evaluation)]))
    page = (tmp_path / "bare.html").read_text()
    assert "<svg" not in page
    assert "Training" not in page
