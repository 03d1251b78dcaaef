"""A sovereign model over HTTP: /embed, /classify, /surprise, /health and their OpenAPI document."""

from __future__ import annotations

import threading
from collections.abc import Collection
from typing import Any

import torch
from fastapi import FastAPI
from torch import Tensor

from gobelin.client.serving.batcher import Batcher
from gobelin.client.serving.samples import SamplesRequest, SurpriseRequest, tensor_of
from gobelin.client.sovereign.export.inference import PROBABILITIES, Inference
from gobelin.client.sovereign.package import SovereignModel
from gobelin.shared.data.trajectories import Trajectories
from gobelin.shared.errors import ConfigError, DataError
from gobelin.shared.evaluation.energy import energy
from gobelin.shared.http_server import guarded_app
from gobelin.shared.modality.trajectory import Trajectory
from gobelin.shared.worldmodel.answers import surprise_facts
from gobelin.shared.worldmodel.observation import actions_of


def make_app(
    model: SovereignModel, max_bytes: int, hosts: Collection[str] | None, token: str = ""
) -> FastAPI:
    """The interface of a model; see `guarded_app` for what is refused before it is looked at."""
    app = guarded_app("Gobelin sovereign model", max_bytes, hosts, token)
    questions = Questions(model)
    app.get("/health")(questions.health)
    app.post("/embed", summary="Features of samples")(questions.embed)
    if model.head is not None:
        app.post("/classify", summary="Probabilities of classes")(questions.classify)
    app.post("/surprise", summary="How implausible is this")(questions.surprise)
    return app


class Questions:
    """What can be asked. Methods run in threads; what they have in common is one batcher."""

    def __init__(self, model: SovereignModel) -> None:
        self._model = model
        self._inference = Inference(model).eval()
        modality = model.encoder.modality
        seen = modality.observation if isinstance(modality, Trajectory) else modality
        self._check, self._form = seen.check, modality.form
        self._turn = threading.Lock()  # of what cannot be batched
        self.batcher = Batcher(self._compute)

    def health(self) -> dict[str, Any]:
        """Which model answers, what it sees, and how many forward passes it took so far."""
        model, lineage = self._model, self._model.lineage
        form = model.config().sample
        return {
            "status": "ok",
            "model": model.digest,
            "region": lineage.region,
            "signed_by": model.signed_by,
            "task": model.task,
            "sample": form,
            "class_names": list(model.class_names),
            "samples": self.batcher.samples,
            "passes": self.batcher.passes,
        }

    def embed(self, asked: SamplesRequest) -> dict[str, Any]:
        """Features (B, D), and latents (B, P) of a world model."""
        found = self._ask(asked)
        found.pop(PROBABILITIES, None)
        return {name: tensor.tolist() for name, tensor in found.items()}

    def classify(self, asked: SamplesRequest) -> dict[str, Any]:
        """For each sample the likeliest class, and probabilities (B, K) in the order of names."""
        chances = self._ask(asked)[PROBABILITIES]
        names = self._model.class_names
        return {
            "classes": [names[i] for i in chances.argmax(dim=1).tolist()],
            "class_names": list(names),
            "probabilities": chances.tolist(),
        }

    def surprise(self, asked: SurpriseRequest) -> dict[str, Any]:
        """Energies: of each step of an episode, or of each candidate beside its context."""
        if isinstance(self._model.encoder.modality, Trajectory):
            return self._of_episode(asked)
        if asked.contexts is None or asked.candidates is None:
            raise ConfigError("this model judges candidates", "give `contexts` and `candidates`")
        context = tensor_of(asked.contexts, self._form).to(self._model.device)
        candidate = tensor_of(asked.candidates, self._form).to(self._model.device)
        with self._turn:
            found = energy(self._model.encoder, context, candidate, asked.seed)
        return {"energy": found.tolist()}

    def _of_episode(self, asked: SurpriseRequest) -> dict[str, Any]:
        if asked.observations is None or asked.actions is None:
            what = "this model judges what actions led to"
            raise ConfigError(what, "give `observations` and `actions`")
        world = self._model.world_model()
        seen = tensor_of(asked.observations, self._form)
        actions = actions_of(asked.actions, world.form)
        if len(actions) != 1 or actions.shape[1] + 1 != len(seen):
            what = f"{len(seen)} observations with actions {tuple(actions.shape)}"
            raise DataError(what, "give T actions (T, A) for T + 1 observations")
        episode = Trajectories(seen[None], actions).to(self._model.device)
        with self._turn:
            return surprise_facts(world.surprise(episode)[0].cpu())

    def _ask(self, asked: SamplesRequest) -> dict[str, Tensor]:
        samples = tensor_of(asked.samples, self._form)
        self._check(samples)  # before it is anybody else's batch, too
        found = self.batcher.ask(samples)
        return dict(zip(self._inference.outputs, found, strict=True))

    @torch.inference_mode()
    def _compute(self, samples: Tensor) -> tuple[Tensor, ...]:
        with self._turn:
            found: tuple[Tensor, ...] = self._inference(samples.to(self._model.device))
        return tuple(tensor.float().cpu() for tensor in found)
