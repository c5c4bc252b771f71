"""The projected peak is held against the measured one, by the benchmark that makes the table of docs/memory.md."""

from pathlib import Path

import pytest

from benchmarks import memory
from benchmarks.measure_memory import STEPS, Cell, Held


def test_a_small_part_of_the_grid(capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--sizes", "150x200", "--budgets", "smallest", "1GB", "--threads", "2"]
    code = memory.main([*given, "--steps", "convert", "pca", "spectra"])
    printed = capsys.readouterr().out
    assert code == 0, printed
    assert printed.count("\n| ") == 4
    assert "**" not in printed


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_the_whole_grid(capsys: pytest.CaptureFixture[str]) -> None:
    code = memory.main([])
    assert code == 0, capsys.readouterr().out


@pytest.mark.parametrize(
    ("projected", "measured", "kept"), [(100, 100, True), (100, 50, True), (100, 49, False), (100, 101, False)]
)
def test_a_projection_must_be_a_bound_and_near(projected: int, measured: int, kept: bool) -> None:
    cell = Cell("pca", "", (3, 5, 7), 1.0, "1GB", 2)
    one = Held(cell, projected, measured, 10**9)
    assert one.is_kept is kept
    assert ("**" in memory.table([one])) is not kept
    assert not Held(cell, 2 * 10**9, 2 * 10**9, 10**9).is_kept


def test_the_table_of_the_docs_has_every_step() -> None:
    text = (Path(__file__).parents[1] / "docs/memory.md").read_text()
    assert {line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| ")} >= set(STEPS)
    assert "**" not in text
