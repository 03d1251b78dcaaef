"""A crew: the processes of one node that `torchrun` started, led by the first.

Rank 0 alone knows the aggregator and the node's folder. Before it trains it tells the others all
that a call of local steps depends on, so they keep nothing between rounds and need not be asked
where they stand. What goes between them is safetensors with a line of JSON, never a pickle: a crew
may span machines.
"""

from __future__ import annotations

import json
import os
import signal
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from typing import Any, Literal

import torch
import torch.distributed as dist
from safetensors.torch import load, save
from torch import Tensor

from gobelin.client.home import NodeSettings
from gobelin.client.trainer import LocalSteps, LocalTrainer
from gobelin.shared.errors import GobelinError
from gobelin.shared.objective import MomentOffset, Moments
from gobelin.shared.objective.ranks import Ranks
from gobelin.shared.recipe import Recipe
from gobelin.shared.vector import ParameterVector

STATE = "state."  # before the names of the inner optimizer's tensors
WAIT = timedelta(days=365)  # for a word of rank 0, between whose rounds may lie any time


@dataclass(frozen=True)
class Order:
    """What rank 0 tells the others to do along with it."""

    what: Literal["train", "moments"]
    recipe: Recipe
    seed: int  # of the data's order
    base: Tensor  # (n,) fp32
    state: dict[str, Tensor]  # of the inner optimizer
    local: LocalSteps

    def to_bytes(self) -> bytes:
        """The order for the other ranks."""
        offset = self.local.offset
        said = {
            "what": self.what,
            "recipe": self.recipe.canonical(),
            "seed": self.seed,
            "local": asdict(replace(self.local, offset=None)),
        }
        tensors = {"base": self.base, "said": _bytes(json.dumps(said).encode())}
        tensors |= {f"{STATE}{name}": tensor for name, tensor in self.state.items()}
        if offset is not None:
            assert isinstance(offset, MomentOffset)
            tensors["pooled"] = _bytes(offset.pooled.to_bytes())
            tensors["own"] = _bytes(offset.own.to_bytes())
        data: bytes = save(tensors)
        return data

    @classmethod
    def from_bytes(cls, data: bytes) -> Order:
        """What `to_bytes` wrote."""
        tensors = load(data)
        said = json.loads(tensors["said"].numpy().tobytes())
        recipe = Recipe.model_validate_json(said["recipe"])
        local = LocalSteps(**said["local"])
        if "pooled" in tensors:
            pooled, own = (
                Moments.from_bytes(tensors[name].numpy().tobytes(), recipe.projector.out)
                for name in ("pooled", "own")
            )
            local = replace(local, offset=pooled.offset_from(own))
        state = {n.removeprefix(STATE): t for n, t in tensors.items() if n.startswith(STATE)}
        return cls(said["what"], recipe, said["seed"], tensors["base"], state, local)


class Leader(LocalTrainer):
    """Rank 0's trainer: what it does, all do."""

    def __init__(self, recipe: Recipe, *args: Any, seed: int, **options: Any) -> None:
        super().__init__(recipe, *args, **options)
        self._seed = seed

    def train(self, base: ParameterVector, local: LocalSteps, *args: Any, **options: Any) -> Any:
        """As LocalTrainer's."""
        self._tell("train", base, local)
        return super().train(base, local, *args, **options)

    def moments(self, base: ParameterVector, local: LocalSteps) -> Moments:
        """As LocalTrainer's."""
        self._tell("moments", base, local)
        return super().moments(base, local)

    def _tell(
        self, what: Literal["train", "moments"], base: ParameterVector, local: LocalSteps
    ) -> None:
        _broadcast(Order(what, self.recipe, self._seed, base.values, self.state(), local))


def enlist(device: str) -> int:
    """This process's rank, in a process group that is started where `torchrun` started several."""
    if not dist.is_torchelastic_launched() or int(os.environ["WORLD_SIZE"]) == 1:
        return 0
    if device.startswith("cuda"):
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    backend = "cpu:gloo,cuda:nccl" if device.startswith("cuda") else "gloo"
    dist.init_process_group(backend, timeout=WAIT)
    return dist.get_rank()


def follow(settings: NodeSettings) -> None:
    """Do what rank 0 tells until it dismisses; what fails there fails here and is told there."""
    from gobelin.client.workbench import build_trainer

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)  # a handler would wait for rank 0's next word
    trainer: LocalTrainer | None = None
    while (order := _broadcast(None)) is not None:
        if trainer is None or trainer.recipe != order.recipe:
            trainer = build_trainer(settings, order.recipe, order.seed)
        base = ParameterVector(trainer.schema, order.base)
        trainer.load_state(order.state)
        try:
            if order.what == "train":
                trainer.train(base, order.local)
            else:
                trainer.moments(base, order.local)
        except GobelinError:
            continue


def dismiss() -> None:
    """Let the others go; nothing where there are none."""
    if Ranks.here() is not None:
        _broadcast(None)


def _broadcast(order: Order | None) -> Order | None:
    """Rank 0's order, on every rank."""
    data = _bytes(b"" if order is None else order.to_bytes())
    length = torch.tensor([len(data)])
    dist.broadcast(length, src=0)
    if not int(length):
        return None
    if dist.get_rank():
        data = torch.empty(int(length), dtype=torch.uint8)
    dist.broadcast(data, src=0)
    return Order.from_bytes(data.numpy().tobytes()) if dist.get_rank() else order


def _bytes(data: bytes) -> Tensor:
    """uint8 (n,)."""
    return (
        torch.frombuffer(bytearray(data), dtype=torch.uint8)
        if data
        else torch.empty(0, dtype=torch.uint8)
    )
