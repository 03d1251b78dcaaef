"""LoRA: adapters are low-rank updates, begin well, and are what peft loads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from gobelin.client.sovereign import Given, make_model, read_package, write_package
from gobelin.client.sovereign.lora import CONFIG, PREFIX, WEIGHTS, Lora, targets_of
from gobelin.client.sovereign.moves import adapters
from gobelin.client.sovereign.settings import LoraSettings
from gobelin.shared.model import build_jepa, encoder_of
from gobelin.shared.recipe import Recipe, load_recipe
from gobelin.shared.signing import SigningKey
from gobelin.shared.vector import ParameterVector
from tests.client.sovereign_world import (
    consensus,
    labelled,
    settings,
)

KEY = SigningKey.generate()


def test_adapters_are_exactly_low_rank_updates(tmp_path: Path) -> None:
    base = consensus()
    quick = {"steps": 40, "lr": 2e-2}
    wanted = settings("lora", lora={"rank": 2, "alpha": 6.0}, tuning=quick)
    model = make_model(base, Given(labelled(80)), wanted)
    write_package(tmp_path / "ours", model, KEY)
    config = json.loads((tmp_path / "ours" / CONFIG).read_bytes())
    assert (config["r"], config["lora_alpha"]) == (2, 6.0)
    assert config["target_modules"]
    written = load_file(tmp_path / "ours" / WEIGHTS)
    delta = (model.vector - base.vector).tensors()
    for module in config["target_modules"]:
        moved = delta.pop(f"{module}.weight").flatten(1)
        a, b = (written[f"{PREFIX}{module}.lora_{name}.weight"] for name in "AB")
        assert torch.allclose(moved, 3.0 * b.flatten(1) @ a.flatten(1), atol=1e-6)
        assert int(torch.linalg.matrix_rank(moved, tol=1e-5)) <= 2
    assert not any(bool(rest.any()) for rest in delta.values())


def test_adapters_get_the_gradient_of_the_low_rank_product() -> None:
    base = consensus()
    name = "trunk.blocks.0.mlp_in.weight"
    lora = Lora(base.vector, [name], rank=2, alpha=4.0)
    with torch.no_grad():
        lora.b[name].normal_(generator=torch.Generator().manual_seed(0))
    images = labelled(8).read(torch.arange(8).numpy())
    encoder = encoder_of(base.recipe, base.vector)
    a, b = (p.detach().clone().requires_grad_(True) for p in (lora.a[name], lora.b[name]))
    weight = base.vector.tensors()[name] + lora.scale * (b @ a)
    expected = torch.func.functional_call(
        encoder, {"trunk.blocks.0.mlp_in.weight": weight}, (encoder.prepare(images),)
    )
    expected.square().sum().backward()
    from gobelin.client.sovereign.lora import LowRank

    wrapped = LowRank(base.recipe.objective_of(), lora, "image")
    wrapped.begin(encoder)
    wrapped.stepped(encoder)
    encoder(encoder.prepare(images)).square().sum().backward()
    assert a.grad is not None
    assert b.grad is not None
    assert torch.allclose(lora.a[name].grad, a.grad, rtol=1e-3, atol=1e-5)  # type: ignore[arg-type]
    assert torch.allclose(lora.b[name].grad, b.grad, rtol=1e-3, atol=1e-5)  # type: ignore[arg-type]
    assert encoder.trunk.blocks[0].mlp_in.weight.grad is None  # type: ignore[union-attr]


def test_adapters_begin_as_what_the_first_gradient_is_largest_in() -> None:
    base = consensus()
    name = "trunk.blocks.0.mlp_in.weight"
    lora = Lora(base.vector, [name], rank=2, alpha=4.0)
    gradient = torch.randn(lora.b[name].shape[0], lora.a[name].shape[1])
    lora.align(name, gradient)
    a = lora.a[name].detach()
    assert torch.allclose(a @ a.T, torch.eye(2), atol=1e-5)
    kept = torch.linalg.matrix_norm(gradient @ a.T)
    best = torch.linalg.svdvals(gradient)[:2].norm()
    assert torch.allclose(kept, best, rtol=1e-4)  # no other rank 2 has more of it
    assert torch.equal(lora.weight(name), base.vector.tensors()[name])  # nothing has moved yet


def test_a_rank_above_a_weights_own_keeps_what_was_drawn() -> None:
    base = consensus()
    name = "trunk.blocks.0.mlp_in.weight"
    out = base.vector.tensors()[name].shape[0]
    lora = Lora(base.vector, [name], rank=out + 3, alpha=4.0)
    drawn = lora.a[name].detach().clone()
    inside = base.vector.tensors()[name].shape[1]
    lora.align(name, torch.randn(out, inside))
    assert torch.equal(lora.a[name][min(out, inside) :], drawn[min(out, inside) :])


def test_a_stem_of_convolutions_is_adapted_alone_and_more_widely() -> None:
    facts = load_recipe("toy").model_dump(mode="json")
    facts["modalities"]["image"]["stem"] = "conv"
    convolutional = Recipe.model_validate(facts)

    def placed(recipe: Recipe, **how: Any) -> Lora:
        vector = ParameterVector.of(build_jepa(recipe, seed=0))
        return adapters(vector, recipe, "image", LoraSettings.model_validate(how))

    alone = placed(convolutional)
    assert alone.targets == targets_of(convolutional, "image", "tokenizer")
    assert len(alone.targets) == 3
    everything, patches = placed(convolutional, adapts="all"), placed(load_recipe("toy"))
    assert set(alone.targets) < set(everything.targets)
    assert patches.targets == targets_of(load_recipe("toy"), "image", "all")
    assert (alone.rank, everything.rank, patches.rank) == (16, 4, 4)
    assert {alone.scale, everything.scale, placed(convolutional, rank=3).scale} == {2.0}


@pytest.mark.slow
def test_peft_loads_our_adapters_to_the_same_outputs(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    base = consensus()
    model = make_model(base, Given(labelled()), settings("lora"))
    write_package(tmp_path / "ours", model, KEY)
    jepa = build_jepa(base.recipe, seed=0)
    base.vector.load_into(jepa)
    jepa.config = {"model_type": "custom"}  # type: ignore[assignment]
    adapted = peft.PeftModel.from_pretrained(jepa, str(tmp_path / "ours" / "adapter"))
    images = labelled(5, seed=2).read(torch.arange(5).numpy())
    encoder = jepa.encoder().eval()
    with torch.no_grad():
        seen = encoder.features(encoder.prepare(images))
    assert torch.allclose(seen, model.encode(images), atol=1e-6)
    merged = adapted.merge_and_unload()
    assert torch.allclose(ParameterVector.of(merged).values, model.vector.values, atol=1e-6)


def test_a_build_of_both_stages_says_so_and_keeps_no_adapter_of_the_second(tmp_path: Path) -> None:
    wanted = settings("lora", pretrain={"steps": 4, "every": 2, "lr": 1e-3})
    model = make_model(consensus(), Given(labelled(), unlabelled=labelled(seed=7)), wanted)
    assert {"pretrain", "tune", "frozen"} <= set(model.lineage.evaluation)
    assert [said.name for said in model.lineage.data] == ["data", "pre-training"]
    if model.lineage.evaluation["pretrain"]["best_step"]:
        assert not any(name.startswith("adapter") for name in model.files)
    back = read_package(write_package(tmp_path / "ours", model, KEY).folder or tmp_path)
    assert back.build["tuning"]["steps"] == 12
    assert b"Told right" in (tmp_path / "ours" / "README.md").read_bytes()
