"""The tables in the docs are those of the runs that are kept beside the benchmarks."""

import pytest

from benchmarks import tables
from benchmarks.apart import FAILED, Record
from benchmarks.contest import OURS
from benchmarks.contestants import CONTESTANTS
from benchmarks.machine import PROJECT
from benchmarks.rocks import RECIPE, SIZES

DOCS = (PROJECT / "docs" / "benchmarks.md").read_text().splitlines()
SETTINGS = {key: one.settings for key, one in CONTESTANTS.items()}


def kept(name):
    """Return the runs of a file."""
    return Record(PROJECT / "benchmarks" / "results" / f"{name}.json", RECIPE).runs


FULL, BESIDE_PEERS, SMALLER = kept("full"), kept("full_beside_peers"), kept("smaller")
OF_ALL_SIZES = SMALLER | FULL


def of_a_map(runs, size):
    """Return what is told of a map of 400 counts a pixel."""
    where = ((*SIZES[size], 2048), 400.0, "grains")
    rows = tables.rows_of(runs, where)
    return [*tables.map_table(where, rows), *tables.faster_table(rows)]


def goals(runs, size):
    """Return the goals that are judged on such a map."""
    return tables.goal_table(tables.rows_of(runs, ((*SIZES[size], 2048), 400.0, "grains")))


@pytest.mark.parametrize(
    "made",
    [
        lambda: of_a_map(FULL, "full"),
        lambda: of_a_map(BESIDE_PEERS, "full"),
        lambda: of_a_map(SMALLER, "1/16"),
        lambda: goals(FULL, "full"),
        lambda: goals(SMALLER, "1/16"),
        lambda: tables.first_call_table(SMALLER),
        lambda: tables.growth_tables(OF_ALL_SIZES),
        lambda: tables.dose_tables(SMALLER),
        lambda: tables.settings_table([(cell.step, cell.side) for cell in BESIDE_PEERS], SETTINGS),
    ],
    ids=["full", "beside peers", "1/16", "goals", "goals of 1/16", "first calls", "growth", "dose", "settings"],
)
def test_docs_have_what_was_measured(made):
    rows = [line for line in made() if line.startswith("|")]
    assert len(rows) > 5
    assert [row for row in rows if row not in DOCS] == []


@pytest.mark.parametrize(
    ("runs", "sides"),
    [(BESIDE_PEERS, set(CONTESTANTS)), (FULL, {key for key, one in CONTESTANTS.items() if not one.is_peer})],
    ids=["beside peers", "ours"],
)
def test_all_were_measured_on_the_full_map(runs, sides):
    assert {(cell.step, cell.side) for cell in runs} == sides
    assert not [cell for cell, lap in runs.items() if lap.ended.startswith(FAILED)]
    assert not [cell for cell, lap in runs.items() if cell.side == OURS and lap.ended]
