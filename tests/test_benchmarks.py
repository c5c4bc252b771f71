"""The benchmarks run, on tiny data, and say what they measured."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csr_matrix
from sklearn.decomposition import MiniBatchNMF

from benchmarks import advice, codec, conversion, masks, nmf_accuracy, nmf_order
from benchmarks.__main__ import NAMES
from benchmarks.machine import PROJECT
from eds_chunked import schema, synthetic
from tests import bcf_files
from tests.decomposition_maps import matrix, poisson_scaled, weights
from tests.real_data import real_data


def test_benchmark_runs_by_name():
    done = _run("compare", "--help")
    assert done.returncode == 0, done.stderr
    assert "usage: python -m benchmarks compare" in done.stdout


def _run(*arguments):
    command = [sys.executable, "-m", "benchmarks", *arguments]
    return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("arguments", [[], ["speed"]])
def test_unknown_benchmark_is_told_the_known_ones(arguments):
    done = _run(*arguments)
    assert done.returncode == 1
    assert all(name in done.stderr for name in NAMES)


def test_every_benchmark_that_is_named_is_there():
    assert all((PROJECT / "benchmarks" / f"{name}.py").exists() for name in NAMES)


# ------------------------------------------------------------------------------------------------ codecs
def test_every_codec_is_measured_and_its_store_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(codec.tempfile, "tempdir", str(tmp_path))
    found = codec.measure((67, 131, 97), 20.0, codecs=codec.CODECS, passes=2, write_passes=3)
    assert [one.codec for one in found] == list(codec.CODECS)
    assert list(tmp_path.iterdir()) == []
    for one in found:
        assert {kind: len(laps) for kind, laps in one.seconds.items()} == {codec.WRITE: 3} | dict.fromkeys(
            codec.READS, 2
        )
        assert all(0 < lap < 60 for laps in one.seconds.values() for lap in laps)
        assert one.dtype == "uint8"
        assert one.nonzero_share == found[0].nonzero_share
        # Dense it is 64 x 64 x 97 bytes a tile, of which there are 2 x 3.
        assert 67 * 131 < one.bytes < 6 * 64 * 64 * 97
    assert found[0].bytes < found[1].bytes < found[2].bytes


@pytest.fixture(scope="module")
def store_of_a_rock(tmp_path_factory):
    place = str(tmp_path_factory.mktemp("codec") / "rock.zarr")
    rock = synthetic.rock((17, 71, 97), counts_per_pixel=20.0, n_phases=codec.N_PHASES, energy_scale=0.2)
    _, truth = codec.write_stores(rock, {"counts": place}, passes=2)
    return place, truth, rock


def test_what_was_drawn_is_known_and_stored(store_of_a_rock):
    place, truth, rock = store_of_a_rock
    counts = np.asarray(codec.edc.open(place)[schema.COUNTS])
    drawn = next(rock.bands(17)).counts
    np.testing.assert_array_equal(counts.reshape(-1, 97).sum(axis=0), np.bincount(drawn.channel, drawn.value, 97))
    assert truth.nonzero == np.count_nonzero(counts) == len(drawn.value)
    assert truth.counts == counts.sum(dtype=np.uint64)
    np.testing.assert_array_equal(truth.label, rock.labels(0, 17))


@pytest.mark.parametrize("kind", codec.READS)
def test_passes_find_what_was_drawn(store_of_a_rock, kind):
    place, truth, _ = store_of_a_rock
    assert codec.Reading(place, truth).seconds(kind) > 0


@pytest.mark.parametrize(("kind", "what"), [(codec.CSR, "nonzero"), (codec.SUMS, "counts")])
def test_pass_that_finds_other_counts_is_no_measurement(store_of_a_rock, kind, what):
    place, truth, _ = store_of_a_rock
    drawn = getattr(truth, what)
    with pytest.raises(ValueError, match=f"{kind} found {drawn}, where {drawn + 1} were drawn"):
        codec.Reading(place, replace(truth, **{what: drawn + 1})).seconds(kind)


def test_dense_pass_reads_every_tile_once(store_of_a_rock, monkeypatch):
    place, truth, _ = store_of_a_rock
    reading = codec.Reading(place, truth)
    seen = np.zeros((17, 71), int)

    class Seen:
        chunks, shape, dtype = reading._array.chunks, reading._array.shape, reading._array.dtype

        def get_basic_selection(self, box, *, out):
            reading_of_zarr.get_basic_selection(box, out=out)
            np.testing.assert_array_equal(out.as_numpy_array(), reading_of_zarr[box])
            seen[box[:2]] += 1

    reading_of_zarr = reading._array
    monkeypatch.setattr(reading, "_array", Seen())
    reading.seconds(codec.DENSE)
    assert (seen == 1).all()


def _made(name, *, size, write, dense, csr, sums):
    laps = {codec.WRITE: [9.0, write], codec.DENSE: [dense, 9.0], codec.CSR: [csr], codec.SUMS: [9.0, sums, 9.0]}
    return codec.Figures(18.0, name, "uint8", 0.0125, size, laps)


def test_tables_tell_the_best_pass_and_the_goals_that_are_missed():
    ours = _made("counts", size=3_000_000, write=0.5, dense=2.0, csr=0.5, sums=0.75)
    ref = _made("zstd", size=4_000_000, write=1.0, dense=3.0, csr=4.0, sums=5.0)
    rows = [line for line in codec.tables([ours, ref]).splitlines() if line.startswith("| ")]
    assert rows == [
        "| codec | MB | write s | dense read s | CSR read s | masked sums s |",
        "| counts | 3.0 (0.75) | 0.50 (0.50) | 2.00 (1.50) | 0.50 (6.00) | 0.75 (1.50) |",
        "| zstd | 4.0 (1.00) | 1.00 (1.00) | 3.00 (1.00) | 4.00 (0.75) | 5.00 (1.25) |",
        "| counts is to reach | 18 counts |",
        "| size <= 1 of zstd | 0.75 |",
        "| write <= 1 of zstd | 0.50 |",
        "| dense read >= 2 x zstd | **1.50** |",
        "| CSR read >= 7 x dense zstd | **6.00** |",
        "| masked sums <= 1.3 of CSR read | **1.50** |",
    ]


def test_codec_benchmark_prints_tables_and_writes_every_pass(tmp_path, capsys):
    out = tmp_path / "codec.json"
    tiny = [
        "--shape",
        "17x71x97",
        "--doses",
        "18,100",
        "--codecs",
        "counts,zstd",
        "--passes",
        "2",
        "--write-passes",
        "1",
    ]
    codec.main([*tiny, "--json", str(out)])
    told = capsys.readouterr()
    assert "17 x 71 x 97" in told.out
    assert told.out.count("| counts |") == told.out.count("| zstd |") == 2
    assert "| counts is to reach | 18 counts | 100 counts |" in told.out
    document = json.loads(out.read_text())
    assert document["recipe"]["shape"] == [17, 71, 97]
    assert [(one["dose"], one["codec"]) for one in document["figures"]] == [
        (dose, name) for dose in (18.0, 100.0) for name in ("counts", "zstd")
    ]
    assert len(document["figures"][0]["seconds"][codec.DENSE]) == 2
    assert document["versions"]["zarr"] in told.out
    assert document["peak bytes"] > 0


@pytest.mark.parametrize("codecs", ["counts,lz4", "zstd,lz4", "counts,zstd,gzip"])
def test_codec_benchmark_compares_counts_and_zstd(codecs, capsys):
    with pytest.raises(SystemExit):
        codec.main(["--codecs", codecs])
    assert "counts and zstd are compared, of counts, zstd, lz4" in capsys.readouterr().err


def test_conversion_beside_the_load_finds_the_same_counts(capsys: pytest.CaptureFixture[str]) -> None:
    # RosettaSciIO wants a header as the vendor writes it.
    conversion.main([str(real_data("P45_the_default_job.bcf")), "--codecs", "counts", "lz4", "--passes", "1"])
    rows = [line.split("|")[1].strip() for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert rows[2:] == ["RosettaSciIO, eager load", "read", "convert, counts", "convert, lz4"]


def test_contestants_that_found_other_counts_end_the_benchmark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bcf_files.write(tmp_path / "map.bcf", [np.ones((3, 5, 61), np.uint16)])
    totals = iter([915, 914])
    monkeypatch.setattr(conversion, "timed", lambda script: conversion.Run(1.0, 10**6, next(totals, 915)))
    with pytest.raises(SystemExit, match="other counts"):
        conversion.main([str(tmp_path / "map.bcf"), "--passes", "1"])


# ------------------------------------------------------------------------------------------------ accuracy of NMF
@pytest.fixture(scope="module", params=nmf_accuracy.TEXTURES)
def phantom(request):
    return nmf_accuracy.Phantom(nmf_accuracy.Problem(100.0, request.param, 3, (43, 37, 97)))


def test_truth_scores_full_marks_in_any_order(phantom):
    order = [2, 0, 3, 1]
    found = nmf_accuracy.score(3 * phantom.spectra[order], 7 * phantom.shares.T[order] + 2, phantom)
    # Arc cosines near 1 keep half of the digits.
    assert (found.worst, found.mean, found.r2) == pytest.approx((0, 0, 1), abs=1e-7)
    swapped = nmf_accuracy.score(phantom.spectra, phantom.shares.T[order], phantom)
    assert swapped.worst < 1e-7
    assert swapped.r2 < 0.5


def test_phantom_is_what_its_truth_says(phantom):
    counts = phantom.counts.reshape(-1, 97)
    expected = phantom.shares @ phantom.spectra
    chi_square = np.sum((counts - expected) ** 2 / np.maximum(expected, 1e-9)) / counts.size
    assert chi_square == pytest.approx(1, abs=0.05)
    np.testing.assert_array_equal(phantom.rows().toarray(), counts)
    order = np.random.default_rng(0).permutation(len(counts))
    mixed = phantom.dataset(order)[schema.COUNTS].values.reshape(-1, 97)
    np.testing.assert_array_equal(mixed, counts[order])


def test_fitted_loadings_are_as_likely_as_any(phantom):
    X, H = matrix(phantom.counts)[::7], phantom.spectra

    def divergence(W):
        model = W @ H
        return np.sum(model) - np.sum(X[X > 0] * np.log(model[X > 0]))

    fitted = nmf_accuracy.fitted_loadings(csr_matrix(X.astype(np.float32)), H)
    # Expectation maximisation (Richardson 1972, Lucy 1974) from even loadings, in NumPy.
    W = np.ones((len(X), len(H)))
    start = divergence(W)
    for _ in range(1000):
        W *= (X / (W @ H)) @ H.T / H.sum(axis=1)
    assert divergence(fitted) - divergence(W) < 1e-3 * (start - divergence(W))
    assert fitted.sum() == pytest.approx(W.sum(), rel=1e-3)


def test_best_number_of_passes_is_that_of_the_least_angle(monkeypatch):
    worst = {1: 0.3, 2: 0.2, 3: 0.25, 5: 0.1, 10: 0.15, 20: 0.12, 40: 0.01}
    seen = []

    def made_score(factors, loadings, phantom, *, passes):
        seen.append(passes)
        return nmf_accuracy.Score(worst[passes], 0.0, 0.5, passes)

    phantom = nmf_accuracy.Phantom(nmf_accuracy.Problem(100.0, "banded", 0, (43, 37, 97)))
    monkeypatch.setattr(nmf_accuracy, "score", made_score)
    assert nmf_accuracy._sklearn(phantom, tuple(worst)).passes == 5
    assert seen == [1, 2, 3, 5, 10, 20]


def test_accuracy_is_told_for_every_solver(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(nmf_accuracy, "QUICK", nmf_accuracy.Size((43, 37, 97), 1, (1, 2)))
    out = tmp_path / "accuracy.json"
    nmf_accuracy.main(["--quick", "--doses", "100", "--jobs", "1", "--json", str(out)])
    told = capsys.readouterr().out
    entries = json.loads(out.read_text())["scores"]
    assert [entry["problem"]["texture"] for entry in entries] == ["banded", "mixed"]
    for entry in entries:
        assert list(entry["scores"]) == [*nmf_accuracy.SOLVERS, nmf_accuracy.SKLEARN]
        for name, one in entry["scores"].items():
            assert one["failed"] == "", name
            assert 0 < one["mean"] <= one["worst"] < np.pi / 2, name
            assert 0 < one["r2"] < 1, name
    for name in entries[0]["scores"]:
        assert told.count(f"| {name} ") == 2


def test_accuracy_passes_and_fails_by_medians():
    score, theirs = nmf_accuracy.Score, nmf_accuracy.Score(0.10, 0.05, 0.9, 4)
    three = {
        "default": [score(0.104, 0.05, 0.899), score(0.104, 0.05, 0.8), score(0.9, 0.05, 0.896)],
        "sample, poisson": [theirs] * 3,
        "blockwise, frobenius": [score(0.106, 0.05, 0.9)] * 3,
        "blockwise, poisson": [score(0.1, 0.05, 0.9), score(failed="not there: loss"), score(0.1, 0.05, 0.9)],
        nmf_accuracy.SKLEARN: [theirs] * 3,
    }
    found = {
        nmf_accuracy.Problem(18.0, "banded", seed, (7, 11, 61)): {name: its[seed] for name, its in three.items()}
        for seed in range(3)
    }
    assert list(nmf_accuracy.table(found))[2:] == [
        "| 18 | banded | default | 0.1040 | 0.0500 | 0.8960 | +0.0040 | +0.0000 | -0.0040 | pass |",
        "| 18 | banded | sample, poisson | 0.1000 | 0.0500 | 0.9000 | +0.0000 | +0.0000 | +0.0000 | pass |",
        "| 18 | banded | blockwise, frobenius | 0.1060 | 0.0500 | 0.9000 | +0.0060 | +0.0000 | +0.0000 | **fail** |",
        "| 18 | banded | blockwise, poisson | not there: loss | | | | | | |",
        "| 18 | banded | scikit-learn KL (passes: 4) | 0.1000 | 0.0500 | 0.9000 | | | | |",
    ]


def test_oracles_see_the_scaled_counts(phantom):
    X = matrix(phantom.counts)
    scaled, root = nmf_order._scaled(phantom.rows())
    np.testing.assert_allclose(scaled.toarray(), poisson_scaled(X), rtol=1e-6)
    np.testing.assert_allclose(root, weights(X)[1])


def test_oracle_of_least_squares_stays_at_the_truth_without_noise(phantom):
    # There the true spectra explain all, and no pass can improve them.
    rows = csr_matrix((phantom.shares @ phantom.spectra).astype(np.float32))
    found = nmf_order._frobenius_oracle(rows, phantom.spectra)
    assert nmf_accuracy.cosines(found, phantom.spectra)[0].min() > 0.9999


def test_oracle_of_the_poisson_loss_is_the_multiplicative_update(phantom):
    X, start = matrix(phantom.counts), phantom.start()
    W, H = nmf_accuracy.fitted_loadings(phantom.rows(), start).astype(float), start

    def ratio():
        return X / np.maximum(W @ H, 1e-30)  # Pixels without counts have no model.

    # Lee & Seung (2001), in NumPy.
    for _ in range(10):
        W = W * (ratio() @ H.T / H.sum(axis=1))
        H = H * (W.T @ ratio() / W.sum(axis=0)[:, None])
    found = nmf_order._poisson_oracle(phantom.rows(), start)
    assert nmf_accuracy.cosines(found, H)[0].min() > 1 - 1e-6


def test_oracle_of_fitted_loadings_does_what_the_blockwise_solver_does():
    phantom = nmf_accuracy.Phantom(nmf_accuracy.Problem(100.0, "banded", 0, (43, 37, 97)))
    found = nmf_order.figures(phantom, "blockwise, poisson")
    assert found["fitted"] > 0.99


@pytest.mark.filterwarnings("ignore:Maximum number of iterations")  # It is stopped on purpose.
def test_oracle_of_mini_batches_is_theirs_on_the_dense_matrix(phantom):
    X, start = matrix(phantom.counts), phantom.start()
    scaled, root = poisson_scaled(X), weights(X)[1]
    estimator = MiniBatchNMF(4, init="custom", batch_size=4096, forget_factor=0.7 ** (4096 / len(X)), max_iter=3, tol=0,
                             max_no_improvement=None, random_state=0)  # fmt: skip
    H = start / root
    estimator.fit_transform(
        scaled / np.linalg.svd(scaled, compute_uv=False)[0],
        W=np.ones((len(X), 4)),
        H=H / np.linalg.norm(H, axis=1)[:, None],
    )
    found = nmf_order._minibatch_oracle(phantom.rows(), start)
    assert nmf_accuracy.cosines(found, estimator.components_ * root)[0].min() > 0.9999


def test_order_is_told_for_every_solver(capsys):
    nmf_order.main(["--shape", "43x37x97", "--doses", "100"])
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| 100")]
    assert [row[1] for row in rows] == list(nmf_order.CONTESTANTS)
    for row in rows:
        told = {what: figure.strip("*") for what, figure in zip(nmf_order.GOALS, row[2:], strict=True)}
        # Only the solver of the Poisson loss has a second oracle.
        assert (told.pop("fitted") == "") == ("poisson" not in row[1])
        # scikit-learn has no mixture.
        assert (told["oracle"] == "") == (row[1] == "default")
        assert all(0 < float(figure) <= 1 for figure in told.values() if figure), row


def test_order_tells_what_misses_its_goal():
    assert nmf_order._told(0.9912, 0.99) == "0.99120"
    assert nmf_order._told(0.98, 0.99) == "**0.98000**"
    assert nmf_order._told("not there: start", 0.99) == "not there: start"


def test_rules_for_the_number_of_components_are_judged():
    verdicts = [
        advice.judge(kind, 3, 100.0, 0, shape=(61, 67, 151), with_stability=kind == "even") for kind in advice.KINDS
    ]
    assert [one.right for one in verdicts] == [3, 3, 4, 3, 3]
    even, *others = verdicts
    assert even.named[advice.EDGE] == even.named[advice.ELBOW] == 3
    assert even.first_noise < 1
    assert advice.STABILITY in even.named
    assert advice.STABILITY not in others[0].named
    head, _, *rows = advice.table(verdicts).splitlines()
    assert head.startswith("| rock | counts/pixel | noise edge | elbow | over 0.2 % |")
    assert [row.split(" | ")[0].strip("| ") for row in rows] == list(advice.KINDS)
    assert rows[0].startswith("| even | 100 | 1/1 | 1/1 |")
    assert " | - | " in rows[1]


def test_masks_are_those_of_the_whole_map_and_labels_are_compared_with_truth(capsys, tmp_path):
    out = tmp_path / "masks.json"
    assert masks.main(["--quick", "--json", str(out)]) == 0
    said = json.loads(out.read_text())
    assert [each["rule"] for each in said["costs"]] == ["otsu", "multiotsu", "triangle"]
    assert all(each["masks_that_differ"] == 0 and each["seconds"] > 0 for each in said["costs"])
    (labels,) = said["truths"]
    assert labels["right"] > 97
    assert sum(labels[name] for name in ("right", "wrong", "unassigned", "mixed")) == pytest.approx(100)
    assert "masks_that_differ" in capsys.readouterr().out
