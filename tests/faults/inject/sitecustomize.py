"""Ends the process it is in by kill −9, at a chosen operation. For tests: production has no hooks.

Python imports a `sitecustomize` it finds on its path before anything else. This one wraps what
matters to a crash-only program: durable file operations, requests, SQLite commits, starts of
processes. `$GOBELIN_FAULTS` names a folder: `plan` in it holds one point a line,
`process:op:site:n:phase`, and the first that is not in `reached/` yet is looked out for. The n-th
time that its process comes by, counted from when the point was first in line or the process
started, the point is noted in `reached/` and the process is gone. Folders that were renamed into
place are noted in `renamed`; with a file `counting` there, every operation is in `counts/`. `pids/`
has the last process of each name. Paths are those below `$GOBELIN_FAULTS_ROOT`.

Linux only: paths of file descriptors come from /proc.
"""

from __future__ import annotations

import atexit
import ctypes
import functools
import importlib.abc
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from process_names import process_name

DIGITS = re.compile(r"\d+")
TEMPORARY = re.compile(r"(?<=\.)[a-z0-9_]{8}(?=/|$)")  # what tempfile puts behind our prefixes
FINGERPRINT = re.compile(r"[0-9a-f]{16,}")
TORN_BYTES = 7  # what a torn append lacks


class Faults:
    """The plan of this process, and how far it has come."""

    def __init__(self, folder: Path, root: Path, process: str) -> None:
        self._folder = folder
        self._root = root
        self._process = process
        self._counting = (folder / "counting").exists()
        self._lock = threading.RLock()
        self._index = -1
        self._point: tuple[str, str, str] | None = None
        self._left = 0
        self._plan = (folder / "plan").read_text().split()
        (folder / "pids" / process).write_text(str(os.getpid()))
        self._advance()

    def path_site(self, path: str | Path) -> str:
        """A path below the root, without what differs from run to run; '' for any other."""
        path = Path(path).absolute()
        if self._root not in path.parents:
            return ""
        site = str(path.relative_to(self._root)).removeprefix(f"nodes/{self._process}/")
        site = TEMPORARY.sub("tmp", FINGERPRINT.sub("H", site))
        return DIGITS.sub("N", site).replace(":", "_")

    def descriptor_site(self, fd: int) -> str:
        """The site of an open file or folder."""
        return self.path_site(Path(f"/proc/self/fd/{fd}").readlink())

    def at(self, op: str, site: str, phase: str) -> None:
        """Come by an operation; does not return when this is the point."""
        if self.due(op, site, phase):
            os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(60)  # never: the signal is for this very process

    def due(self, op: str, site: str, phase: str) -> bool:
        """Whether this is the point; it counts as reached then."""
        if not site:
            return False
        with self._lock:
            if self._counting and phase == "before":
                self._note(op, site)
            self._advance()
            if self._point != (op, site, phase):
                return False
            self._left -= 1
            return not self._left and self._claim()

    def note_renamed(self, path: Path) -> None:
        """Note a folder that is in place now, under its own name."""
        if path.is_dir() and self.path_site(path):
            with (self._folder / "renamed").open("a") as renamed:
                renamed.write(f"{path.absolute().relative_to(self._root)}\n")

    def _note(self, op: str, site: str) -> None:
        with (self._folder / "counts" / f"{self._process}.{os.getpid()}").open("a") as counts:
            counts.write(f"{time.time():.3f} {op} {site}\n")

    def _advance(self) -> None:
        """Look at the first point that nobody has reached; it may be another process's."""
        index = max(self._index, 0)
        while index < len(self._plan) and (self._folder / "reached" / str(index)).exists():
            index += 1
        if index == self._index:
            return
        self._index, self._point = index, None
        if index < len(self._plan):
            process, op, site, n, phase = self._plan[index].split(":")
            if process == self._process:
                self._point, self._left = (op, site, phase), int(n)

    def _claim(self) -> bool:
        """Take the point, unless another process of the same name was first."""
        try:
            (self._folder / "reached" / str(self._index)).touch(exist_ok=False)
        except FileExistsError:
            return False
        return True


def around(function, op, site_of, went_well=lambda result: True):
    """A function that comes by before, and after where it went well."""

    @functools.wraps(function)
    def wrapped(*args, **kwargs):
        site = site_of(*args, **kwargs)
        faults.at(op, site, "before")
        result = function(*args, **kwargs)
        if went_well(result):
            faults.at(op, site, "after")
        return result

    return wrapped


def tearing(function, op, site_of, tear):
    """As `around`, and `tear` undoes a part of the work where the point says `torn`."""
    whole = around(function, op, site_of)

    @functools.wraps(function)
    def wrapped(*args, **kwargs):
        site = site_of(*args, **kwargs)
        if site and faults.due(op, site, "torn"):
            tear(function, *args, **kwargs)
            os.kill(os.getpid(), signal.SIGKILL)
        return whole(*args, **kwargs)

    return wrapped


def tear_append(fsync, fd):
    """A kill inside the write of an appended line: its end is missing."""
    os.truncate(f"/proc/self/fd/{fd}", os.fstat(fd).st_size - TORN_BYTES)


def tear_file(write, path, *args, **kwargs):
    """A kill inside the write of a whole file: half of it is there."""
    write(path, *args, **kwargs)
    os.truncate(path, Path(path).stat().st_size // 2)


def tear_save(save, tensors, path, *args, **kwargs):
    """The same of a safetensors file."""
    save(tensors, path, *args, **kwargs)
    os.truncate(path, Path(path).stat().st_size // 2)


def wrap_files() -> None:
    """Flushes, renames, removals and whole files."""

    def relative(path, *, dir_fd=None, **_):
        folder = Path(f"/proc/self/fd/{dir_fd}").readlink() if dir_fd is not None else Path()
        return faults.path_site(folder / path)

    def target(source, path, **_):
        return faults.path_site(path)

    def named(path, *args, **kwargs):
        return faults.path_site(path)

    flush = around(os.fsync, "fsync", faults.descriptor_site)
    append = tearing(os.fsync, "append", faults.descriptor_site, tear_append)

    def fsync(fd):
        return (append if faults.descriptor_site(fd).endswith(".jsonl") else flush)(fd)

    os.fsync = fsync

    def noted(rename):
        def renaming(source, path, **options):
            rename(source, path, **options)
            faults.note_renamed(Path(path))

        return renaming

    os.replace = around(noted(os.replace), "rename", target)
    os.rename = around(noted(os.rename), "rename", target)
    os.unlink = around(os.unlink, "unlink", relative)
    os.rmdir = around(os.rmdir, "rmdir", relative)
    shutil.rmtree = around(shutil.rmtree, "rmtree", named)
    Path.write_bytes = tearing(Path.write_bytes, "write", named, tear_file)


def wrap_exchange(module) -> None:
    """Folders that take each other's place, by a system call that `os` does not have."""

    def target(filled, path):
        return faults.path_site(path)

    def exchanging(filled, path):
        done = exchange(filled, path)
        if done:
            faults.note_renamed(path)
        return done

    exchange = module._exchange
    module._exchange = around(exchanging, "rename", target, bool)


def wrap_safetensors(module) -> None:
    """Model files, which Rust writes."""

    def saved(tensors, path, *args, **kwargs):
        return faults.path_site(path)

    module.save_file = tearing(module.save_file, "write", saved, tear_save)


def wrap_grpc(module) -> None:
    """Requests of the node: the last hand before the wire, the first behind it."""
    calls = module._UnaryUnaryMultiCallable

    def method(call, *args, **kwargs):
        return call._method.decode().rsplit("/", 1)[-1]

    def answered(result):
        return result[0].code is module.grpc.StatusCode.OK

    calls._blocking = around(calls._blocking, "grpc", method, answered)


def wrap_grpc_server(module) -> None:
    """Answers of our own service: before one is made, and before it is sent."""

    def method(event, state, behavior, *args, **kwargs):
        return behavior.__name__

    module._call_behavior = around(module._call_behavior, "answer", method)


def wrap_httpx(module) -> None:
    """Requests between the engine's own processes."""

    def path(client, request, **kwargs):
        return DIGITS.sub("N", request.url.path.rsplit("/", 1)[-1])

    module.Client.send = around(module.Client.send, "http", path, lambda got: got.is_success)


def wrap_sqlite() -> None:
    """Commits of the SuperLink that change anything, by the name of what in Flower commits."""
    import sqlite3

    class Connection(sqlite3.Connection):
        committed = 0

        def commit(self) -> None:
            site = committing() if self.total_changes > self.committed else ""
            faults.at("commit", site, "before")
            super().commit()
            self.committed = self.total_changes
            faults.at("commit", site, "after")

    def connect(*args, **kwargs):
        return original(*args, **{"factory": Connection, **kwargs})

    original = sqlite3.dbapi2.connect
    sqlite3.connect = sqlite3.dbapi2.connect = connect


def committing() -> str:
    """Name of the Flower function that commits."""
    frame = sys._getframe(2)
    while frame is not None:
        code = frame.f_code
        if "/flwr/" in code.co_filename and not code.co_filename.endswith("sql_mixin.py"):
            return code.co_name
        frame = frame.f_back
    return "other"


def wrap_spawn() -> None:
    """Starts of the engine's other processes."""

    def child(popen, args, *rest, **kwargs):
        return process_name([sys.executable, *args])

    subprocess.Popen.__init__ = around(subprocess.Popen.__init__, "spawn", child)


class After(importlib.abc.MetaPathFinder):
    """Wraps a module once it has been imported, and imports nothing by itself."""

    def __init__(self, module: str, wrap) -> None:
        self._module = module
        self._wrap = wrap

    def find_spec(self, name, path=None, target=None):
        if name != self._module:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            load = spec.loader.exec_module

            def exec_module(module):
                load(module)
                self._wrap(module)

            spec.loader.exec_module = exec_module
        return spec


def end_with_parent() -> None:
    """What the bench starts ends with it, however the bench ends."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


if os.environ.get("GOBELIN_FAULTS") and (name := process_name(sys.orig_argv[1:])):
    faults = Faults(
        Path(os.environ["GOBELIN_FAULTS"]), Path(os.environ["GOBELIN_FAULTS_ROOT"]), name
    )
    if name not in ("superlink", "superexec", "serverapp"):
        end_with_parent()
    wrap_files()
    wrap_spawn()
    if name == "superlink":
        wrap_sqlite()
    sys.meta_path[:0] = [
        After("gobelin.shared.files", wrap_exchange),
        After("grpc._channel", wrap_grpc),
        After("grpc._server", wrap_grpc_server),
        After("httpx._client", wrap_httpx),
        After("safetensors.numpy", wrap_safetensors),
        After("safetensors.torch", wrap_safetensors),
    ]
    faults.at("start", "process", "before")
    atexit.register(faults.at, "exit", "process", "before")
