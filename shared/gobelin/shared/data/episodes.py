"""Episodes of .npz and HDF5 files: windows of T steps, each inside one episode."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from gobelin.shared.data.bad_input import BadInput, OnBad
from gobelin.shared.data.formats import TrajectoryFormat
from gobelin.shared.data.npz import npz_files, read_npz
from gobelin.shared.data.trajectories import Trajectories
from gobelin.shared.data.windows import starts_of
from gobelin.shared.errors import ConfigError, DataError

HDF5 = frozenset((".h5", ".hdf5"))
OBSERVATIONS, ACTIONS, LENGTHS, STATES = "observations", "actions", "lengths", "states"
OPEN = 16  # files at a time
CHECKED = 2**16  # rows looked at together
BLOCK = 64  # neighbouring windows of HDF5 files, which read by chunks

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Group:
    """Episodes that lie together: arrays, or HDF5 data sets, of one of three layouts.

    Stacked: observations (E, T + 1, ...), actions (E, T, A). In a row: (rows, ...) and (rows, A)
    with `lengths` (E,), the actions of each episode. One episode: (T + 1, ...) and (T, A).
    There may be as many observations as actions; the last action then leads nowhere. `states`,
    where they were recorded, lie as the observations do: for evaluation alone.
    """

    name: str
    observations: Any
    actions: Any
    lengths: npt.NDArray[Any] | None
    states: Any = None


@dataclass(frozen=True)
class Episode:
    """Where one episode lies."""

    name: str
    file: int
    group: int
    stacked: int | None  # its number, where episodes are stacked
    observation: int  # its first row
    action: int
    steps: int


Read = Callable[[Path, int, bool], list[Group]]  # file, memory, whether into memory


def finds_hdf5(path: Path) -> bool:
    """Whether `path` is an HDF5 file, or a folder with some."""
    return bool(_hdf5_files(path))


def open_npz_episodes(
    path: Path, form: TrajectoryFormat, memory: int, on_bad: OnBad
) -> EpisodeSource:
    """Open .npz files with the arrays of a Group; raises DataError."""
    return EpisodeSource(path, npz_files(path), _read_npz, form, memory, on_bad, None)


def open_hdf5_episodes(
    path: Path, form: TrajectoryFormat, memory: int, on_bad: OnBad
) -> EpisodeSource:
    """Open HDF5 files; every HDF5 group with `observations` and `actions` is a Group."""
    return EpisodeSource(path, _hdf5_files(path), _read_hdf5, form, memory, on_bad, BLOCK)


class EpisodeSource:
    """Windows of episodes. Files are kept in memory where all fit, else read when they are used."""

    labels = None
    class_names = None

    def __init__(
        self,
        path: Path,
        files: list[Path],
        read: Read,
        form: TrajectoryFormat,
        memory: int,
        on_bad: OnBad,
        block: int | None,
    ) -> None:
        self._files, self._read, self._form = files, read, form
        self._memory = memory // OPEN  # of one file
        self.skipped = BadInput(on_bad)
        self._opened: OrderedDict[int, list[Group]] = OrderedDict()
        self._loaded = False
        self._episodes: list[Episode] = []
        size = 0
        for number, file in enumerate(files):
            for place, group in enumerate(self._groups(number)):
                self._add(file.name, number, place, group)
                size += group.observations.nbytes + group.actions.nbytes
        starts = [starts_of(e.steps, form.steps, form.stride) for e in self._episodes]
        if not starts:
            raise DataError(f"{path} holds no episode that can be used", "point at other data")
        self._owners = np.repeat(np.arange(len(starts)), [len(s) for s in starts])
        self._starts = np.concatenate(starts)
        if size <= memory:
            self._loaded = True
            self._opened.clear()  # to be opened anew, into memory
        self.block = None if self._loaded else block if len(files) <= OPEN else BLOCK

    def __len__(self) -> int:
        return len(self._starts)

    def read(self, indices: Indices) -> Trajectories:
        """The windows at `indices` (B,)."""
        form, count = self._form, len(indices)
        kind = np.float32 if form.image_size is None else np.uint8
        observations = np.empty((count, form.steps + 1, *form.shape), dtype=kind)
        actions = np.empty((count, form.steps, form.actions), dtype=np.float32)
        for row in np.argsort(indices, kind="stable"):  # a file after the other
            episode = self._episodes[self._owners[indices[row]]]
            seen, done = self._part(episode, int(self._starts[indices[row]]), form.steps)
            observations[row], actions[row] = seen, done
        return Trajectories(torch.from_numpy(observations), torch.from_numpy(actions))

    @property
    def episodes(self) -> Sequence[Episode]:
        """The episodes that can be used, in the order their windows are in."""
        return self._episodes

    def part(self, number: int, start: int, steps: int) -> Trajectories:
        """So many steps of one episode, from its step `start` on, as a batch of one."""
        seen, done = self._part(self._episodes[number], start, steps)
        kind = np.float32 if self._form.image_size is None else np.uint8
        return Trajectories(
            torch.from_numpy(np.array(seen, dtype=kind))[None],
            torch.from_numpy(np.array(done, dtype=np.float32))[None],
        )

    def states(self, number: int, start: int, steps: int) -> npt.NDArray[np.float64] | None:
        """The world's states (T + 1, S) in so many steps of one episode; None if not recorded."""
        episode = self._episodes[number]
        held = self._groups(episode.file)[episode.group].states
        if held is None:
            return None
        first = episode.observation + start
        found = _rows(held, episode.stacked, first, first + steps + 1).astype(np.float64)
        return found.reshape(len(found), -1)

    def _part(
        self, episode: Episode, start: int, steps: int
    ) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Observations (T + 1, ...) and actions (T, A) as they are stored, channels first."""
        group = self._groups(episode.file)[episode.group]
        first = episode.observation + start
        seen = _rows(group.observations, episode.stacked, first, first + steps + 1)
        first = episode.action + start
        done = _rows(group.actions, episode.stacked, first, first + steps)
        return _channels_first(seen, self._form), done

    def _groups(self, number: int) -> list[Group]:
        """The groups of one file; the last few files are kept open."""
        if number not in self._opened:
            self._opened[number] = self._read(self._files[number], self._memory, self._loaded)
            if len(self._opened) > OPEN and not self._loaded:
                self._opened.popitem(last=False)
        self._opened.move_to_end(number)
        return self._opened[number]

    def _add(self, file: str, number: int, place: int, group: Group) -> None:
        """Add the episodes of a group that can be trained on."""
        where = f"{file}, {group.name}" if group.name else file
        flaw = _flaw(group, self._form)
        if flaw:
            self.skipped.meet(where, flaw)
            return
        for episode in _episodes(where, number, place, group):
            flaw = ""
            if episode.steps < 1:
                flaw = "an empty episode"
            elif episode.steps < self._form.steps:
                flaw = "an episode shorter than a window"
            elif not _is_finite(group, episode):
                flaw = "an episode with values that are not finite"
            if flaw:
                self.skipped.meet(episode.name, flaw)
            else:
                self._episodes.append(episode)


def _flaw(group: Group, form: TrajectoryFormat) -> str:
    """What is wrong with all of a group, or ""."""
    seen, done = group.observations, group.actions
    stacked = done.ndim == 3
    before = 2 if stacked else 1  # dimensions of episode and time
    shapes = {form.shape}
    if form.image_size is not None:
        shapes.add((form.image_size, form.image_size, form.channels))
    if done.ndim not in (2, 3) or done.shape[-1] != form.actions or done.dtype.kind not in "fiu":
        return f"a set of actions of another width than {form.actions}"
    if tuple(seen.shape[before:]) not in shapes:
        return f"a set of observations that are not {' x '.join(map(str, form.shape))}"
    if (form.image_size is not None) != (seen.dtype == np.uint8) or seen.dtype.kind not in "fiu":
        return f"a set of observations that are no {form.observation}"
    if stacked:
        fits = seen.shape[0] == done.shape[0] and seen.shape[1] - done.shape[1] in (0, 1)
    elif group.lengths is None:
        fits = len(seen) - len(done) in (0, 1)
    else:
        whole = group.lengths.ndim == 1 and group.lengths.dtype.kind in "iu"
        fits = whole and int(group.lengths.sum()) == len(done) and (group.lengths >= 0).all()
        fits = fits and len(seen) - len(done) in (0, len(group.lengths))
    if not fits:
        return "a set of episodes whose observations and actions do not match"
    known = group.states
    if known is not None and tuple(known.shape[:before]) != tuple(seen.shape[:before]):
        return "a set of episodes whose observations and states do not match"
    return ""


def _episodes(where: str, file: int, place: int, group: Group) -> list[Episode]:
    """The episodes of a group, whatever their length."""
    seen, done = group.observations, group.actions
    if done.ndim == 3:
        steps = seen.shape[1] - 1
        return [
            Episode(f"{where}, episode {e}", file, place, e, 0, 0, steps) for e in range(len(done))
        ]
    if group.lengths is None:
        return [Episode(where, file, place, None, 0, 0, len(seen) - 1)]
    more = int(len(seen) > len(done))  # observations of an episode beyond its actions
    episodes, observation, action = [], 0, 0
    for e, length in enumerate(group.lengths.tolist()):
        steps = length + more - 1
        episodes.append(
            Episode(f"{where}, episode {e}", file, place, None, observation, action, steps)
        )
        observation, action = observation + length + more, action + length
    return episodes


def _is_finite(group: Group, episode: Episode) -> bool:
    """Whether all actions, and observations where they are vectors, are finite as float32."""
    columns = [(group.actions, episode.action, episode.steps)]
    if group.observations.dtype != np.uint8:
        columns.append((group.observations, episode.observation, episode.steps + 1))
    for array, first, rows in columns:
        for start in range(first, first + rows, CHECKED):
            stop = min(start + CHECKED, first + rows)
            with np.errstate(over="ignore"):
                part = np.asarray(_rows(array, episode.stacked, start, stop), dtype=np.float32)
            if not np.isfinite(part).all():
                return False
    return True


def _rows(array: Any, stacked: int | None, start: int, stop: int) -> npt.NDArray[Any]:
    rows: npt.NDArray[Any] = array[start:stop] if stacked is None else array[stacked, start:stop]
    return rows


def _channels_first(seen: npt.NDArray[Any], form: TrajectoryFormat) -> npt.NDArray[Any]:
    """Pixels (T + 1, H, W, C) as (T + 1, C, H, W); others as they are."""
    return seen if seen.shape[1:] == form.shape else np.moveaxis(seen, -1, 1)


def _read_npz(file: Path, memory: int, load: bool) -> list[Group]:
    arrays = read_npz(file, memory)
    if OBSERVATIONS not in arrays or ACTIONS not in arrays:
        found = ", ".join(sorted(arrays)) or "no array"
        what = f"{file} holds {found}, no `{OBSERVATIONS}` and `{ACTIONS}`"
        raise DataError(what, "name the arrays so")
    seen, done = (arrays[name] for name in (OBSERVATIONS, ACTIONS))
    if load:
        seen, done = np.array(seen), np.array(done)
    return [Group("", seen, done, arrays.get(LENGTHS), arrays.get(STATES))]


def _read_hdf5(file: Path, memory: int, load: bool) -> list[Group]:
    h5py = _h5py()
    groups: list[Group] = []

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Group) and OBSERVATIONS in item and ACTIONS in item:
            seen, done = item[OBSERVATIONS], item[ACTIONS]
            lengths = np.asarray(item[LENGTHS]) if LENGTHS in item else None
            states = item.get(STATES)
            if load:
                seen, done = seen[()], done[()]
                states = None if states is None else states[()]
            groups.append(Group(name, seen, done, lengths, states))

    try:
        opened = h5py.File(file, "r", rdcc_nbytes=max(2**20, memory // 2))
        visit("", opened)
        opened.visititems(visit)
    except (OSError, KeyError, RuntimeError) as error:
        what = f"{file} is no HDF5 file that can be read ({type(error).__name__})"
        raise DataError(what, "write it again, or leave it out") from None
    if not groups:
        what = f"{file} has no HDF5 group with `{OBSERVATIONS}` and `{ACTIONS}`"
        raise DataError(what, "name the data sets so")
    return groups


def _hdf5_files(path: Path) -> list[Path]:
    if path.is_file():
        return [path] if path.suffix in HDF5 else []
    if not path.is_dir():
        return []
    return sorted(p for p in path.iterdir() if p.suffix in HDF5 and p.is_file())


def _h5py() -> Any:
    try:
        import h5py
    except ImportError:
        raise ConfigError(
            "HDF5 files need h5py, which is not installed", "pip install 'gobelin[hdf5]'"
        ) from None
    return h5py
