"""Poisson sampling: every sample is in every step's batch by a toss of its own.

It is what the accountant counts (`accounting`): shuffled epochs, as other training here has, are
another mechanism, whose ε nobody can tell as tightly. Nobody may know who was drawn, so the tosses
come from the node's secret.
"""

from __future__ import annotations

from typing import Generic

import numpy as np
import numpy.typing as npt

from gobelin.client.privacy.noise import Secret
from gobelin.shared.data import Source
from gobelin.shared.data.source import Samples_co
from gobelin.shared.errors import PrivacyError


class PoissonStream(Generic[Samples_co]):
    """Batches of `expected` samples on average: a pure function of secret and step."""

    def __init__(self, source: Source[Samples_co], expected: int, secret: Secret) -> None:
        if expected >= len(source):
            raise PrivacyError(
                f"batches of {expected} on average, of {len(source)} samples",
                "lower privacy.batch_size in node.toml, or bring more data",
            )
        self._source, self._secret = source, secret
        self.probability = expected / len(source)  # q

    def batch(self, step: int) -> Samples_co:
        """The batch of `step`, which may be empty."""
        chosen = self.indices(step)
        if len(chosen):
            return self._source.read(chosen)
        return self._source.read(np.zeros(1, np.int64))[:0]  # type: ignore[return-value]

    def indices(self, step: int) -> npt.NDArray[np.int64]:
        """Who is in the batch of `step`: (B,), ascending."""
        tosses = self._secret.derive("batch", step).uniform(len(self._source))
        return np.flatnonzero(tosses < self.probability)
