"""What heads lose from one release to the next is published with it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from gobelin.client.sovereign.package import load
from gobelin.client.sovereign.rebasing import align_head
from gobelin.client.sovereign_cli import app
from gobelin.server.founding import Charter, found
from gobelin.shared.checkpoint import read_checkpoint
from gobelin.shared.data import MemorySource
from gobelin.shared.data.export import write_idx
from gobelin.shared.errors import ConfigError, DataError
from gobelin.shared.evaluation.transplant import measure_transplant
from gobelin.shared.model import encoder_of
from gobelin.shared.release import verify_release
from gobelin.shared.release.card import FILE
from gobelin.shared.release.transplant import FIGURES, FRAME, read_frame, read_transplant
from gobelin.shared.seeds import derive_seed, generator_of
from tests.server.world import Federation, Node, federation
from tests.two_modalities import write_recipe

SAMPLES = 60


def halves() -> tuple[Tensor, Tensor]:
    """Images that are bright at the top or at the bottom, and which."""
    labels = torch.arange(2 * SAMPLES) % 2
    noise = torch.randint(0, 90, (2 * SAMPLES, 1, 28, 28), generator=generator_of(0, "halves"))
    images = noise.to(torch.uint8)
    images[labels == 0, :, :14] += 120
    images[labels == 1, :, 14:] += 120
    return images, labels


@pytest.fixture(scope="module")
def probe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("public") / "probe"
    write_idx(folder, *halves())
    return folder


@pytest.fixture(scope="module")
def published(probe: Path, tmp_path_factory: pytest.TempPathFactory) -> Federation:
    """Two releases of two rounds each; tests do not change it."""
    releases = {"probe": str(probe), "probe_samples": SAMPLES}
    fed = federation(
        tmp_path_factory.mktemp("published"),
        Node("north"),
        Node("south"),
        rounds=4,
        release_every=2,
        releases=releases,
    )
    fed.run()
    return fed


def test_a_release_says_what_heads_of_the_last_one_lose(published: Federation) -> None:
    first, second = (published.home.releases / f"release-0000{n}" for n in (2, 4))
    assert not (first / FIGURES).exists()
    assert "was not measured: there is none" in (first / FILE).read_text()
    told = read_transplant(second)
    assert told is not None
    assert read_transplant(first) is None
    old, new = read_checkpoint(first), read_checkpoint(second)
    again, frame = measure_transplant(
        encoder_of(old.recipe, old.vector),
        encoder_of(new.recipe, new.vector),
        MemorySource(*halves()),
        samples=SAMPLES,
        seed=derive_seed(1, "transplant"),
    )
    assert {name: told[name] for name in again.facts()} == again.facts()
    assert again.train_samples == again.test_samples == SAMPLES // 2
    assert told["points_lost"] == again.before - again.framed
    assert (told["from_round"], told["to_round"]) == (2, 4)
    assert told["from_vector_digest"] == old.vector.digest
    assert told["to_vector_digest"] == new.vector.digest
    assert f"loses {again.points_lost:.1f} points" in (second / FILE).read_text()
    found = read_frame(second, old.vector.digest, "image")
    assert found is not None
    assert torch.equal(found.rotation, frame.rotation)
    assert read_frame(second, new.vector.digest, "image") is None  # that is to another release
    signed = verify_release(second, published.home.signing_key().public).files
    assert {FIGURES, FRAME} <= set(signed)
    assert published.events("release")[1]["head_points_lost"] == again.points_lost


def test_a_head_goes_over_by_the_published_frame(
    published: Federation, probe: Path, tmp_path: Path
) -> None:
    """Verified releases, two commands, and nothing of the region's data for the second."""
    first, second = (published.home.releases / f"release-0000{n}" for n in (2, 4))
    common = ["--key", str(published.home.tls / "ca.pem"), "--home", str(tmp_path), "--json"]
    build = ["build", "--release", str(first), "--data", str(probe), "--method", "linear"]
    out = ["--out", str(tmp_path / "old"), "--set", "evaluation.report=false"]
    told = CliRunner().invoke(app, [*build, *out, *common])
    assert told.exit_code == 0, told.output
    rebase = ["rebase", str(tmp_path / "old"), "--onto", str(second)]
    told = CliRunner().invoke(app, [*rebase, "--out", str(tmp_path / "new"), *common])
    assert told.exit_code == 0, told.output
    old, new = load(tmp_path / "old"), load(tmp_path / "new")
    assert new.lineage.release.verified_by == published.home.signing_key().public
    assert new.vector.digest == read_checkpoint(second).vector.digest
    frame = read_frame(second, old.vector.digest, "image")
    assert frame is not None
    assert old.head is not None
    assert new.head is not None
    expected = align_head(old.head, frame).state_dict()
    found = new.head.state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_a_release_that_is_published_again_says_the_same(
    published: Federation, tmp_path: Path
) -> None:
    """Killed before the folder was whole: what is measured does not depend on when."""
    shutil.copytree(published.home.folder, tmp_path / "home")
    fed = published.moved(tmp_path)
    second = fed.home.releases / "release-00004"
    before = [(second / name).read_bytes() for name in (FIGURES, FRAME)]
    shutil.rmtree(second)
    fed.run()
    assert [(second / name).read_bytes() for name in (FIGURES, FRAME)] == before


def test_a_probe_that_is_gone_holds_up_no_release(published: Federation, tmp_path: Path) -> None:
    shutil.copytree(published.home.folder, tmp_path / "home")
    fed = published.moved(tmp_path)
    settings = fed.home.settings_file.read_text()
    lines = [
        f'probe = "{tmp_path / "gone"}"' if line.startswith("probe = ") else line
        for line in settings.splitlines()
    ]
    fed.home.settings_file.write_text("\n".join(lines))
    second = fed.home.releases / "release-00004"
    shutil.rmtree(second)
    fed.run()
    assert not (second / FIGURES).exists()
    verify_release(second, fed.home.signing_key().public)
    (warning,) = fed.events("transplant_unknown")
    assert "gone" in warning["why"]


def test_a_federation_is_not_founded_on_a_probe_no_head_can_be_fitted_on(
    probe: Path, tmp_path: Path
) -> None:
    write_idx(tmp_path / "unlabelled", halves()[0])
    charter = Charter("fed", "toy", "127.0.0.1:0", releases={"probe": str(tmp_path / "unlabelled")})
    with pytest.raises(DataError, match="no labels"):
        found(tmp_path / "home", charter)
    several = write_recipe(tmp_path)
    charter = Charter("fed", str(several), "127.0.0.1:0", releases={"probe": str(probe)})
    with pytest.raises(ConfigError, match="several modalities"):
        found(tmp_path / "home", charter)
    assert not (tmp_path / "home").exists()
