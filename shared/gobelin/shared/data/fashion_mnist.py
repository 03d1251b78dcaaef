"""Fashion-MNIST (MIT licence), got from where it lies already or from Debian's package."""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import subprocess
import tempfile
import zlib
from pathlib import Path
from typing import Any

from gobelin.shared.errors import DatasetError
from gobelin.shared.files import folder_atomic

# SHA-256 of the decompressed files: Debian compresses the official bytes anew, without names and
# times. (With the official gzip header put back, they have the MD5s the authors publish.)
DIGESTS = {
    "train-images-idx3-ubyte.gz": "c59f468a2f672dc815687fe0f8388776"
    "8d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte.gz": "bad3541b69d912435c50bb6ba87bec29"
    "4ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte.gz": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte.gz": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
TRAIN, TEST = "train-images-idx3-ubyte.gz", "t10k-images-idx3-ubyte.gz"
CLASS_NAMES = (
    "t-shirt", "trouser", "pullover", "dress", "coat",
    "sandal", "shirt", "sneaker", "bag", "ankle-boot",
)  # fmt: skip
PACKAGE = "dataset-fashion-mnist"
INSTALLED = Path("/usr/share/datasets/fashion-mnist")
REMEDY = (
    f"`apt-get install {PACKAGE}`, or put the four official files "
    "(train-images-idx3-ubyte.gz, ...) into a folder and name it"
)
APT_SECONDS = 300


def fetch_fashion_mnist(cache: Path, folder: Path | None = None) -> Path:
    """A folder with the four verified IDX .gz files of Fashion-MNIST.

    Looks into `folder` if one is named, else `cache`, else where Debian's package installs, else
    has apt-get download the package into `cache`, which needs no root. Raises DatasetError.
    """
    if folder is not None:
        _require_pinned(folder)
        return folder
    kept = cache / "fashion-mnist"
    for place in (kept, INSTALLED):
        if not _flaw(place):
            return place
    with tempfile.TemporaryDirectory() as scratch:
        found = _from_debian(Path(scratch))
        _require_pinned(found)
        with folder_atomic(kept) as tmp:
            for name in DIGESTS:
                shutil.copyfile(found / name, tmp / name)
    return kept


def prepare_fashion_mnist(source: Path | None, out: Path) -> dict[str, Any]:
    """Write the training and the test images into `out`/train and `out`/test."""
    with tempfile.TemporaryDirectory() as scratch:
        found = fetch_fashion_mnist(Path(scratch), source)
        for part, prefix in (("train", "train-"), ("test", "t10k-")):
            with folder_atomic(out / part) as tmp:
                for name in DIGESTS:
                    if name.startswith(prefix):
                        shutil.copyfile(found / name, tmp / name)
    return {"out": str(out), "train": 60_000, "test": 10_000}


def _require_pinned(folder: Path) -> None:
    flaw = _flaw(folder)
    if flaw:
        raise DatasetError(flaw, REMEDY)


def _flaw(folder: Path) -> str:
    """Why a folder does not hold the pinned files, or "" when it does."""
    if not folder.is_dir():
        return f"there is no folder {folder}"
    for name, pinned in DIGESTS.items():
        file = folder / name
        if not file.is_file():
            return f"{folder} has no {name}"
        try:
            with gzip.open(file, "rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
        except (OSError, EOFError, zlib.error):
            digest = "(no gzip file)"
        if digest != pinned:
            return f"{file} is not Fashion-MNIST: SHA-256 {digest[:12]}, pinned {pinned[:12]}"
    return ""


def _from_debian(scratch: Path) -> Path:
    """Download and unpack Debian's package in `scratch`; the folder with the files."""
    missing = [tool for tool in ("apt-get", "dpkg") if shutil.which(tool) is None]
    if missing:
        raise DatasetError(f"no Fashion-MNIST here, and no {missing[0]} to get it", REMEDY)
    download = ["download", PACKAGE]
    problem = _run(["apt-get", *download], scratch)
    if problem:
        # Images often come without package lists: fetch them into a place of our own.
        own = _own_lists(scratch)
        problem = _run(["apt-get", *own, "update"], scratch) or _run(
            ["apt-get", *own, *download], scratch
        )
    packages = sorted(scratch.glob("*.deb"))
    if problem or not packages:
        why = problem or "nothing was downloaded"
        raise DatasetError(f"apt-get cannot download {PACKAGE}: {why}", REMEDY)
    problem = _run(["dpkg", "-x", packages[0].name, "unpacked"], scratch)
    if problem:
        raise DatasetError(f"{packages[0].name} cannot be unpacked: {problem}", REMEDY)
    return scratch / "unpacked" / INSTALLED.relative_to("/")


def _own_lists(scratch: Path) -> list[str]:
    """Options that have apt keep lists and cache in `scratch`, writable without root.

    Run by root, apt would drop to a user that may not write there: it is told not to.
    """
    for folder in ("lists/partial", "cache/archives/partial"):
        (scratch / folder).mkdir(parents=True, exist_ok=True)
    return [
        "-o", f"Dir::State::Lists={scratch / 'lists'}",
        "-o", f"Dir::Cache={scratch / 'cache'}",
        "-o", "APT::Sandbox::User=root",
    ]  # fmt: skip


def _run(command: list[str], folder: Path) -> str:
    """Run a command quietly; its last line of complaint, or "" when it succeeded."""
    quiet = {**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
    try:
        done = subprocess.run(
            command, cwd=folder, env=quiet, capture_output=True, text=True, timeout=APT_SECONDS
        )
    except subprocess.TimeoutExpired:
        return f"no answer in {APT_SECONDS} s"
    except OSError as error:
        return error.strerror or "it cannot be run"
    if done.returncode == 0:
        return ""
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    return lines[-1].removeprefix("E: ") if lines else f"exit status {done.returncode}"
