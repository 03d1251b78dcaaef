"""The random numbers of a search: one stream a plan, the same on every device."""

from __future__ import annotations

import torch
from torch import Tensor

from gobelin.shared.planning.problem import Problem
from gobelin.shared.seeds import generator_of


class Noise:
    """Standard normal noise for the candidates of a problem, (1, S, H, A) at a time.

    All problems of a batch see the same numbers, so that what is found for one does not depend on
    which others are planned beside it. Drawn on the CPU, so that devices agree.
    """

    def __init__(self, problem: Problem, seed: int) -> None:
        self.problem = problem
        self.random = generator_of(seed, "plan")

    def white(self, samples: int) -> Tensor:
        """Independent steps."""
        _, horizon, size = self.problem.shape
        noise = torch.randn(1, samples, horizon, size, generator=self.random)
        return noise.to(self.problem.start)

    def coloured(self, samples: int, colour: float) -> Tensor:
        """Unit variance, and a power spectrum 1 / f^colour over the horizon.

        Timmer & König 1995: white noise shaped in the frequency domain, as iCEM has it.
        """
        horizon = self.problem.horizon
        noise = self.white(samples)
        if horizon < 3 or not colour:
            return noise
        frequencies = torch.fft.rfftfreq(horizon, device=noise.device)
        frequencies[0] = frequencies[1]  # no infinite power at rest
        shape = frequencies ** (-colour / 2)
        spectrum = torch.fft.rfft(noise.float(), dim=2) * shape[:, None]
        # of H samples, the middle frequencies count twice, the first and an even last one once
        twice = torch.full_like(shape, 2.0)
        twice[0] = 1.0
        if horizon % 2 == 0:
            twice[-1] = 1.0
        power = (twice * shape.square()).sum() / horizon
        made: Tensor = torch.fft.irfft(spectrum, n=horizon, dim=2) / power.sqrt()
        return made.to(noise)
