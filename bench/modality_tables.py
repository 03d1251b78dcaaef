"""Tables of the benches of sensors and of text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.markdown import PROBES, figure, table


def sensors_table(values: Mapping[str, Any]) -> str:
    """Exercises told from inertial sensors."""
    models = {
        "random": "random weights",
        "solo_mean": "solo, mean over members",
        "pooled": "all data pooled",
        "consensus": "**consensus**",
    }
    columns = [*PROBES, "auroc"]
    rows = [
        [title, *(figure(values.get(f"{model}.{column}")) for column in columns)]
        for model, title in models.items()
    ]
    raw, rocket = values["raw.auroc"], values["rocket.auroc"]
    rows += [
        ["raw windows", figure(values["raw.linear"]), "–", figure(values["raw.knn"]), "–",
         figure(raw)],
        ["ROCKET, ridge", figure(values["rocket.ridge"]), "–", "–", "–", figure(rocket)],
    ]  # fmt: skip
    heading = (
        "## Sensors: a watch, a subject a node\n\n"
        f"`make bench-sensors`: recipe series_tiny, {values['rounds']} rounds of "
        f"{values['local_steps']} steps, {values['held_subjects']} subjects held out of training "
        f"and probes, seeds {values['seeds']}, {values['machine']}. Percent of the held-out "
        "subjects' windows whose exercise is told; AUROC, in percent, of telling an exercise "
        "nobody had by its distance to known ones. ROCKET is trained on the labels, the models are "
        f"not; over the consensus: {figure(values['gap_to_rocket'], 2, True)} points.\n"
    )
    return "\n".join([heading, table(["features", *PROBES.values(), "AUROC"], rows)])


def languages_table(values: Mapping[str, Any]) -> str:
    """Languages and articles told from bytes."""
    models = {
        "random": "random weights",
        **{region: f"solo, {region}" for region in values["regions"]},
        "pooled": "all data pooled",
        "consensus": "**consensus**",
        "n_grams": "byte n-grams, logistic regression",
    }
    columns = ("language", "language_knn", "article", "article_knn")
    rows = [
        [title, *(figure(values.get(f"{model}.{column}")) for column in columns)]
        for model, title in models.items()
    ]
    heading = (
        "## Languages: members are regions of the world\n\n"
        f"`make bench-text_languages`: recipe text_tiny, {values['rounds']} rounds of "
        f"{values['local_steps']} steps, seeds {values['seeds']}, {values['machine']}. Percent "
        f"right of {values['known_languages']} languages in later articles than the probe has "
        f"seen, and of 31 articles (chance {100 / 31:.1f}) in {values['held_languages']} languages "
        "that nothing has seen. Consensus over the best solo: languages "
        f"{figure(values['premium.language'], 2, True)} points, articles "
        f"{figure(values['premium.article'], 2, True)}. Goal: {values['goal']}.\n"
    )
    heads = ["features", "language, linear", "kNN", "article, linear", "kNN"]
    return "\n".join([heading, table(heads, rows)])
