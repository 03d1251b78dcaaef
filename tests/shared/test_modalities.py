"""Series, text and video: what goes in is checked, what is missing is left out, views repeat."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from gobelin.client.trainer import LocalSteps, LocalTrainer
from gobelin.shared.data import BatchStream, MemorySource
from gobelin.shared.errors import ConfigError, DataError
from gobelin.shared.evaluation import embed, evaluate_model, evaluate_raw
from gobelin.shared.modality import AnyModality
from gobelin.shared.model import Encoder, build_jepa
from gobelin.shared.recipe import Recipe, load_recipe
from gobelin.shared.seeds import generator_of
from gobelin.shared.settings import check_settings
from gobelin.shared.vector import ParameterVector

NAMES = ("series_tiny", "text_tiny", "video_tiny")
STEPS = 30


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def modality_of(name: str) -> AnyModality:
    return load_recipe(name).modality()


def encoder_of(name: str) -> Encoder:
    return build_jepa(load_recipe(name), seed=0).encoder().eval()


def changed(name: str, **keys: object) -> Recipe:
    """A recipe with other keys of its modality."""
    values = load_recipe(name).model_dump()
    (table,) = values["modalities"].values()
    table.update(keys)
    return check_settings(Recipe, values, "here")


def two_kinds(name: str, count: int) -> MemorySource:
    """Samples of two classes that differ in rhythm, case or brightness."""
    made = modality_of(name).made_up(count, generator_of(0, "two kinds"))
    labels = torch.arange(count) % 2
    if name == "series_tiny":
        time = torch.linspace(0, 6, made.shape[1])[None, :, None] * (1 + 3 * labels)[:, None, None]
        made = made / 2 + time.sin()
    elif name == "text_tiny":
        made = torch.where((labels[:, None] == 1) & (made > 96), made - 32, made)  # upper case
    else:
        made = torch.where(labels[:, None, None, None, None] == 1, made // 2, made)
    return MemorySource(made.contiguous(), labels)


@pytest.mark.parametrize("name", NAMES)
def test_samples_become_tokens_features_and_views_of_the_right_shapes(name: str) -> None:
    encoder, modality = encoder_of(name), modality_of(name)
    batch = modality.made_up(5, generator_of(0))
    modality.check(batch)
    with torch.no_grad():
        prepared = encoder.prepare(batch)
        tokens = encoder.tokens(prepared)
        views = modality.views(batch, generator_of(1))
        features, _ = encoder.embed_views(views.stacks)
    assert tokens.shape == (5, {"series_tiny": 12, "text_tiny": 32, "video_tiny": 64}[name], 96)
    assert encoder.features(prepared).shape == (5, 96)
    assert features.shape == (2, 5, 96)
    assert views.leading == 2
    assert features.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_views_are_a_function_of_the_generator(name: str) -> None:
    modality = modality_of(name)
    batch = modality.made_up(5, generator_of(0))
    first, again, other = (modality.views(batch, generator_of(s)).stacks[0] for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first[0], first[1])


@pytest.mark.parametrize("name", NAMES)
def test_made_up_samples_repeat_and_differ_from_each_other(name: str) -> None:
    encoder, modality = encoder_of(name), modality_of(name)
    first, again = (modality.made_up(16, generator_of(3)) for _ in range(2))
    assert torch.equal(first, again)
    with torch.no_grad():
        features = encoder.features(encoder.prepare(first))
    assert torch.pdist(features).min() > 1e-3


BAD: dict[str, list[Callable[[Tensor], Tensor]]] = {
    "series_tiny": [
        lambda x: x.double(),
        lambda x: x[:, :-1],
        lambda x: x[..., :5],
        lambda x: x.index_fill(0, torch.tensor(1), torch.nan),  # a window of nothing
        lambda x: x.masked_fill(x == x[0, 0, 0], torch.inf),
    ],
    "text_tiny": [
        lambda x: x.int(),
        lambda x: x[:, :-1],
        lambda x: x.index_fill(0, torch.tensor(1), 0),  # empty
        lambda x: x.index_fill(1, torch.tensor(3), 0),  # NUL within
        lambda x: x.index_fill(1, torch.tensor(3), 0xFF),  # no UTF-8
    ],
    "video_tiny": [
        lambda x: x.float(),
        lambda x: x[:, :-1],
        lambda x: x[:, 0],
        lambda x: x.repeat(1, 1, 3, 1, 1),
        lambda x: x[..., :-8],
    ],
}


@pytest.mark.parametrize(("name", "number"), [(n, i) for n in NAMES for i in range(5)])
def test_an_unfit_batch_is_refused(name: str, number: int) -> None:
    modality = modality_of(name)
    batch = modality.made_up(4, generator_of(0))
    with pytest.raises(DataError):
        modality.check(BAD[name][number](batch))


@pytest.mark.parametrize(
    ("name", "keys", "told"),
    [
        ("series_tiny", {"length": 100}, "length = 100 is no multiple of patch = 8"),
        ("series_tiny", {"rate": None}, "wavelength is in seconds"),
        ("series_tiny", {"scale": [1.0]}, "1 numbers for 6 channels"),
        ("series_tiny", {"kernel": 4}, "kernel = 4 is even"),
        ("series_tiny", {"views": {"length": 200}}, "200 is more than length = 96"),
        ("text_tiny", {"length": 100}, "length = 100 is no multiple of patch = 6"),
        ("text_tiny", {"stride": 500}, "stride = 500 is more than"),
        ("text_tiny", {"views": {"share": [0.5, 0.2]}}, "not a range"),
        ("video_tiny", {"frames": 7}, "frames = 7 is no multiple of patch_frames = 2"),
        ("video_tiny", {"image_size": 30}, "image_size = 30 is no multiple"),
        ("video_tiny", {"views": {"time_scale": [0.0, 1.0]}}, "not a range"),
    ],
)
def test_sizes_that_do_not_fit_are_told(name: str, keys: dict[str, object], told: str) -> None:
    with pytest.raises(ConfigError, match=told.replace("[", r"\[")):
        changed(name, **keys)


def test_a_missing_value_is_neither_seen_nor_spread() -> None:
    encoder, modality = encoder_of("series_tiny"), modality_of("series_tiny")
    whole = modality.made_up(4, generator_of(0))
    holed = whole.clone()
    holed[:, 20:44, 2] = torch.nan
    modality.check(holed)
    prepared = encoder.prepare(holed)
    assert prepared.isfinite().all()
    assert (prepared[:, 20:44, 2] == 0).all()
    assert (prepared[:, 20:44, 8] == 0).all()  # which says that the zero is none
    features = encoder.features(prepared)
    assert features.isfinite().all()
    assert not torch.allclose(features, encoder.features(encoder.prepare(whole)))
    views = modality.views(holed, generator_of(1)).stacks[0]
    assert views.isfinite().all()


def test_a_window_that_ends_early_has_the_features_of_its_part() -> None:
    """At any model: what is not there is neither attended to nor pooled."""
    encoder, modality = encoder_of("series_tiny"), modality_of("series_tiny")
    window = modality.made_up(3, generator_of(0))
    window[:, 64:] = torch.nan
    prepared = encoder.prepare(window)
    features, part = encoder.features(prepared), encoder.features(prepared[:, :64])
    torch.testing.assert_close(features, part, rtol=0, atol=1e-5)
    assert (encoder.tokens(prepared)[:, 8:] == 0).all()
    assert not torch.allclose(features, encoder.tokens(prepared).mean(dim=1), atol=1e-2)


@pytest.mark.parametrize("padding", [6, 60, 120])
def test_padding_does_not_change_the_features_of_a_text(padding: int) -> None:
    encoder = encoder_of("text_tiny")
    texts = torch.zeros(3, 72, dtype=torch.uint8)
    whole = b"All human beings are born free and equal in dignity and rights. They are"
    for row, text in enumerate((whole, "Všichni lidé rodí se".encode(), b"a")):
        texts[row, : len(text)] = torch.tensor(list(text), dtype=torch.uint8)
    longer = torch.nn.functional.pad(texts, (0, padding))
    torch.testing.assert_close(encoder.features(longer), encoder.features(texts), rtol=0, atol=1e-5)


def test_a_text_has_the_features_it_has_beside_longer_ones() -> None:
    encoder, modality = encoder_of("text_tiny"), modality_of("text_tiny")
    batch = modality.made_up(4, generator_of(0))
    alone = encoder.features(batch[:1])
    torch.testing.assert_close(encoder.features(batch)[:1], alone, rtol=0, atol=1e-5)


def test_a_sample_without_any_data_is_finite_and_alone() -> None:
    """Views may lose all that a sample had; it must not become NaN."""
    encoder = encoder_of("series_tiny")
    nothing = torch.zeros(2, 64, 12, requires_grad=True)
    features = encoder.features(nothing)
    features.sum().backward()  # type: ignore[no-untyped-call]
    assert features.isfinite().all()
    assert nothing.grad is not None
    assert nothing.grad.isfinite().all()


def test_views_of_a_series_are_crops_that_leave_out_a_span() -> None:
    keys = {"length": 48, "noise": 0.0, "scaling": 0.0, "dropped": 0.0, "masked": 0.5}
    modality = changed("series_tiny", views=keys).modality()
    ramp = torch.arange(96.0)[:, None].expand(1000, 96, 6).contiguous()
    first = modality.views(ramp, generator_of(0)).stacks[0][0]
    values, known = first[..., 0], first[..., 6] > 0
    assert (known.sum(dim=1) == 24).all()
    starts = (values - torch.arange(48.0))[known].view(1000, 24)
    assert (starts == starts[:, :1]).all()  # a crop of the window, its steps in order
    assert starts.unique().numel() == 49  # at any place


def test_a_dropped_channel_is_missing_and_one_always_stays() -> None:
    modality = changed("series_tiny", views={"dropped": 1.0, "masked": 0.0}).modality()
    batch = modality.made_up(50, generator_of(0))
    known = modality.views(batch, generator_of(1)).stacks[0][0][..., 6:]
    assert (known[:, 0].sum(dim=1) == 1).all()
    assert (known == known[:, :1]).all()


def test_normalised_windows_do_not_know_their_channels_scale() -> None:
    modality = changed("series_tiny", normalise="window").modality()
    window = modality.made_up(3, generator_of(0))
    window[:, 5] = torch.nan
    scaled = window * torch.tensor([1.0, 2, 5, 10, 50, 100]) + 7
    one, two = modality.prepare(window), modality.prepare(scaled)
    torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-3)
    spoilt = window.clone()
    spoilt[:, 7] = 1e4  # a median does not mind one outlier
    torch.testing.assert_close(modality.prepare(spoilt)[:, 8:], one[:, 8:], rtol=0.3, atol=0.3)


def test_positions_of_a_series_are_in_seconds() -> None:
    """A patch of twice the steps at twice the rate lies at the same place."""
    slow = changed("series_tiny", patch=8, rate=50.0, length=96).modality().tokenizer(32)
    fast = changed("series_tiny", patch=16, rate=100.0, length=96).modality().tokenizer(32)
    for tokenizer in (slow, fast):
        torch.nn.init.zeros_(tokenizer.embed.weight)
        torch.nn.init.zeros_(tokenizer.embed.bias)
    assert torch.equal(slow(torch.zeros(1, 48, 12)), fast(torch.zeros(1, 96, 12)))
    first, later = slow(torch.zeros(1, 96, 12))[0][[0, 1]]
    assert not torch.equal(first, later)


def test_views_of_a_text_are_spans_between_characters() -> None:
    modality = changed("text_tiny", views={"share": [0.2, 0.6], "masked": 0.0}).modality()
    text = "Ăлкă ҫынсем 自由平等 ครบถ้วน, i dh'ç a b c d e f g"
    raw = text.encode()
    batch = torch.zeros(300, 192, dtype=torch.uint8)
    batch[:, : len(raw)] = torch.tensor(list(raw), dtype=torch.uint8)
    seen = set()
    for row in modality.views(batch, generator_of(0)).stacks[0][1]:
        span = bytes(row.tolist()).rstrip(b"\0").decode("utf-8")  # no character is cut
        assert span
        assert span in text
        seen.add(span)
    assert len(seen) > 100
    assert any(text.startswith(span) for span in seen)
    assert any(text.endswith(span) for span in seen)


def test_masked_bytes_are_no_padding() -> None:
    modality = changed("text_tiny", views={"share": [1.0, 1.0], "masked": 0.3}).modality()
    batch = modality.made_up(100, generator_of(0))
    view = modality.views(batch, generator_of(1)).stacks[0][0]
    assert torch.equal(view == 0, batch == 0)
    masked = (view == 0xFF)[batch != 0].float().mean()
    assert 0.27 < masked < 0.33


def test_all_frames_of_a_view_have_the_same_crop_and_light() -> None:
    keys = {**load_recipe("video_tiny").modality().recipe.views.model_dump(), "jitter": 1.0}
    modality = changed("video_tiny", views=keys).modality()
    frame = modality_of("video_tiny").made_up(6, generator_of(0))[:, :1]
    still = frame.expand(-1, 8, -1, -1, -1).contiguous()
    view = modality.views(still, generator_of(1)).stacks[0][0]
    torch.testing.assert_close(view, view[:, :1].expand_as(view), rtol=0, atol=1e-5)
    assert not torch.allclose(view[:, 0], modality.prepare(still)[:, 0], atol=0.05)


def test_a_view_of_a_video_is_a_part_of_its_time() -> None:
    keys = {"global_scale": [1.0, 1.0], "flip": 0.0, "jitter": 0.0, "grey": 0.0, "blur": 0.0}
    keys |= {"solarize": 0.0, "time_scale": [0.5, 0.5]}
    modality = changed("video_tiny", views=keys).modality()
    brighter = (torch.arange(8) * 30).to(torch.uint8)[None, :, None, None, None]
    clips = brighter.expand(100, 8, 1, 32, 32).contiguous()
    view = modality.views(clips, generator_of(0)).stacks[0][0][:, :, 0, 5, 5]
    times = (view + 1) * 127.5 / 30  # the frame each was taken from
    steps = times.diff(dim=1)
    torch.testing.assert_close(steps, torch.full_like(steps, 0.5), rtol=0, atol=1e-3)
    assert times[:, 0].min() < 0.3
    assert times[:, 0].max() > 3.2


def test_positions_of_a_video_tell_time_row_and_column_apart() -> None:
    tokenizer = modality_of("video_tiny").tokenizer(96)
    torch.nn.init.zeros_(tokenizer.embed.weight)
    torch.nn.init.zeros_(tokenizer.embed.bias)
    placed = tokenizer(torch.zeros(1, 8, 1, 32, 32))[0]
    assert torch.pdist(placed).min() > 0.1
    grid = placed.view(4, 4, 4, 96)
    for axis, part in enumerate((slice(0, 32), slice(32, 64), slice(64, 96))):
        one_plane = grid.movedim(axis, 0)[..., part].flatten(1, 2)
        assert torch.equal(one_plane, one_plane[:, :1].expand_as(one_plane))


def test_tubelets_hold_the_pixels_of_their_place() -> None:
    tokenizer = modality_of("video_tiny").tokenizer(96)
    clip = torch.zeros(1, 8, 1, 32, 32)
    before = tokenizer(clip)
    clip[0, 3, 0, 9, 31] = 1.0  # tubelet 1 in time, row 1, column 3
    moved = (tokenizer(clip) != before).any(dim=2)[0]
    assert moved.nonzero().flatten().tolist() == [1 * 16 + 1 * 4 + 3]


@pytest.mark.parametrize("name", NAMES)
def test_training_lowers_the_loss_and_the_probe_reads_the_features(name: str) -> None:
    recipe = changed(name)
    recipe = recipe.model_copy(update={"inner": recipe.inner.model_copy(update={"batch_size": 16})})
    source = two_kinds(name, 64)
    trainer = LocalTrainer(recipe, BatchStream(source, 16, seed=1).batch)
    base = ParameterVector.of(build_jepa(recipe, seed=0))
    local = LocalSteps(0, STEPS, STEPS, seed=1, node_seed=2)
    losses: list[float] = []
    trained, report = trainer.train(base, local, lambda step: losses.append(step.loss))
    assert sum(losses[-8:]) < 0.8 * sum(losses[:8])
    assert report.health.collapse < 0.2
    again = LocalTrainer(recipe, BatchStream(source, 16, seed=1).batch)
    assert again.train(base, replace(local, steps=3))[0].digest != trained.digest

    found = evaluate_model(trainer.encoder, source, two_kinds(name, 40))
    assert found.pooled is not None
    assert found.pooled >= 90
    assert np.isfinite(evaluate_raw(modality_of(name), source, source).tokens)
    labelled = embed(trainer.encoder, source)
    assert labelled.pooled.shape == (64, 96)
