"""Event files have every point once, however often and however torn they were written."""

from __future__ import annotations

from pathlib import Path

import pytest
from tensorboardX import SummaryWriter

from gobelin.shared import event_files
from gobelin.shared.event_files import Point, points_of, read_points, write_points
from gobelin.shared.pages.charts import Chart, Line
from tests.beside import Beside

POINTS = [Point("loss/mean", step, 1.0 / step, 1_800_000_000.0 + step) for step in range(1, 6)]


def found(folder: Path) -> list[tuple[str, int, float]]:
    return sorted((point.tag, point.step, round(point.value, 6)) for point in read_points(folder))


WHOLE = sorted((point.tag, point.step, round(point.value, 6)) for point in POINTS)


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    assert write_points(tmp_path, POINTS) == 5
    assert found(tmp_path) == WHOLE
    assert [point.at for point in read_points(tmp_path)] == [point.at for point in POINTS]


def test_only_what_is_new_is_added(tmp_path: Path) -> None:
    assert write_points(tmp_path, POINTS[:2]) == 2
    assert write_points(tmp_path, POINTS) == 3
    files = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    assert write_points(tmp_path, POINTS) == 0
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == files
    assert found(tmp_path) == WHOLE


def test_of_two_that_write_at_once_the_second_finds_what_the_first_wrote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    second, read = Beside(lambda: write_points(tmp_path, POINTS)), event_files.read_points

    def overtaken(folder: Path) -> list[Point]:
        there = list(read(folder))
        second.step()
        return there

    monkeypatch.setattr(event_files, "read_points", overtaken)
    assert write_points(tmp_path, POINTS) + second.end() == 5
    assert found(tmp_path) == WHOLE


@pytest.mark.parametrize("cut", [1, 5, 20, 60])
def test_what_a_killed_writer_left_out_is_written_the_next_time(tmp_path: Path, cut: int) -> None:
    write_points(tmp_path, POINTS)
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-cut])
    lost = 5 - len(found(tmp_path))
    assert lost >= 1
    assert write_points(tmp_path, POINTS) == lost
    assert found(tmp_path) == WHOLE


def test_what_others_wrote_there_is_read_as_well(tmp_path: Path) -> None:
    with SummaryWriter(str(tmp_path)) as writer:
        writer.add_scalar("loss/mean", 1.0, 1)
    assert write_points(tmp_path, POINTS) == 4


def test_charts_become_curves_without_what_nobody_measured() -> None:
    line = Line("sign agreement", [None, 0.5, float("nan")])
    chart = Chart("agreement", "", "", [1, 2, 3], [line])
    (point,) = points_of([chart], {2: 7.0})
    assert point == Point("agreement/sign_agreement", 2, 0.5, 7.0)
