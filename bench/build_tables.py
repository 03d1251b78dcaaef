"""Tables of the sovereign build's benches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.markdown import figure, table


def fewshot_table(values: Mapping[str, Any]) -> str:
    """What regions reach with few labels, by start and method."""
    titles = {
        "consensus.linear": "consensus, a head on it",
        "consensus.lora": "consensus, LoRA",
        "consensus.full": "**consensus, all of the net (`auto`)**",
        "solo.linear": "a member's solo model, a head on it",
        "scratch.linear": "random weights, a head on them",
        "scratch.lora": "from scratch, LoRA",
        "scratch.full": "from scratch, all of the net",
        "consensus.pretrained": "consensus, pre-trained on own texts, a head",
        "scratch.pretrained": "random weights, pre-trained on own texts, a head",
        "gain_over_scratch": "`auto` over the best from scratch, points",
        "gain_over_solo": "`auto` over the solo model, points",
        "pretrained_over_scratch": "consensus pre-trained over the best from scratch, points",
        "pretrained_over_solo": "consensus pre-trained over the solo model, points",
        "pretrained_over_own": "consensus pre-trained over random weights pre-trained, points",
    }
    columns = {f"{n}": f"pictures, {n} a class" for n in values["shots"]}
    columns |= {f"texts.{n}": f"texts, {n} a language" for n in values["text_shots"]}
    rows = [
        [title, *(figure(values.get(f"{n}.{name}"), 1, "over" in name) for n in columns)]
        for name, title in titles.items()
    ]
    heading = (
        "## The sovereign build with few labels\n\n"
        f"`make bench-fewshot`: {_setting(values)}; and a community of twelve languages that no "
        f"member has, on a consensus of {values['text_steps']} steps. Percent of the region's "
        "5,000 test pictures told right, and of pieces of 192 bytes whose language is. What is "
        "trained from scratch starts at the head that fits the random net; own texts are those of "
        f"all earlier articles, without labels, for {values['pretrain']} steps. Goal: "
        f"{values['goal']}.\n"
    )
    return "\n".join([heading, table(["model", *columns.values()], rows)])


def lora_table(values: Mapping[str, Any]) -> str:
    """LoRA beside full fine-tuning."""
    count = values["parameters"]
    titles = {"lora": "LoRA", "full": "full"}
    rows = [["frozen release, the head alone", figure(values["frozen"]), "–", "–", "0"]]
    rows += [
        [
            title,
            figure(values[method]),
            figure(values[f"{method}.gain"], 1, True),
            figure(values.get(f"{method}.points_lost"), 2, True),
            f"{count[method]:,}",
        ]
        for method, title in titles.items()
    ]
    heading = (
        "## LoRA against full fine-tuning\n\n"
        f"`make bench-lora`: {_setting(values)}; {values['shots']} labels a class, at most "
        f"{values['steps']} steps, rank {values['rank']}, a head on the tokens' mean. "
        f"LoRA has {values['share_of_gain']:.0%} of the gain by "
        f"{values['share_of_parameters']:.1%} of the parameters. Forgotten: points of the "
        f"consensus's own benchmark, as below. Goal: {values['goal']}.\n"
    )
    return "\n".join(
        [heading, table(["method", "told right, %", "gain", "forgotten", "trained"], rows)]
    )


def forgetting_table(values: Mapping[str, Any]) -> str:
    """What builds lose of the consensus's own benchmark."""
    names = [key.removesuffix(".points_lost") for key in values if key.endswith(".points_lost")]
    rows = [
        [
            name,
            figure(values[f"{name}.general_before"]),
            figure(values[f"{name}.general"]),
            figure(values[f"{name}.points_lost"], 2, True),
        ]
        for name in names
    ]
    heading = (
        "## Forgetting by a sovereign build\n\n"
        f"`make bench-forgetting`: {_setting(values)}; {values['shots']} labels a class. The "
        "consensus's own benchmark (a probe on images as the members have them), before and after, "
        f"percent. Goal: {values['goal']}.\n"
    )
    return "\n".join([heading, table(["build", "before", "after", "points lost"], rows)])


def _setting(values: Mapping[str, Any]) -> str:
    return (
        f"recipe tiny, {values['release']} of a study's federation (400 steps), a region whose "
        f"images are turned by 90°, seeds {values['seeds']}, {values['machine']}"
    )
