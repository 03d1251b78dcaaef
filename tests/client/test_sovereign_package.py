"""Sovereign model packages: whole, signed, self-contained, and refused on one flipped bit."""

import json
import resource
from contextlib import contextmanager

import pytest
import torch

from gobelin.client.sovereign import load, read_package, write_package
from gobelin.client.sovereign.consensus import take_release
from gobelin.client.sovereign.head import AttentiveHead, LinearHead, PooledHead
from gobelin.client.sovereign.lineage import Lineage, Origin, region_key
from gobelin.client.sovereign.package import SovereignModel
from gobelin.shared.checkpoint import write_checkpoint
from gobelin.shared.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    MachineError,
    SignatureError,
    StateError,
    UnverifiedError,
)
from gobelin.shared.evaluation.attentive import fit_attentive
from gobelin.shared.evaluation.probes import LinearHead as Probe
from gobelin.shared.model import build_jepa, encoder_of
from gobelin.shared.recipe import load_recipe
from gobelin.shared.signing import SigningKey
from gobelin.shared.vector import ParameterVector

RECIPE = load_recipe("toy")
TOKENS, DIM = 16, 16
NAMES = ("high", "low", "level")
KEY = SigningKey.generate()


def images(count=4):
    generator = torch.Generator().manual_seed(count)
    shape = (count, 1, 28, 28)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


def linear_head():
    weight = torch.randn(3, TOKENS * DIM, generator=torch.Generator().manual_seed(0))
    return LinearHead.of(Probe(weight, torch.arange(3.0)), DIM)


def sovereign(head=None, **changes):
    vector = ParameterVector.of(build_jepa(RECIPE, seed=1))
    origin = Origin(federation="weavers", round=3, vector_digest=vector.digest)
    lineage = Lineage(region="north", release=origin, method="linear", seeds={"build": 0})
    names = NAMES if head is not None else ()
    return SovereignModel(RECIPE, vector, lineage, head=head, class_names=names, **changes)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "model"


def test_a_package_is_used_by_three_lines(folder):
    written = write_package(folder, sovereign(linear_head()), KEY)
    model = load(folder)
    features, chances = model.encode(images()), model.predict(images())
    assert features.shape == (4, DIM)
    assert chances.shape == (4, 3)
    assert torch.allclose(chances.sum(1), torch.ones(4))
    encoder = encoder_of(RECIPE, written.vector).eval()
    prepared = encoder.prepare(images())
    with torch.no_grad():
        tokens = encoder.tokens(prepared)
        expected = linear_head().logits(tokens).softmax(1)
    assert torch.equal(features, encoder.pool(tokens, prepared))
    assert torch.equal(chances, expected)
    assert model.class_names == NAMES


def test_a_package_comes_back_as_it_was_written(folder):
    model = sovereign(linear_head(), temperature=2.0, build={"epochs": 3})
    model.files["README.md"] = b"# ours"
    model.files["adapter/adapter_config.json"] = b"{}"
    write_package(folder, model, KEY)
    back = read_package(folder, key=KEY.public)
    assert back.vector.digest == model.vector.digest
    assert back.recipe == RECIPE
    assert back.task == "classification"
    assert (back.temperature, back.build) == (2.0, {"epochs": 3})
    assert back.signed_by == KEY.public
    assert set(back.files) == {"README.md", "adapter/adapter_config.json"}
    assert back.lineage.model_copy(update={"files": {}}) == model.lineage
    assert "model.safetensors" in back.lineage.files


def test_the_same_build_gives_the_same_bytes(folder, tmp_path):
    for where in (folder, tmp_path / "again"):
        write_package(where, sovereign(linear_head()), KEY)
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["config.json", "head.safetensors", "lineage.json", "model.safetensors"]
    assert all((folder / n).read_bytes() == (tmp_path / "again" / n).read_bytes() for n in names)


def test_a_package_is_written_again_over_itself_with_more_files(folder):
    first = write_package(folder, sovereign(linear_head(), files={"README.md": b"x"}), KEY)
    first.files["report.html"] = b"<p>"  # type: ignore[index]
    second = write_package(folder, first, KEY)
    assert (folder / "README.md").read_bytes() == b"x"
    assert second.vector.digest == first.vector.digest
    assert second.digest != first.digest


@pytest.mark.parametrize("name", ["model.safetensors", "head.safetensors", "config.json"])
def test_one_flipped_bit_is_refused(folder, name):
    write_package(folder, sovereign(linear_head()), KEY)
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:])
    with pytest.raises(CheckpointError, match=f"{name} is not what was signed"):
        read_package(folder)


def test_a_file_too_many_or_too_few_is_refused(folder):
    write_package(folder, sovereign(), KEY)
    (folder / "more.txt").write_text("")
    with pytest.raises(CheckpointError, match=r"more.txt is not in its lineage"):
        read_package(folder)
    (folder / "more.txt").unlink()
    (folder / "config.json").rename(folder / "elsewhere")
    (folder / "elsewhere").unlink()
    with pytest.raises(CheckpointError, match=r"config.json is missing"):
        read_package(folder)
    (folder / "config.json").symlink_to(folder / "lineage.json")
    with pytest.raises(CheckpointError, match=r"config.json is not what was signed"):
        read_package(folder)


def test_a_changed_lineage_or_another_regions_is_refused(folder, tmp_path):
    write_package(folder, sovereign(), KEY)
    with pytest.raises(SignatureError, match="not by"):
        read_package(folder, key=SigningKey.generate().public)
    file = folder / "lineage.json"
    told = json.loads(file.read_text())
    told["statement"]["region"] = "south"
    file.write_text(json.dumps(told))
    with pytest.raises(SignatureError, match="is not signed"):
        read_package(folder)
    del told["statement"]["method"]
    file.write_text(json.dumps(told))
    with pytest.raises(CheckpointError, match="method: Field required"):
        read_package(folder)
    file.write_text("[]")
    with pytest.raises(CheckpointError, match="is no lineage"):
        read_package(folder)
    with pytest.raises(CheckpointError, match="is no sovereign model"):
        read_package(tmp_path / "nowhere")


def test_a_head_that_does_not_fit_is_refused(folder):
    with pytest.raises(ConfigError, match="0 names for a head of 3"):
        SovereignModel(RECIPE, sovereign().vector, sovereign().lineage, head=linear_head())
    write_package(folder, sovereign(linear_head()), KEY)
    model = load(folder)
    with pytest.raises(DataError, match="the recipe needs uint8"):
        model.predict(images().float())


def test_without_a_head_there_are_features_and_no_classes(folder):
    write_package(folder, sovereign(), KEY)
    model = load(folder)
    assert model.task == "representation"
    assert model.encode(images(2)).shape == (2, DIM)
    with pytest.raises(ConfigError, match="has no head"):
        model.predict(images(2))
    with pytest.raises(ConfigError, match="no world model"):
        model.world_model()


@pytest.mark.parametrize("kind", ["pooled", "attentive"])
def test_every_head_comes_back_with_its_weights(folder, kind):
    random = torch.Generator().manual_seed(1)
    tokens = torch.randn(12, TOKENS, DIM, generator=random)
    if kind == "pooled":
        head = PooledHead.of(Probe(torch.randn(3, DIM, generator=random), torch.zeros(3)))
        expected = tokens.mean(1) @ head.linear.weight.T
    else:
        tokens[:, :, 3] = 1.0  # a dimension that says nothing has an infinite scale
        reader = fit_attentive(tokens, torch.arange(12) % 3, 3, steps=2)
        head, expected = AttentiveHead.of(reader), reader(tokens)
    write_package(folder, sovereign(head), KEY)
    back = read_package(folder).head
    assert back.kind == kind
    assert torch.allclose(back.logits(tokens), expected, atol=1e-6)


def test_a_mean_leaves_out_tokens_without_data():
    tokens = torch.ones(1, 4, DIM)
    tokens[0, 2:] = 0
    head = PooledHead.of(Probe(torch.ones(2, DIM), torch.zeros(2)))
    assert torch.equal(head.logits(tokens), torch.full((1, 2), float(DIM)))


@contextmanager
def short_disk(size):
    """Files may not grow beyond `size` bytes: what a full disk does to a write."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_the_old_build_as_it_was(folder):
    before = write_package(folder, sovereign(), KEY)
    with short_disk(4096), pytest.raises(MachineError, match="cannot be written"):
        write_package(folder, sovereign(linear_head()), KEY)
    assert read_package(folder).digest == before.digest
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_what_is_no_package_is_never_replaced(folder):
    folder.mkdir()
    (folder / "thesis.tex").write_text("years of work")
    with pytest.raises(StateError, match="no sovereign model"):
        write_package(folder, sovereign(), KEY)
    assert (folder / "thesis.tex").exists()
    for name in ("../escape", "/etc/escape", "lineage.json", ""):
        with pytest.raises(ConfigError, match="no room"):
            write_package(folder.parent / "new", sovereign(files={name: b""}), KEY)
    assert not (folder.parent / "new").exists()


def test_the_regions_key_is_made_once_and_kept_to_its_owner(tmp_path):
    key = region_key(tmp_path / "region")
    assert region_key(tmp_path / "region").public == key.public
    assert (tmp_path / "region" / "region.key").stat().st_mode & 0o777 == 0o600


def test_a_bare_checkpoint_is_taken_only_where_it_is_said(tmp_path):
    vector = ParameterVector.of(build_jepa(RECIPE, seed=1))
    write_checkpoint(tmp_path / "bare", RECIPE, vector, {"federation": "weavers", "round": 7})
    for home in (None, tmp_path):
        with pytest.raises(UnverifiedError, match="to verify the release against"):
            take_release(tmp_path / "bare", home=home)
    taken = take_release(tmp_path / "bare", unverified=True)
    assert taken.vector.digest == vector.digest
    assert (taken.origin.federation, taken.origin.round) == ("weavers", 7)
    assert not taken.origin.verified
