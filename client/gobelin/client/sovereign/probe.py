"""The smallest sovereign model: a linear head on the frozen features of a consensus release."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from gobelin.shared.checkpoint import Checkpoint, file_digest
from gobelin.shared.data import Source, Subset
from gobelin.shared.data.partition import hold_out
from gobelin.shared.errors import CheckpointError, DataError, StateError
from gobelin.shared.evaluation.embed import at_rest, draw, embed
from gobelin.shared.evaluation.evaluate import count_classes
from gobelin.shared.evaluation.probes import LinearHead, linear_probe
from gobelin.shared.files import folder_atomic, read_json, write_json
from gobelin.shared.model import encoder_of

FORMAT = "gobelin.head.v1"
WEIGHTS = "head.safetensors"
MANIFEST = "manifest.json"
HELD_OUT = 0.2  # share of the labelled images that measures the head when no test set is given
LABELS = 20_000  # labelled images a head is fitted on at most: what fits into memory
REMEDY = "build the head again"


@dataclass(frozen=True)
class Head:
    """A linear head, the release it belongs to, and how well it does."""

    linear: LinearHead  # on flattened tokens
    class_names: tuple[str, ...]
    release_digest: str  # of the release's parameter vector
    recipe_digest: str
    accuracy: float  # percent, on images it was not fitted on
    train_images: int
    test_images: int
    modality: str | None = None  # of the recipe's; None where it has only one

    def facts(self) -> dict[str, Any]:
        """Plain JSON, without the weights."""
        return {
            "class_names": list(self.class_names),
            "release_digest": self.release_digest,
            "recipe_digest": self.recipe_digest,
            "accuracy": self.accuracy,
            "train_images": self.train_images,
            "test_images": self.test_images,
            "modality": self.modality,
        }


def build_head(
    release: Checkpoint,
    data: Source,
    test: Source | None = None,
    *,
    label_budget: int = LABELS,
    seed: int = 0,
    device: str = "cpu",
    modality: str | None = None,
) -> Head:
    """Fit a head on labelled `data` and measure it on `test`, or on a fifth of `data` held out.

    `modality` need not be said where the recipe has only one. Raises ConfigError where it must be,
    DataError on missing labels, fewer than two classes, or too few images.
    """
    classes = count_classes(data)
    chosen = draw(data, label_budget, seed, "head labels")
    if test is None:
        chosen, held = hold_out(chosen, HELD_OUT, seed)
        if not len(held):
            what = f"{len(data)} labelled images leave none to measure the head on"
            raise DataError(what, "give more images, or a test set")
        test = Subset(data, held)
    model = encoder_of(release.recipe, release.vector, modality).to(device)
    known = embed(model, data, chosen, device=device)
    unseen = embed(model, test, device=device)
    accuracy, linear = linear_probe(
        known.tokens, known.labels, unseen.tokens, unseen.labels, classes
    )
    return Head(
        linear=LinearHead(linear.weight.cpu(), linear.bias.cpu()),
        class_names=data.class_names or tuple(str(label) for label in range(classes)),
        release_digest=release.vector.digest,
        recipe_digest=release.recipe.digest,
        accuracy=accuracy,
        train_images=len(chosen),
        test_images=len(test),
        modality=modality,
    )


def save_head(folder: Path, head: Head) -> None:
    """Write a head as a folder of safetensors and a manifest, whole or not at all."""
    tensors = {"weight": head.linear.weight.contiguous(), "bias": head.linear.bias.contiguous()}
    about = {"format": FORMAT, "release_digest": head.release_digest}
    with folder_atomic(folder) as tmp:
        save_file(tensors, tmp / WEIGHTS, metadata=about)
        digest = file_digest(tmp / WEIGHTS)
        write_json(tmp / MANIFEST, {"format": FORMAT, "files": {WEIGHTS: digest}, **head.facts()})


def load_head(folder: Path) -> Head:
    """Read and verify a head; raises CheckpointError when it is damaged or none."""
    if not (folder / MANIFEST).is_file():
        raise CheckpointError(f"{folder} is no head: it has no {MANIFEST}", REMEDY)
    try:
        manifest = read_json(folder / MANIFEST)
        if manifest.get("format") != FORMAT:
            found = manifest.get("format")
            raise CheckpointError(f"{folder} has format {found!r}, not {FORMAT}", REMEDY)
        if file_digest(folder / WEIGHTS) != manifest["files"][WEIGHTS]:
            raise CheckpointError(f"{folder / WEIGHTS} does not match its manifest", REMEDY)
        tensors = load_file(folder / WEIGHTS)
        return Head(
            linear=LinearHead(tensors["weight"], tensors["bias"]),
            class_names=tuple(manifest["class_names"]),
            release_digest=str(manifest["release_digest"]),
            recipe_digest=str(manifest["recipe_digest"]),
            accuracy=float(manifest["accuracy"]),
            train_images=int(manifest["train_images"]),
            test_images=int(manifest["test_images"]),
            modality=manifest.get("modality"),  # heads of older versions do not say
        )
    except (OSError, KeyError, TypeError, ValueError, SafetensorError, StateError) as error:
        kind = type(error).__name__
        raise CheckpointError(f"{folder} is damaged ({kind})", REMEDY) from None


def predict(head: Head, release: Checkpoint, samples: Tensor) -> Tensor:
    """Class probabilities (B, K) of raw samples (B, ...).

    Raises CheckpointError when the head was built on another release.
    """
    if head.release_digest != release.vector.digest:
        raise CheckpointError(
            f"the head belongs to release {head.release_digest[:12]}, "
            f"this is {release.vector.digest[:12]}",
            "use its own release, or build the head again on this one",
        )
    model = encoder_of(release.recipe, release.vector, head.modality)
    with at_rest(model), torch.no_grad():
        tokens = model.tokens(model.prepare(samples)).flatten(1)
    return head.linear.logits(tokens).softmax(dim=1)
