"""States read out of latents, so that guardrails can speak of positions instead of latents."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gobelin.shared.data.npz import npz_files, read_npz
from gobelin.shared.data.source import MEMORY
from gobelin.shared.errors import DataError
from gobelin.shared.model.world_model import WorldModel
from gobelin.shared.planning.readout import LinearReadout
from gobelin.shared.worldmodel.observation import observation_of

OBSERVATIONS, STATES = "observations", "states"
ROWS = 4096  # observations a readout is fitted on and tested with, at most
HELD_OUT = 4  # every so many-th tests it
BATCH = 256


@dataclass(frozen=True, eq=False)
class StateReadout:
    """latents → states, and its root mean square error (R,) on observations held out."""

    readout: LinearReadout
    error: Tensor

    @property
    def size(self) -> int:
        """R."""
        return len(self.error)


@torch.no_grad()
def fit_states(model: WorldModel, path: Path, device: str = "cpu") -> StateReadout:
    """Fitted on .npz episodes with `states`, rows beside their `observations`; raises DataError."""
    seen, states = _rows(path)
    if len(seen) < 2 * HELD_OUT:
        raise DataError(
            f"{path} has {len(seen)} observations with states", "give episodes with more"
        )
    pictures = torch.stack([observation_of(row, model.form) for row in seen])
    latents = torch.cat(
        [model.encode(part.to(device)).cpu() for part in torch.split(pictures, BATCH)]
    )
    values = torch.from_numpy(states)
    tested = torch.arange(len(values)) % HELD_OUT == 0
    readout = LinearReadout.fit(latents[~tested], values[~tested])
    return StateReadout(readout, readout.error(latents[tested], values[tested]).float())


def _rows(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """At most ROWS observations (N, ...) and states (N, R), spread evenly over the files."""
    files = npz_files(path)
    if not files:
        raise DataError(f"{path} holds no .npz episodes", "write them with `gobelin data prepare`")
    share = max(1, ROWS // len(files))
    seen, states = [], []
    for file in files[:ROWS]:
        arrays = read_npz(file, MEMORY)
        observations, own = arrays.get(OBSERVATIONS), arrays.get(STATES)
        if observations is None or own is None:
            raise DataError(f"{file} has no `{OBSERVATIONS}` and `{STATES}`", "name the arrays so")
        lead = own.ndim - 1  # episode and time, or time alone
        if lead not in (1, 2) or own.shape[:-1] != observations.shape[:lead]:
            what = f"{file}: states {own.shape} beside observations {observations.shape}"
            raise DataError(what, "give a state for each observation")
        flat = own.reshape(-1, own.shape[-1])
        chosen = np.unique(np.linspace(0, len(flat) - 1, share).astype(np.int64))
        seen.append(observations.reshape(-1, *observations.shape[lead:])[chosen])
        states.append(flat[chosen].astype(np.float32))
    if len({part.shape[1] for part in states}) > 1:
        raise DataError(f"{path}: states of several widths", "give files of one kind")
    return np.concatenate(seen), np.concatenate(states)
