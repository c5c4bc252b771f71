"""The benchmark of grains: it runs, both sides find the same markers, and its tables judge by the goals."""

import numpy as np
import pytest

from benchmarks import grains as benchmark
from eds_chunked.memory import MB


def test_markers_are_those_of_the_plain_chain_and_few_pixels_differ(tmp_path):
    store = benchmark.make(benchmark.Scene("small", (97, 131), 12.0), tmp_path)
    label = benchmark.phases_in(store)["label"].values
    n_markers, n_other, differ, lost = benchmark.share(label)
    assert n_markers > 100
    assert n_other == 0
    assert 0 < differ < 5
    assert lost >= 0
    # A grain more on our side would be seen: markers joined in pairs are not those of the chain.
    joined = np.where(label == 2, 1, label)
    assert benchmark.share(joined)[0] != n_markers


def test_both_sides_count_the_same_grains(tmp_path):
    store = benchmark.make(benchmark.Scene("small", (83, 101)), tmp_path)
    found = {side: benchmark.measure(benchmark.Task(side, store)) for side in benchmark.SIDES}
    assert found[benchmark.OURS].n_grains >= found[benchmark.CHAIN].n_grains > 50
    assert found[benchmark.CHAIN].n_grains == found[benchmark.CHAIN_TABLE].n_grains
    assert found[benchmark.OURS_H].n_grains < found[benchmark.OURS].n_grains
    refused = benchmark.measure(benchmark.Task(benchmark.OURS_H, store, "100MB"))
    assert refused.n_grains == 0
    assert "memory for grains" in refused.said


def test_large_scenes_repeat_a_part(tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark, "_TILE", 60)
    label = benchmark.phases_in(benchmark.make(benchmark.Scene("large", (130, 100)), tmp_path))["label"].values
    assert label.shape == (130, 100)
    np.testing.assert_array_equal(label[60:120, :60], label[:60, :60][::-1])
    np.testing.assert_array_equal(label[:60, 60:], label[:60, :60][:, ::-1][:, :40])


def test_tables_tell_what_misses_its_goal():
    def one(seconds, above):
        return benchmark.Measured(10, seconds, 200 * MB, (200 + above) * MB)

    sides = {
        benchmark.OURS: one(1.0, 100),
        benchmark.OURS_H: one(2.5, 301),
        benchmark.CHAIN: one(2.0, 500),
    }
    rows = list(benchmark.speed_table({"map": sides}))[2:]
    assert rows == [
        "| map | ours, practical | 10 | 1.00 | 100 | 0.50 | pass |",
        "| map | ours, h-maxima | 10 | 2.50 | 301 | 1.25 | **fail** |",
        "| map | scikit-image | 10 | 2.00 | 500 | 1.00 |  |",
    ]
    scenes = [benchmark.Scene("a", (10, 10)), benchmark.Scene("b", (20, 20))]
    rows = list(benchmark.area_table(scenes, {"a": one(1, 100), "b": one(1, 400)}))[2:]
    assert rows[0].endswith("| pass |")
    assert rows[1].endswith("| pass |")
    assert "p = 0.50" in rows[2]
    assert list(benchmark.area_table(scenes, {"a": one(1, 100), "b": one(1, 401)}))[3].endswith("| **fail** |")


@pytest.mark.parametrize("name", benchmark.PARTS)
def test_every_part_has_a_name_on_the_command_line(name, capsys):
    with pytest.raises(SystemExit):
        benchmark.main(["--help"])
    assert name in capsys.readouterr().out
