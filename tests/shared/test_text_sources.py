"""Text: three formats, the same windows; each is valid UTF-8, and no byte is left out."""

import json
import tempfile
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gobelin.shared.data import BatchStream, TextFormat, open_source
from gobelin.shared.errors import ConfigError, DataError

FORM = TextFormat(length=16, stride=10)
TEXTS = [
    "All human beings are born free.",
    "Все люди рождаются свободными",
    "人人生而自由",
    "🕊🕊🕊🕊🕊🕊",
]


def write_txt(folder, texts):
    folder.mkdir(parents=True)
    for i, text in enumerate(texts):
        (folder / f"{i:03d}.txt").write_bytes(text.encode())


def write_json_lines(folder, texts, labels=None):
    folder.mkdir(parents=True)
    rows = [
        {"text": text} | ({"label": labels[i]} if labels else {}) for i, text in enumerate(texts)
    ]
    (folder / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))


def write_parquet(folder, texts, labels=None):
    folder.mkdir(parents=True)
    table = pa.table({"text": texts} | ({"label": labels} if labels else {}))
    pq.write_table(table, folder / "a.parquet", row_group_size=3)


WRITERS = {"txt": write_txt, "jsonl": write_json_lines, "parquet": write_parquet}


def everything(source):
    return source.read(np.arange(len(source)))


def decoded(source):
    return [bytes(row.numpy()).rstrip(b"\0").decode() for row in everything(source)]


# No character twice, so that it is known where in its text a window lies.
characters = st.characters(exclude_characters="\0\ufeff", exclude_categories=["Cs"])
texts_of_many_scripts = st.lists(characters, min_size=1, max_size=60, unique=True).map("".join)


@pytest.mark.parametrize("kind", WRITERS)
@given(
    texts=st.lists(texts_of_many_scripts, min_size=1, max_size=6),
    memory=st.sampled_from([0, 2**20]),
)
@settings(max_examples=40, deadline=None)
def test_windows_are_whole_characters_and_leave_nothing_out(kind, texts, memory):
    with tempfile.TemporaryDirectory() as folder:
        WRITERS[kind](Path(folder) / "data", texts)
        source = open_source(Path(folder) / "data", FORM, memory=memory)
        windows = iter(decoded(source))  # decoding fails where a character is cut
        for text in texts:
            covered = 0
            while covered < len(text):
                window = next(windows)
                start = text.index(window)
                assert start <= covered < start + len(window)
                covered = start + len(window)
        assert next(windows, None) is None


def test_the_windows_of_ascii_lie_where_the_format_says():
    text = "".join(chr(ord("a") + i % 26) for i in range(37))
    with tempfile.TemporaryDirectory() as folder:
        write_txt(Path(folder) / "data", [text])
        windows = decoded(open_source(Path(folder) / "data", FORM))
    assert windows == [text[0:16], text[10:26], text[20:36], text[30:37]]


def test_every_format_gives_the_same_bytes(tmp_path):
    for kind, write in WRITERS.items():
        write(tmp_path / kind, TEXTS)
    first, *others = [everything(open_source(tmp_path / kind, FORM)) for kind in WRITERS]
    assert all(torch.equal(first, other) for other in others)


@pytest.mark.parametrize("write", [write_json_lines, write_parquet])
def test_a_window_has_the_label_of_its_text(tmp_path, write):
    write(tmp_path / "data", TEXTS, ["en", "ru", "zh", "xx"])
    source = open_source(tmp_path / "data", FORM)
    assert source.class_names == ("en", "ru", "xx", "zh")
    named = [source.class_names[label] for label in source.labels]
    assert [name for name, text in zip(named, decoded(source), strict=True) if "人" in text] == [
        "zh"
    ]
    write(tmp_path / "numbers", TEXTS, [4, 1, 2, 3])
    assert set(open_source(tmp_path / "numbers", FORM).labels.tolist()) == {1, 2, 3, 4}


def test_folders_are_classes_and_a_byte_order_mark_is_no_text(tmp_path):
    for name in ("b", "a"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.txt").write_bytes(b"\xef\xbb\xbf" + name.encode())
    source = open_source(tmp_path, FORM)
    assert decoded(source) == ["a", "b"]
    assert source.class_names == ("a", "b")
    assert source.labels.tolist() == [0, 1]


def test_a_stream_goes_on_at_the_same_samples_when_text_is_opened_again(tmp_path):
    write_txt(tmp_path / "data", TEXTS * 5)
    first = BatchStream(open_source(tmp_path / "data", FORM), 6, seed=5)
    expected = [first.batch(step) for step in range(12)]
    again = BatchStream(open_source(tmp_path / "data", FORM, memory=0), 6, seed=5)
    assert all(torch.equal(again.batch(step), expected[step]) for step in (11, 3, 8))


def test_text_larger_than_memory_stays_on_disk(tmp_path):
    (tmp_path / "large.txt").write_bytes(b"0123456789abcdef" * 2**20)  # 16 MiB
    tracemalloc.start()
    source = open_source(tmp_path, TextFormat(length=256, stride=250), memory=2**20)
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(source) > 60_000
    assert held < 2**20  # nothing for each window
    assert peak < 2**23  # a few pieces of 1 MiB at a time


# Bad input


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"caf\xe9 au lait", "not UTF-8"),
        ("é".encode()[:1], "not UTF-8"),
        (b"\xed\xa0\x80", "not UTF-8"),  # a surrogate
        (b"\xc0\xaf", "not UTF-8"),  # overlong
        (b"", "an empty text"),
        (b"\xef\xbb\xbf", "an empty text"),
        (b"a\0b", "text with NUL bytes"),
    ],
)
def test_what_is_no_text_is_refused_or_skipped(tmp_path, content, says, caplog):
    write_txt(tmp_path / "data", TEXTS)
    (tmp_path / "data" / "001b.txt").write_bytes(content)
    with pytest.raises(DataError, match=rf"001b\.txt is {says}"):
        open_source(tmp_path / "data", FORM)
    write_txt(tmp_path / "clean", TEXTS)
    for memory in (0, 2**20):
        source = open_source(tmp_path / "data", FORM, on_bad="skip", memory=memory)
        assert torch.equal(everything(source), everything(open_source(tmp_path / "clean", FORM)))
        assert source.skipped.facts() == {says: {"count": 1, "first": ["001b.txt"]}}
    assert "001b.txt" in caplog.text


def test_a_long_text_that_turns_out_invalid_leaves_no_trace(tmp_path):
    write_txt(tmp_path / "data", TEXTS)
    (tmp_path / "data" / "000a.txt").write_bytes(b"x" * 3 * 2**20 + b"\xff")
    for memory in (0, 2**22, 2**28):
        source = open_source(tmp_path / "data", FORM, on_bad="skip", memory=memory)
        assert not any("x" in text for text in decoded(source))


@pytest.mark.parametrize(
    "line", ["{", "[1]", '{"txt": "a"}', '{"text": 3}', '{"text": "a", "label": []}']
)
def test_json_lines_without_a_text_are_named(tmp_path, line):
    (tmp_path / "a.jsonl").write_text(f'{{"text": "good"}}\n{line}\n"plain"\n')
    with pytest.raises(DataError, match=r"a\.jsonl, line 2 is no JSON object with a text"):
        open_source(tmp_path, FORM)
    assert decoded(open_source(tmp_path, FORM, on_bad="skip")) == ["good", "plain"]


def test_a_lone_surrogate_in_json_is_not_utf8(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "\\ud800"}\n')
    with pytest.raises(DataError, match="line 1 is not UTF-8"):
        open_source(tmp_path, FORM)


def test_missing_text_and_missing_columns_and_labels_are_refused(tmp_path):
    pq.write_table(pa.table({"body": ["a"]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="no column 'text', only body"):
        open_source(tmp_path, FORM)
    pq.write_table(pa.table({"text": ["a", None]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="row 1 is an empty text"):
        open_source(tmp_path, FORM)
    pq.write_table(pa.table({"text": [[1]]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="make it a column of strings"):
        open_source(tmp_path, FORM)
    pq.write_table(pa.table({"text": ["a", "b"], "label": ["x", None]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"1 of 2 texts.* have no label"):
        open_source(tmp_path, FORM)


def test_nothing_readable_is_refused_even_when_skipping(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xff")
    with pytest.raises(DataError, match="no readable text"):
        open_source(tmp_path, FORM, on_bad="skip")


def test_windows_that_would_leave_text_out_are_refused():
    with pytest.raises(ConfigError, match="leave some out"):
        TextFormat(length=16, stride=17)
    with pytest.raises(ConfigError, match="6 bytes"):
        TextFormat(length=6, stride=1)
