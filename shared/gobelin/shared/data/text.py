"""Text as bytes of UTF-8: .txt files, JSON lines, or a column of Parquet; in windows."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gobelin.shared.data.bad_input import BadInput, OnBad
from gobelin.shared.data.formats import OVERLAP, TextFormat
from gobelin.shared.data.row_groups import one_split, open_row_groups, pyarrow
from gobelin.shared.data.spill import Spill
from gobelin.shared.data.windows import number_classes
from gobelin.shared.errors import DataError

TEXT_COLUMN, LABEL_COLUMN = "text", "label"
JSON_LINES = frozenset((".jsonl", ".ndjson"))
PIECE = 2**20  # bytes read at a time
MARK = codecs.BOM_UTF8

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Document:
    """One text, by pieces of its bytes; `pieces` is None for what is no text at all."""

    name: str
    label: int | str | None
    pieces: Iterable[bytes] | None


def finds_txt(path: Path) -> bool:
    """Whether `path` is a .txt file, or a folder with some at any depth."""
    if path.is_file():
        return path.suffix == ".txt"
    return path.is_dir() and any(path.rglob("*.txt"))


def finds_json_lines(path: Path) -> bool:
    """Whether `path` is a file of JSON lines, or a folder with some."""
    return bool(_json_files(path))


def open_txt(path: Path, form: TextFormat, memory: int, on_bad: OnBad) -> TextSource:
    """Open .txt files, each one text; sub-folders, where all lie in some, are the classes."""
    return _open(path, _txt_documents(path), form, memory, on_bad)


def open_json_lines(path: Path, form: TextFormat, memory: int, on_bad: OnBad) -> TextSource:
    """Open JSON lines, each {"text": ..., "label": ...} or a string; the label may be missing."""
    return _open(path, _json_documents(path), form, memory, on_bad)


def open_text_table(path: Path, form: TextFormat, memory: int, on_bad: OnBad) -> TextSource:
    """Open the column `text` of Parquet or Arrow files, and `label` where there is one."""
    return _open(path, _table_documents(path, memory), form, memory, on_bad)


def _open(
    path: Path, documents: Iterable[Document], form: TextFormat, memory: int, on_bad: OnBad
) -> TextSource:
    """Gather valid texts, in memory or spilled to disk, and cut them into windows.

    A text that is not UTF-8, empty, or has NUL bytes (which stand for padding) is bad input.
    """
    skipped = BadInput(on_bad)
    spill = Spill(np.uint8, (), memory)
    ends: list[int] = [0]
    labels: list[int | str | None] = []
    for document in documents:
        flaw = _gather(document, spill)
        if flaw:
            spill.truncate(ends[-1])
            skipped.meet(document.name, flaw)
        else:
            ends.append(spill.rows)
            labels.append(document.label)
    if not labels:
        raise DataError(f"{path} holds no readable text", "point at a place with some")
    return TextSource(spill.finish(), np.array(ends, dtype=np.int64), labels, form, skipped)


def _gather(document: Document, spill: Spill[np.uint8]) -> str:
    """Append a text without its byte order mark; what is wrong with it, or ""."""
    if document.pieces is None:
        return "no JSON object with a text"
    decoder = codecs.getincrementaldecoder("utf-8")("strict")
    first = spill.rows
    try:
        for piece in document.pieces:
            decoder.decode(piece)
            if b"\0" in piece:
                return "text with NUL bytes"
            plain = piece.removeprefix(MARK) if spill.rows == first else piece
            spill.append(np.frombuffer(plain, dtype=np.uint8))
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return "not UTF-8"
    return "" if spill.rows > first else "an empty text"


class TextSource:
    """Windows of texts that lie one after another, in memory or in a mapped file.

    What is kept grows with the texts, not with the windows: those are found when they are read.
    """

    block: int | None = None

    def __init__(
        self,
        text: npt.NDArray[np.uint8],
        ends: Indices,  # (texts + 1,), where texts end, from 0 on
        labels: list[int | str | None],
        form: TextFormat,
        skipped: BadInput,
    ) -> None:
        self._text, self._ends, self._length, self.skipped = text, ends, form.length, skipped
        self._stride = min(form.stride, form.length - OVERLAP)
        counts = 1 + -(-np.maximum(np.diff(ends) - form.length, 0) // self._stride)
        last = _to_border(text, ends[:-1] + (counts - 1) * self._stride)
        counts += last + form.length < ends[1:]  # moved too far back to reach the end
        self._windows = np.cumsum(counts)  # up to and with each text's
        self._of_texts, self.class_names = number_classes(labels)

    @property
    def labels(self) -> Tensor | None:
        """A window has the label of its text: int64 (len,), or None."""
        if self._of_texts is None:
            return None
        counts = np.diff(self._windows, prepend=0)
        return torch.repeat_interleave(self._of_texts, torch.from_numpy(counts))

    def __len__(self) -> int:
        return int(self._windows[-1])

    def read(self, indices: Indices) -> Tensor:
        """The windows at `indices` (B,): uint8 (B, L)."""
        owners = np.searchsorted(self._windows, indices, side="right")
        first = np.where(owners > 0, self._windows[owners - 1], 0)
        starts = _to_border(self._text, self._ends[owners] + (indices - first) * self._stride)
        stops = np.minimum(starts + self._length, self._ends[owners + 1])
        inside = stops < self._ends[owners + 1]
        stops[inside] = _to_border(self._text, stops[inside])
        batch = np.zeros((len(indices), self._length), dtype=np.uint8)
        for row, (start, stop) in enumerate(zip(starts, stops, strict=True)):
            batch[row, : stop - start] = self._text[start:stop]
        return torch.from_numpy(batch)


def _to_border(text: npt.NDArray[np.uint8], positions: Indices) -> Indices:
    """Each position moved back to where a character begins (RFC 3629: not 0b10xxxxxx)."""
    moved = positions
    for _ in range(3):
        moved = moved - ((text[moved] & 0xC0) == 0x80)
    return moved


def _txt_documents(path: Path) -> Iterator[Document]:
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*.txt") if p.is_file())
    parts = [(file.name,) if path.is_file() else file.relative_to(path).parts for file in files]
    classes = all(len(part) > 1 for part in parts)
    for file, part in zip(files, parts, strict=True):
        yield Document("/".join(part), part[0] if classes else None, _pieces(file))


def _pieces(file: Path) -> Iterator[bytes]:
    with file.open("rb") as stream:
        while piece := stream.read(PIECE):
            yield piece


def _json_documents(path: Path) -> Iterator[Document]:
    for file in _json_files(path):
        with file.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield _json_document(f"{file.name}, line {number}", line)


def _json_document(name: str, line: bytes) -> Document:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        return Document(name, None, [line])  # which is found not to be UTF-8
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return Document(name, None, None)
    label = value.get(LABEL_COLUMN) if isinstance(value, dict) else None
    text = value.get(TEXT_COLUMN) if isinstance(value, dict) else value
    if not isinstance(text, str) or not isinstance(label, int | str | None):
        return Document(name, None, None)
    # A lone surrogate in an escape is valid JSON and no text.
    return Document(name, label, [text.encode("utf-8", "surrogatepass")])


def _table_documents(path: Path, memory: int) -> Iterator[Document]:
    pa = pyarrow()
    groups = open_row_groups(one_split(path), memory)
    if TEXT_COLUMN not in groups.schema.names:
        columns = ", ".join(groups.schema.names)
        raise DataError(f"{path} has no column 'text', only {columns}", "rename the one with text")
    labelled = [LABEL_COLUMN] if LABEL_COLUMN in groups.schema.names else []
    row = 0
    for table in groups.tables([TEXT_COLUMN, *labelled]):
        texts = _as_bytes(path, table.column(TEXT_COLUMN), pa)
        labels = table.column(LABEL_COLUMN).to_pylist() if labelled else [None] * len(texts)
        for text, label in zip(texts, labels, strict=True):
            yield Document(f"{path.name}, row {row}", label, [text.as_py() or b""])
            row += 1


def _as_bytes(path: Path, column: Any, pa: Any) -> Any:
    try:
        return column.cast(pa.large_binary())
    except pa.ArrowException:
        raise DataError(
            f"{path}: the column 'text' is {column.type}", "make it a column of strings"
        ) from None


def _json_files(path: Path) -> list[Path]:
    if path.is_file():
        return [path] if path.suffix in JSON_LINES else []
    if not path.is_dir():
        return []
    return sorted(p for p in path.iterdir() if p.suffix in JSON_LINES and p.is_file())
