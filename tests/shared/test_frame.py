"""The frame between two models' features."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from gobelin.shared.errors import ShapeError
from gobelin.shared.frame import Frame
from gobelin.shared.health import frame_rotation
from gobelin.shared.seeds import generator_of


def cloud(seed: int, samples: int, dim: int) -> Tensor:
    return torch.randn(samples, dim, generator=generator_of(seed, "cloud")) + 3


def rotation(seed: int, dim: int) -> Tensor:
    return torch.linalg.qr(cloud(seed, dim, dim).double()).Q.float()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.integers(2, 12))
def test_a_turned_cloud_is_carried_back(seed: int, dim: int) -> None:
    """Up to the little by which a frame is held where it is."""
    reference = cloud(seed, 50 * dim, dim)
    features = reference @ rotation(seed + 1, dim)
    frame = Frame.between(features, reference)
    eye = torch.eye(dim)
    assert torch.allclose(frame.rotation @ frame.rotation.T, eye, atol=1e-5)
    assert torch.allclose(frame.apply(features), reference, atol=0.05)


def test_a_quarter_turn_by_hand() -> None:
    """(1, 0) → (0, 1), (0, 1) → (−1, 0): features are the reference turned by 90°."""
    reference = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
    features = torch.tensor([[0.0, 1.0], [-1.0, 0.0], [0.0, -1.0], [1.0, 0.0]])
    frame = Frame.between(features, reference)
    assert torch.allclose(frame.rotation, torch.tensor([[0.0, -1.0], [1.0, 0.0]]), atol=2e-3)
    assert frame_rotation(features, reference) == pytest.approx(90)
    assert frame_rotation(frame.apply(features), reference) == pytest.approx(0, abs=0.2)


def test_what_the_samples_do_not_show_is_left_alone() -> None:
    """Three samples in eight dimensions, the last six of which never change."""
    reference = torch.zeros(3, 8)
    reference[:, :2] = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]])
    turned = reference.clone()
    turned[:, :2] = reference[:, :2] @ torch.tensor([[0.0, 1.0], [-1.0, 0.0]])
    assert torch.allclose(Frame.between(turned, reference).rotation[2:, 2:], torch.eye(6))
    assert torch.equal(Frame.between(0 * turned, reference).rotation, torch.eye(8))


def test_no_data_stay_no_data() -> None:
    """Absent tokens are zeros, and a head that counts them must not see them move."""
    frame = Frame.between(cloud(0, 40, 4), cloud(1, 40, 4))
    assert torch.equal(frame.apply(torch.zeros(3, 4)), torch.zeros(3, 4))


def test_a_linear_map_reads_through_the_frame() -> None:
    """As if the features of each of three tokens had been carried over first."""
    frame = Frame.between(cloud(0, 40, 4), cloud(1, 40, 4))
    weight = cloud(2, 5, 12)
    tokens = cloud(4, 6 * 3, 4).unflatten(0, (6, 3))
    told = F.linear(frame.apply(tokens).flatten(1), weight)
    assert torch.allclose(F.linear(tokens.flatten(1), frame.into(weight)), told, atol=1e-4)


def test_other_samples_have_no_frame() -> None:
    with pytest.raises(ShapeError, match="same samples"):
        Frame.between(cloud(0, 5, 3), cloud(0, 6, 3))
