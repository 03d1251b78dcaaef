"""Worlds: small ones with exact dynamics and pictures, to train and judge world models on."""

from gobelin.shared.worlds.two_room import REGIONS, WORLD, Box, Episodes, TwoRoom

__all__ = ["REGIONS", "WORLD", "Box", "Episodes", "TwoRoom"]
