"""Objects: the pieces that Flower carries, and how large an honest one can be.

Without tensors, so that the SuperLink starts at once and stays small: it bounds what it reads by
this, and a killed one is missed by everybody until it is back.
"""

from __future__ import annotations

from gobelin.protocols.messages import MAX_BYTES

CHUNK = 5 * 2**20  # bytes of an array that Flower puts into one object
MOST_OF_ONE = CHUNK + MAX_BYTES  # bytes of any one object
