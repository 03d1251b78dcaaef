"""Time per decision: our CEM against stable-worldmodel's, on the same models in the same run.

Same samples, iterations, elites and horizon, random weights, three models: the predictor of the
recipe two_room, one of LeWM's size (d = 192, 6 blocks, 16 heads of 64, history 3), and the
residual MLP of the two-room studies, which no recipe has and the speedup does not count. Each
library plans as it does: stable-worldmodel's CEMSolver through LeWM.get_cost, which calls the
model on a window at every step, a model of PyTorch's own layers, as theirs are
(`PlainPredictor`); ours through the model's rollout. One problem at a time and several together;
for those the baseline is the faster of its default, one after the other, and all in one batch.
Latents are given, so no encoder is timed. It is checked that both get the same cost for the same
candidates.

Where the speedup comes from is taken apart: `layers` is their solver and window by window as
before, with our layers in the model (on a processor: oneDNN's products instead of MKL's), `solver`
their solver with our rollout. `draft` is our search with a bf16 copy of the model, what it finds
judged by the model itself: other arithmetic, so no part of the speedup.

The baseline is the code of the package itself: `planning_baseline` says how it is installed.

Writes bench/results/planning_time.json.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.measure import spread, write_result
from bench.planning_baseline import BASELINE, BOUND, Baseline, Model, Search, given
from bench.two_rooms import DIM, WorldModel
from gobelin.shared.errors import ConfigError
from gobelin.shared.model.linear import linear
from gobelin.shared.model.predictor import ConditionedBlock, Predictor
from gobelin.shared.objective.next_latent import NextLatentRecipe
from gobelin.shared.planning import ActionSpace, Cast, Cem, FlatDynamics, Problem, ToGoal
from gobelin.shared.recipe import PredictorRecipe, load_recipe

MODELS = ("two_room", "lewm", "study")
PRODUCT = MODELS[:2]  # what `speedup` is the least of
LEWM = PredictorRecipe(dim=192, depth=6, heads=16, head_dim=64, mlp_ratio=2048 / 192, history=3)


class PlainPredictor:
    """What `Predictor.forward` computes, by PyTorch's layers as they come: the reference."""

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor
        self.embed = nn.Sequential(predictor.condition, nn.SiLU())

    def __call__(self, latents: Tensor, conditions: Tensor) -> Tensor:
        """Next latents (N, T, D) of latents (N, T, D) under embedded conditions (N, T, C)."""
        model = self.predictor
        tokens = model.read(latents) + model.position[: latents.shape[1]]
        for block in model.blocks:
            assert isinstance(block, ConditionedBlock)
            shift, scale, gate, *of_mlp = block.modulation(conditions).chunk(6, dim=-1)
            seen = block.norm_attention(tokens) * (1 + scale) + shift
            tokens = tokens + gate * self.attend(block.attention, seen)
            shift, scale, gate = of_mlp
            seen = block.norm_mlp(tokens) * (1 + scale) + shift
            tokens = tokens + gate * block.mlp_out(F.gelu(block.mlp_in(seen)))
        change: Tensor = model.write(model.norm(tokens))
        return latents + change

    @staticmethod
    def attend(attention: Any, tokens: Tensor) -> Tensor:
        """Causal attention of tokens (N, T, D)."""
        parts = attention.query_key_value(tokens).unflatten(2, (3, attention.heads, -1))
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        joined: Tensor = attention.out(attended.transpose(1, 2).flatten(2))
        return joined


@dataclass(frozen=True)
class LayersOf:
    """The small model where nothing is learnt, by our layers."""

    model: WorldModel

    def predict(self, z: Tensor, actions: Tensor) -> Tensor:
        """Next latents of z (..., D) after actions (..., 2)."""
        first, _, second, _, third = self.model.change
        assert isinstance(first, nn.Linear)
        assert isinstance(second, nn.Linear)
        assert isinstance(third, nn.Linear)
        hidden = linear(torch.cat([z, 10 * actions], dim=-1), first, gelu=True)
        return z + linear(linear(hidden, second, gelu=True), third)

    def imagine(self, z: Tensor, actions: Tensor) -> Tensor:
        """Latents (N, T, D) imagined from z (N, D) through actions (N, T, 2)."""
        latents = [z]
        for action in actions.unbind(dim=1):
            latents.append(self.predict(latents[-1], action))
        return torch.stack(latents[1:], dim=1)


class OurRollout:
    """Our rollout and cost, as their solver asks for them."""

    def __init__(self, model: Model) -> None:
        self.dynamics = FlatDynamics(model.imagine)

    def get_cost(self, info: dict[str, Tensor], actions: Tensor) -> Tensor:
        """Costs (B, S) of actions (B, S, H, A)."""
        latents = self.dynamics.rollout(info["emb"][:, 0, 0], actions)
        return ToGoal(info["goal_emb"][:, 0, 0])(latents, actions)


def models(device: torch.device) -> dict[str, Model]:
    """The models, with random weights."""
    torch.manual_seed(0)
    small = WorldModel().to(device).requires_grad_(False)
    little = copy.deepcopy(small).bfloat16()
    layers = LayersOf(small)
    alike = Model(
        DIM, 2, 1, nn.Identity(), small.predict, layers.predict, layers.imagine, little.imagine
    )
    recipe = load_recipe("two_room")
    table = recipe.modalities["robot"].objective
    assert isinstance(table, NextLatentRecipe)
    return {
        "two_room": transformer(table.predictor, recipe.projector.out, 2, device),
        "lewm": transformer(LEWM, LEWM.dim, 10, device),
        "study": alike,
    }


def transformer(recipe: PredictorRecipe, latent: int, action: int, device: torch.device) -> Model:
    """A predictor with random weights, no zeros among them."""
    ours = Predictor(recipe, latent, action)
    for parameter in ours.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.02)
    ours.to(device).requires_grad_(False)
    plain, rough = PlainPredictor(ours), copy.deepcopy(ours).bfloat16()
    return Model(
        latent, action, recipe.history, plain.embed, plain, ours, ours.rollout, rough.rollout
    )


def turns_of(
    baseline: Baseline, model: Model, search: Search, z0: Tensor, goal: Tensor
) -> dict[str, Callable[[], Tensor]]:
    """Every way to plan, by name."""
    world, space = baseline.world(model), ActionSpace.symmetric(model.action, BOUND)
    problem = Problem(
        FlatDynamics(model.imagine),
        z0,
        ToGoal(goal),
        space.like(z0),
        search.horizon,
        max_rollouts=1 << 12 if z0.device.type == "cpu" else 1 << 15,
    )
    cem = Cem(search.samples, search.iterations, search.elites, spread=1 / BOUND)
    batches = sorted({1, len(z0)})
    theirs = {
        f"baseline_batch_{batch}": baseline.planner(world, model, search, batch, z0, goal)
        for batch in batches
    }
    layers, solver = (
        baseline.planner(costable, model, search, len(z0), z0, goal)
        for costable in (baseline.world(model, ours=True), OurRollout(model))
    )
    drafted = replace(problem, draft=Cast(FlatDynamics(model.rough), torch.bfloat16))
    return {
        "gobelin": lambda: cem.search(problem, 0).actions,
        **theirs,
        "layers": layers,
        "solver": solver,
        "draft": lambda: cem.search(drafted, 0).actions,
    }


def measure(
    turns: dict[str, Callable[[], Tensor]], repetitions: int, device: torch.device
) -> tuple[dict[str, list[float]], dict[str, Tensor]]:
    """Seconds of every turn, in turns, after one that does not count; and the last plans."""
    seconds: dict[str, list[float]] = {name: [] for name in turns}
    plans: dict[str, Tensor] = {}
    for repetition in range(repetitions + 1):
        for name, work in turns.items():
            started = now(device)
            plans[name] = work()
            if repetition:
                seconds[name].append(now(device) - started)
    return seconds, plans


def now(device: torch.device) -> float:
    """Seconds: of the processor, which other processes do not lengthen, or a GPU's on the wall."""
    if device.type == "cpu" and torch.get_num_threads() == 1:
        return time.process_time()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


@torch.no_grad()
def cost_gap(baseline: Baseline, model: Model, search: Search, z0: Tensor, goal: Tensor) -> float:
    """Largest relative difference between both costs of the same candidates."""
    shape = (len(z0), 64, search.horizon, model.action)
    candidates = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(z0)
    info = {k: v[:, None].expand(-1, 64, *v.shape[1:]) for k, v in given(z0, goal).items()}
    theirs = baseline.world(model).get_cost(info, candidates) / model.latent
    ours = ToGoal(goal)(FlatDynamics(model.imagine).rollout(z0, candidates), candidates)
    return float(((ours - theirs).abs() / theirs).max())


@torch.no_grad()
def costs_of(model: Model, plans: dict[str, Tensor], z0: Tensor, goal: Tensor) -> dict[str, float]:
    """Mean cost of what each found."""
    return {
        name: float(ToGoal(goal)(model.imagine(z0, found)[:, None], found[:, None]).mean())
        for name, found in plans.items()
    }


def case(
    baseline: Baseline, model: Model, search: Search, starts: int, options: argparse.Namespace
) -> dict[str, Any]:
    """One model and one number of problems at once: flat keys."""
    random = torch.Generator().manual_seed(starts)
    z0, goal = torch.randn(2, starts, model.latent, generator=random).to(options.device)
    turns = turns_of(baseline, model, search, z0, goal)
    seconds, plans = measure(turns, options.repetitions, options.device)
    best = min((name for name in turns if "baseline" in name), key=lambda n: min(seconds[n]))

    def times(slow: str, fast: str) -> dict[str, float]:
        return spread([a / b for a, b in zip(seconds[slow], seconds[fast], strict=True)])

    default = seconds["baseline_batch_1"]
    return {
        **{
            f"ms.{name}": spread([1e3 * s / starts for s in each]) for name, each in seconds.items()
        },
        **{f"cost.{name}": cost for name, cost in costs_of(model, plans, z0, goal).items()},
        "cost_gap": cost_gap(baseline, model, search, z0, goal),
        "speedup": times(best, "gobelin"),
        "speedup_best": min(seconds[best]) / min(seconds["gobelin"]),
        "speedup_default": min(default) / min(seconds["gobelin"]),
        "speedup_layers": times("layers", "gobelin"),
        "speedup_solver": times("solver", "gobelin"),
        "speedup_draft": times(best, "draft"),
    }


def main() -> None:
    """Measure and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--baseline", type=Path, default=BASELINE, help="where the package lies")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--samples", type=int, default=300)
    parser.add_argument("--iterations", type=int, default=30)
    parser.add_argument("--elites", type=int, default=30)
    parser.add_argument("--horizon", type=int, default=5)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--starts", type=int, nargs="+", default=[1, 8], help="problems at once")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--name", default="planning_time", help="of the result file")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    search = Search(options.samples, options.iterations, options.elites, options.horizon)
    try:
        baseline = Baseline(options.baseline)
    except ConfigError as error:
        parser.error(str(error))
    values: dict[str, Any] = {}
    speedups = []
    known = models(options.device)
    for name in options.models:
        model = known[name]
        for starts in options.starts:
            found = case(baseline, model, search, starts, options)
            values |= {f"{name}.{starts}.{key}": value for key, value in found.items()}
            if name in PRODUCT:
                speedups.append(found["speedup"]["mean"])
            print(name, starts, {k: round(v, 3) for k, v in found.items() if type(v) is float})
    shared = {
        key: value
        for key, value in vars(options).items()
        if key not in ("baseline", "name", "device")
    }
    on_gpu = options.device.type == "cuda"
    device = torch.cuda.get_device_name(options.device) if on_gpu else str(options.device)
    goal = "speedup >= 2 in the least favourable case of two_room and lewm"
    print(
        write_result(
            options.name,
            {
                "speedup": min(speedups, default=None),
                **values,
                **shared,
                "device": device,
                "goal": goal,
            },
        )
    )


if __name__ == "__main__":
    main()
