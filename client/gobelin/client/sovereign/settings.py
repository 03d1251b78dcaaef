"""BUILD.toml: all that fixes a sovereign build, validated before any work is done."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from gobelin.client.home import MachineSettings
from gobelin.client.sovereign.gate import Floors
from gobelin.client.sovereign.lineage import LICENCE
from gobelin.client.sovereign.report import EvaluationSettings
from gobelin.shared.settings import Fraction, Positive, Settings

EXAMPLE = "example.toml"
PATHS = ("release", "data", "out", "test", "key")
Share = Annotated[float, Field(gt=0, lt=1)]
Rate = Annotated[float, Field(gt=0)]
Moves = Literal["full", "partial", "lora", "predictor"]
Method = Literal["auto", "linear", "attentive", "lora", "partial", "full", "pretrain"]
TUNED = ("lora", "partial", "full")  # methods that move the model by labels


class LabelSettings(Settings):
    """The region's labels."""

    classes: tuple[str, ...] = ()  # their names, label 0 first; what the data call them if empty
    budget: Annotated[int, Field(ge=2)] = 20_000  # labelled samples used, at most
    held_out: Share = 0.2  # share of them: to stop by, and to measure by where there is no test set
    balance: Literal["none", "loss", "sampling"] = "loss"  # every class counts the same, or not


class HeadSettings(Settings):
    """What reads the classes off tokens."""

    # On all tokens, on their mean, or by attention. auto: of few labels whichever of the first two
    # does better in cross-validation, else all tokens.
    kind: Literal["auto", "linear", "pooled", "attentive"] = "auto"


class TuningSettings(Settings):
    """Fine-tuning on labels: AdamW from the head that fits the frozen model (arXiv:2202.10054)."""

    steps: Positive | None = None  # at most; unset: 20 epochs, but 200 at least, 2,000 at most
    every: Positive | None = None  # steps between two looks at the held-out part; unset: 20 looks
    # Looks without anything gained after which it ends. Many: what is held out does worse while
    # the rate is high, and gains most in the second half of the schedule.
    patience: Positive = 15
    batch_size: Annotated[int, Field(ge=2)] = 32  # samples a step
    # Standard errors that the gain in held-out loss has to exceed for the model moved to be taken:
    # of few labels the best look is better by chance. By 0 any gain is. Unset: 1.645 (one-sided
    # 5 %) below 1,000 labels, 0 from there on.
    least_gain: Annotated[float, Field(ge=0)] | None = None
    lr: Rate | None = None  # unset: 1e-2 for lora, 1e-3 else
    weight_decay: Annotated[float, Field(ge=0)] = 0.01  # AdamW's
    warmup: Fraction = 0.1  # share of the steps in which the rate rises
    # L2-SP: pull towards the release, against forgetting
    anchor: Annotated[float, Field(ge=0)] = 0.0
    augment: bool = True  # a view of each sample beside it, where views have its shape


class PretrainSettings(Settings):
    """Continued private pre-training with the recipe's own objective; labels are not looked at."""

    steps: Positive | None = None  # at most; unset: none, and 300 with method = "pretrain"
    data: Path | None = None  # unlabelled samples; unset: those of the build
    moves: Moves = "full"  # what of the model; predictor: of a world model
    every: Positive = 25  # steps between two looks at the held-out part
    patience: Positive = 4  # looks without anything gained after which it ends
    lr: Rate | None = None  # unset: half of the recipe's
    held_out: Share = 0.1  # share of the samples, to stop by
    rehearsal: Path | None = None  # public samples, or own older ones, learnt again beside the new
    rehearsal_share: Share = 0.5  # of every batch, where there is `rehearsal`
    # L2-SP: pull towards the release, against forgetting
    anchor: Annotated[float, Field(ge=0)] = 0.0


class LoraSettings(Settings):
    """Low-rank adapters (arXiv:2106.09685)."""

    # What is adapted. auto: the tokenizer alone where that is a stem of convolutions, for another
    # scanner is seen by it first and needs most of its rank; all otherwise.
    adapts: Literal["auto", "all", "tokenizer"] = "auto"
    rank: Positive | None = None  # unset: 16 of a tokenizer alone, 4 of all
    alpha: Rate | None = None  # updates are scaled by alpha / rank; unset: twice the rank


class BuildSettings(Settings):
    """One build."""

    release: Path  # the consensus release that is built on; it stays as it is
    data: Path  # the region's samples, as `gobelin node` reads them
    out: Path  # folder of the signed model; an older one is replaced once this is done
    # labelled samples that nothing is fitted on; unset: the held-out part measures
    test: Path | None = None
    region: str = "region"  # your name, in the lineage
    # linear and attentive fit a head on the frozen release, lora, partial and full move it,
    # pretrain needs no labels; auto: full with labels, pretrain without
    method: Method = "auto"
    modality: str | None = None  # of the data, where the recipe has several
    seed: int = 0  # of what is held out, the order of samples and the head's first weights
    key: Path | None = None  # the federation's ca.pem; unset: the one in --home
    unverified: bool = False  # take a bare checkpoint, and say so in the lineage
    licence: str = LICENCE  # of the model, in its lineage and card
    blocks: Positive = 1  # last blocks of the trunk that "partial" moves
    labels: LabelSettings = LabelSettings()
    head: HeadSettings = HeadSettings()
    tuning: TuningSettings = TuningSettings()
    pretrain: PretrainSettings = PretrainSettings()
    lora: LoraSettings = LoraSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    gate: Floors = Floors()
    compute: MachineSettings = MachineSettings()

    @model_validator(mode="after")
    def _head_fits(self) -> BuildSettings:
        wanted = {"linear": ("auto", "linear", "pooled"), "attentive": ("auto", "attentive")}
        if self.head.kind not in wanted.get(self.method, (self.head.kind,)):
            raise ValueError(f"method = {self.method!r} fits no head of kind {self.head.kind!r}")
        return self

    def plain(self) -> dict[str, Any]:
        """As JSON, without where things lie on this machine."""
        told = self.model_dump(mode="json", exclude=set(PATHS))
        for name in ("data", "rehearsal"):
            told["pretrain"][name] = bool(told["pretrain"][name])
        told["evaluation"] = self.evaluation.plain()
        return told


def example() -> str:
    """A documented BUILD.toml with every setting at its default."""
    return resources.files("gobelin.client.sovereign").joinpath(EXAMPLE).read_text()


def at_folder(values: dict[str, Any], folder: Path) -> dict[str, Any]:
    """A BUILD.toml's values, its relative paths as seen from its own folder."""

    def placed(table: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
        found = {name: table[name] for name in names if isinstance(table.get(name), str)}
        return {**table, **{name: str(folder / path) for name, path in found.items()}}

    values = placed(values, PATHS)
    if isinstance(values.get("pretrain"), dict):
        values["pretrain"] = placed(values["pretrain"], ("data", "rehearsal"))
    if isinstance(values.get("evaluation"), dict):
        values["evaluation"] = of_evaluation(values["evaluation"], folder)
    return values


def of_evaluation(table: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """A table [evaluation], its relative paths as seen from a folder."""
    placed = dict(table)
    if isinstance(table.get("solo"), str):
        placed["solo"] = str(folder / table["solo"])
    if isinstance(table.get("general"), list):
        placed["general"] = [str(folder / str(path)) for path in table["general"]]
    return placed
