"""Fashion-MNIST comes from a folder, a cache or a package, and only if it is the pinned one."""

import gzip
import hashlib
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gobelin.shared.data import fashion_mnist
from gobelin.shared.data.fashion_mnist import DIGESTS, fetch_fashion_mnist
from gobelin.shared.data.prepare.cli import app
from gobelin.shared.errors import DatasetError


@pytest.fixture
def pinned(tmp_path, monkeypatch):
    """A folder with small files, pinned for this test; no package is installed."""
    folder = tmp_path / "official"
    folder.mkdir()
    for name in DIGESTS:
        content = name.encode()
        (folder / name).write_bytes(gzip.compress(content))
        monkeypatch.setitem(DIGESTS, name, hashlib.sha256(content).hexdigest())
    monkeypatch.setattr(fashion_mnist, "INSTALLED", Path("/nowhere/fashion-mnist"))
    return folder


def tools(tmp_path, monkeypatch, **scripts):
    """A PATH on which there are only these commands, and what they need."""
    path = tmp_path / "bin"
    path.mkdir()
    for name, script in scripts.items():
        (path / name).write_text(f"#!/bin/sh\n{script}\n")
        (path / name).chmod(0o755)
    monkeypatch.setenv("PATH", os.pathsep.join([str(path)] * bool(scripts)))


def test_a_named_folder_is_used_however_it_was_compressed(pinned, tmp_path):
    name = next(iter(DIGESTS))
    (pinned / name).write_bytes(gzip.compress(name.encode(), compresslevel=1))
    assert fetch_fashion_mnist(tmp_path / "cache", pinned) == pinned


def test_the_command_parts_training_from_test_images(pinned, tmp_path):
    words = ["prepare", "fashion-mnist", "--from", str(pinned), "--out", str(tmp_path / "out")]
    assert CliRunner().invoke(app, words).exit_code == 0
    for part in ("train", "test"):
        names = sorted(file.name for file in (tmp_path / "out" / part).iterdir())
        prefix = "t10k" if part == "test" else part
        assert names == [f"{prefix}-{what}-ubyte.gz" for what in ("images-idx3", "labels-idx1")]


def test_a_changed_file_is_refused(pinned, tmp_path):
    name = next(iter(DIGESTS))
    for content in (gzip.compress(b"poisoned"), b"no gzip", gzip.compress(name.encode())[:-9]):
        (pinned / name).write_bytes(content)
        with pytest.raises(DatasetError, match="is not Fashion-MNIST"):
            fetch_fashion_mnist(tmp_path / "cache", pinned)


def test_a_missing_folder_and_a_missing_file_are_named(pinned, tmp_path):
    with pytest.raises(DatasetError, match="no folder"):
        fetch_fashion_mnist(tmp_path / "cache", tmp_path / "typo")
    name = next(iter(DIGESTS))
    (pinned / name).unlink()
    with pytest.raises(DatasetError, match=f"has no {name}"):
        fetch_fashion_mnist(tmp_path / "cache", pinned)


def test_the_installed_package_is_used(pinned, tmp_path, monkeypatch):
    monkeypatch.setattr(fashion_mnist, "INSTALLED", pinned)
    assert fetch_fashion_mnist(tmp_path / "cache") == pinned


def test_the_package_is_downloaded_once_and_kept(pinned, tmp_path, monkeypatch):
    inside = "unpacked/nowhere/fashion-mnist"
    tools(
        tmp_path,
        monkeypatch,
        **{
            "apt-get": ": > dataset.deb",
            "dpkg": f"/bin/mkdir -p {inside}; /bin/cp {pinned}/* {inside}",
        },
    )
    kept = fetch_fashion_mnist(tmp_path / "cache")
    assert kept == tmp_path / "cache" / "fashion-mnist"
    path = os.environ["PATH"]
    monkeypatch.setenv("PATH", "")
    assert fetch_fashion_mnist(tmp_path / "cache") == kept
    next(kept.iterdir()).write_bytes(b"damaged")
    monkeypatch.setenv("PATH", path)
    assert fetch_fashion_mnist(tmp_path / "cache") == kept  # got again
    assert not fashion_mnist._flaw(kept)


def test_without_any_way_the_one_line_says_what_to_do(pinned, tmp_path, monkeypatch):
    tools(tmp_path, monkeypatch)
    with pytest.raises(DatasetError, match=r"no apt-get.*apt-get install dataset-fashion-mnist"):
        fetch_fashion_mnist(tmp_path / "cache")
    assert not (tmp_path / "cache" / "fashion-mnist").exists()


def test_what_apt_complains_of_is_passed_on(pinned, tmp_path, monkeypatch):
    tools(tmp_path, monkeypatch, **{"apt-get": "echo 'E: no such host' >&2; exit 100", "dpkg": ""})
    with pytest.raises(DatasetError, match=r"cannot download .*: no such host"):
        fetch_fashion_mnist(tmp_path / "cache")
