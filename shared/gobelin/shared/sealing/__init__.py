"""Sealing: deltas leave their nodes under masks that cancel in the sum, and in nothing else."""

from gobelin.shared.sealing.masks import Mask, add_masks, masked_digest
from gobelin.shared.sealing.peer import Peer, PeerState
from gobelin.shared.sealing.ring import Ring, bits_for, threshold_of
from gobelin.shared.sealing.tally import survivors_digest, unmasking

__all__ = [
    "Mask",
    "Peer",
    "PeerState",
    "Ring",
    "add_masks",
    "bits_for",
    "masked_digest",
    "survivors_digest",
    "threshold_of",
    "unmasking",
]
