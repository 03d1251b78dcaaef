"""The shadow changes no byte that leaves, learns from no held-out sample, and outlives a kill."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from gobelin.client.node_seed import node_seed
from gobelin.client.shadow.held_out import held_out
from gobelin.client.shadow.solo import read_solo
from gobelin.client.trainer import LocalSteps, LocalTrainer
from gobelin.client.workbench import open_parts
from gobelin.shared.data import BatchStream, MemorySource
from gobelin.shared.data.export import write_idx
from gobelin.shared.errors import ConfigError, ShadowError
from tests.client.shadow.node import (
    BASE,
    RECIPE,
    SAMPLES,
    SHADOW,
    STEPS,
    Node,
    after,
    home_at,
    images,
    plan_of,
    rounds,
)


def kept_images(node: Node) -> torch.Tensor:
    """What trains, computed here."""
    parts = open_parts(node.home.settings(), RECIPE)
    return parts.kept.read(np.arange(len(parts.kept)))


def test_what_leaves_is_the_same_byte_for_byte_with_the_shadow_at_work(tmp_path: Path) -> None:
    shadowed = Node(home_at(tmp_path, SHADOW))
    with_it = rounds(shadowed, 3)
    without_time = rounds(Node(home_at(tmp_path, SHADOW)), 3, rest=False)
    kept = kept_images(shadowed)
    write_idx(tmp_path / "kept", kept, torch.zeros(len(kept), dtype=torch.int64))
    without = rounds(Node(home_at(tmp_path, None, data=tmp_path / "kept")), 3, rest=False)
    assert shadowed.record().solo_steps == 3 * STEPS
    for one, two, three in zip(with_it, without_time, without, strict=True):
        assert one.payload.segments == two.payload.segments == three.payload.segments
        digests = {spooled.contribution.delta_digest for spooled in (one, two, three)}
        assert len(digests) == 1


def test_held_out_samples_train_neither_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[torch.Tensor] = []
    batch_of = BatchStream.batch

    def spy(stream: BatchStream, step: int) -> torch.Tensor:
        seen.append(batch_of(stream, step))
        return seen[-1]

    monkeypatch.setattr(BatchStream, "batch", spy)
    node = Node(home_at(tmp_path, SHADOW))
    rounds(node, 4)
    pixels, _ = images()
    rows = {image.numpy().tobytes() for batch in seen for image in batch}
    trained = [image.numpy().tobytes() in rows for image in pixels]
    parts = open_parts(node.home.settings(), RECIPE)
    assert parts.held is not None
    held = parts.held.read(np.arange(len(parts.held)))
    assert not rows & {image.numpy().tobytes() for image in held}
    assert sum(trained) == len(parts.kept)  # all others were seen in these steps
    assert len(parts.kept) + len(parts.held) == SAMPLES
    assert node.record().held_out == len(held)


def test_the_solo_model_is_this_node_training_alone(tmp_path: Path) -> None:
    node = Node(home_at(tmp_path, SHADOW))
    rounds(node, 3)
    trainer = LocalTrainer(
        RECIPE,
        BatchStream(
            MemorySource(kept_images(node)),
            RECIPE.inner.batch_size,
            node_seed(node.home, plan_of(1, BASE)),
        ).batch,
    )
    seed = node_seed(node.home, plan_of(1, BASE))
    alone, _ = trainer.train(BASE, LocalSteps(0, 3 * STEPS, 8 * STEPS, 7, seed))
    solo = read_solo(node.home.shadow / "solo", RECIPE)
    assert solo is not None
    assert (solo.steps, solo.samples) == (3 * STEPS, 3 * STEPS * RECIPE.inner.batch_size)
    assert solo.vector.digest == alone.digest


def test_pieces_and_restarts_end_at_the_bytes_of_the_undisturbed_solo_model(
    tmp_path: Path,
) -> None:
    whole, torn = Node(home_at(tmp_path, SHADOW)), Node(home_at(tmp_path, SHADOW))
    rounds(whole, 2)
    base = BASE
    for number in (1, 2):
        base = base + torn.round(number, base).delta
        for pieces in range(1, 9):
            torn.rest(after(pieces))
            torn.start()  # what was not on disk is lost, and done again
    torn.rest()
    solos = [read_solo(node.home.shadow / "solo", RECIPE) for node in (whole, torn)]
    assert solos[0] is not None
    assert solos[1] is not None
    assert solos[0].steps == solos[1].steps == 2 * STEPS
    assert solos[0].vector.digest == solos[1].vector.digest
    assert torn.record().contributed == whole.record().contributed
    assert [p for p in torn.record().solo if p.at == 2 * STEPS] == [
        p for p in whole.record().solo if p.at == 2 * STEPS
    ]


def test_it_gives_way_after_the_step_under_way(tmp_path: Path) -> None:
    node = Node(home_at(tmp_path, SHADOW))
    node.round(1, BASE)
    shadow = node.contributor._shadow
    assert shadow is not None
    while not shadow._of_record().consensus if shadow._record else True:
        node.rest(after(2))  # the start is judged before anything is trained
    node.rest(after(1))  # asked before the piece, and called for after its first step
    assert shadow._of_solo().steps == 1
    assert not node.rest(lambda: True)


def test_it_takes_no_more_than_its_share_of_the_training_time(tmp_path: Path) -> None:
    node = Node(home_at(tmp_path, {**SHADOW, "compute": 0.25}))
    ticks = iter(range(10_000))
    shadow = node.contributor._shadow
    assert shadow is not None
    shadow._clock = lambda: float(next(ticks))  # every piece takes a second or more
    node.round(1, BASE)
    record = shadow._of_record()
    shadow._record = dataclasses.replace(record, trained={1: (record.contributed, 30.0)})
    node.rest()
    record = node.record()
    assert record.spent_s > 0
    assert record.owed_s(0.25) <= 0 or record.solo_samples == record.contributed
    last = 10.0 - record.spent_s  # a third of 30 s, and no piece was begun beyond it
    assert last > -5


def test_a_round_told_again_counts_once(tmp_path: Path) -> None:
    node = Node(home_at(tmp_path, SHADOW))
    node.round(1, BASE)
    node.rest()
    before = node.record()
    node.start()
    node.round(1, BASE)  # from the spool
    node.rest()
    assert node.record().contributed == before.contributed == STEPS * RECIPE.inner.batch_size
    assert len(node.record().consensus) == 1


def test_a_round_is_on_record_before_it_leaves_though_the_node_never_rests(tmp_path: Path) -> None:
    node, base = Node(home_at(tmp_path, SHADOW)), BASE
    for number in (1, 2, 3):
        base = base + node.round(number, base).delta
        node.contributor.flush()
        assert sorted(node.record().trained) == list(range(1, number + 1))
        node.start()  # killed as soon as the round has left


def test_a_late_joiner_starts_from_the_first_base_it_met(tmp_path: Path) -> None:
    node = Node(home_at(tmp_path, SHADOW))
    node.round(5, BASE)
    node.rest()
    record = node.record()
    assert record.from_round == 5
    assert [(point.at, point.samples) for point in record.consensus] == [(5, 0)]


def test_going_back_to_an_earlier_base_forgets_what_was_measured_of_the_course_left(
    tmp_path: Path,
) -> None:
    node = Node(home_at(tmp_path, SHADOW))
    done = rounds(node, 3)
    base = BASE + done[0].delta
    node.round(2, base, seed=8)
    node.rest()
    record = node.record()
    assert sorted(record.trained) == [1, 2]
    assert [point.at for point in record.consensus] == [1, 2]


def test_the_premium_stays_here_unless_it_is_shared_and_the_policy_lets_it_go(
    tmp_path: Path,
) -> None:
    homes = [home_at(tmp_path, {**SHADOW, "share": share}, classes=2) for share in (False, True)]
    silent, open_ = map(Node, homes)
    names = [set(r[-1].contribution.metrics) for r in (rounds(silent, 3), rounds(open_, 3))]
    assert not any(name.startswith("premium") for name in names[0])
    assert names[1] - names[0] == {"premium_probe", "premium_seen"}
    open_.home.policy_file.write_text("metrics = false\n")
    base = BASE
    kept = open_.round(4, base).contribution.metrics
    assert set(kept) == {"sent_bytes", "distortion"}


def test_a_shadow_that_fails_ends_and_the_node_goes_on(tmp_path: Path) -> None:
    node = Node(home_at(tmp_path, SHADOW))
    done = rounds(node, 2)
    (node.home.shadow / "record.json").write_text("{}")
    node.start()
    base = BASE + done[0].delta + done[1].delta
    assert node.round(3, base).delta.norm() > 0
    assert not node.contributor.rest(lambda: False)
    warnings = [status.note for status in node.statuses if status.state == "warning"]
    assert len(warnings) == 1
    assert f"remove {node.home.shadow}" in warnings[0]


def test_private_training_has_a_shadow_and_declares_nothing_of_it(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no ε of"):
        home_at(tmp_path, {**SHADOW, "share": True}, privacy={"noise_multiplier": 1.0})


def test_too_few_held_out_samples_are_refused_with_a_remedy(tmp_path: Path) -> None:
    node = Node(home_at(tmp_path, {"held_out": 0.01}))
    with pytest.raises(ShadowError, match=r"raise shadow\.held_out"):
        node.round(1, BASE)


def test_data_that_grow_at_the_end_keep_their_held_out_samples() -> None:
    for run in (1, 16):
        before, now = (held_out(n, 0.2, 5, run) for n in (1000, 1500))
        assert (now[:1000] == before).all()
        assert 0.1 < now.mean() < 0.3
    windows = held_out(1600, 0.2, 5, 16).reshape(-1, 16)
    assert (windows.all(axis=1) | ~windows.any(axis=1)).all()  # neighbours stay together


def test_an_unknown_share_of_compute_is_refused(tmp_path: Path) -> None:
    home = home_at(tmp_path, SHADOW)
    text = home.settings_file.read_text().replace("compute = 0.5", "compute = 0.9")
    home.settings_file.write_text(text)
    with pytest.raises(ConfigError, match=r"shadow\.compute"):
        home.settings()
