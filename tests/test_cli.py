"""The command line: what its verbs save and print, where they print it, and how fast it starts."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from click.testing import CliRunner, Result
from matplotlib.figure import Figure

import eds_chunked as edc
from eds_chunked import figures, schema, workflow
from eds_chunked.cli import main, output, source_verbs
from eds_chunked.cli.truth import compare_with_truth
from eds_chunked.readers import describe
from eds_chunked.report import assemble
from eds_chunked.synthetic import rock
from tests.ripple_files import random_counts, write_ripple

HEAVY = {"dask", "xarray", "zarr", "numba", "scipy", "pandas", "matplotlib", "skimage", "sklearn", "hyperspy"}
VERBS = list(main.commands)
ROCK = {"energy_scale": 0.05, "n_phases": 3, "grain_size": 12, "counts_per_pixel": 120}
SHAPE = (83, 97, 128)


def call(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.stderr
    return result


def answer(*arguments: object) -> dict[str, Any]:
    """What a verb prints with --json; nothing else may be on stdout."""
    found = json.loads(call(*arguments, "--json").stdout)
    assert isinstance(found, dict)
    return found


def program(*arguments: object, **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", "from eds_chunked.cli import main; main()", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The counts of a synthetic rock as .rpl/.raw, calibrated."""
    true = rock(SHAPE, **ROCK)
    (band,) = true.bands(SHAPE[0])
    csr = band.counts
    counts = np.zeros((SHAPE[0] * SHAPE[1], SHAPE[2]), np.uint16)
    pixel = np.repeat(np.arange(len(counts)), np.diff(csr.indptr))
    counts[pixel, csr.channel] = csr.value
    keys = {"ev-per-chan": 50, "depth-origin": -470, "depth-scale": 50, "depth-units": "eV", "beam-energy": 20}
    return write_ripple(tmp_path_factory.mktemp("source") / "rock.rpl", counts.reshape(SHAPE), keys=keys)


@pytest.fixture(scope="module", autouse=True)
def no_pictures() -> Iterator[None]:
    """Leave out of `run` what takes most of its time and has tests of its own."""

    one = assemble.Picture("sum_spectrum", "a caption", "a text", figures.png(Figure(figsize=(1, 1))))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(assemble, "pictures", lambda found: iter([one]))
        yield


@pytest.fixture(scope="module")
def done(source: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """A store that `run` made, and what it printed."""
    store = tmp_path_factory.mktemp("run") / "rock.zarr"
    options = ("--pixel-size", "0.5", "--energy-offset", "-0.47", "--energy-scale", "0.05", "--phases", 3)
    return store, call("run", source, store, *options)


# ------------------------------------------------------------------------------------------------- starting
def test_help_imports_nothing_heavy() -> None:
    script = f"""
import sys
from eds_chunked.cli import main
for arguments in (["--help"], *([verb, "--help"] for verb in main.commands)):
    try:
        main(arguments)
    except SystemExit as exit:
        assert exit.code == 0
print("heavy:", sorted({{name.split(".")[0] for name in sys.modules}} & {HEAVY | {"numpy", "rich"}}))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "heavy: []", done.stderr


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ({"feldspar": [2, 4], "quartz": [1]}, "(feldspar: 2,4; quartz: 1)"),
        ([0.19500000000000006, 12.0], "0.195,12"),
        ("gram 0.2 s", '"gram 0.2 s"'),
        ("otsu", "otsu"),
        (True, "True"),
    ],
)
def test_parameters_in_a_table_are_short_and_no_python(value: object, shown: str) -> None:
    assert source_verbs._short(value) == shown


def test_info_of_a_file_imports_neither_dask_nor_xarray(source: Path) -> None:
    script = f"""
import sys
from eds_chunked.cli import main
try:
    main(["info", {str(source)!r}])
except SystemExit as exit:
    assert exit.code == 0
print("heavy:", sorted({{name.split(".")[0] for name in sys.modules}} & {HEAVY}))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "heavy: []", done.stderr
    assert "83 x 97 pixels x 128 channels, uint16" in done.stdout


@pytest.mark.parametrize("verb", VERBS)
def test_every_help_has_an_example(verb: str) -> None:
    text = call(verb, "--help").stdout
    assert f"Example:\n    eds-chunked {verb} " in text or f"Example:\n    eds-chunked {verb}\n" in text


def test_verbs_are_listed_in_the_order_of_the_work() -> None:
    text = call().stdout
    places = [text.index(f"\n  {verb} ") for verb in ("run", "convert", "calibrate", "pca", "nmf", "phases", "grains")]
    assert places == sorted(places)
    assert "..." not in text.split("Commands:")[1]
    assert call("--help").stdout == text


@pytest.mark.parametrize(
    ("typed", "meant"), [("pac", "pca"), ("phase", "phases"), ("callibrate", "calibrate"), ("grain", "grains")]
)
def test_did_you_mean(typed: str, meant: str) -> None:
    (line,) = call(typed, "x.zarr", code=2).stderr.splitlines()
    assert line.startswith(f"error: no such verb {typed!r}, did you mean {meant!r}?")


# --------------------------------------------------------------------------------------------- the whole way
def test_run_tells_what_it_read_did_and_wrote(done: tuple[Path, Result]) -> None:
    store, result = done
    text = result.stdout
    assert "83 x 97 pixels x 128 channels, uint8" in text
    assert f"{int(edc.open(store)['total_counts'].sum()):,} in all" in text
    for address in ("pca/main.r1", "nmf/k3.r1", "phases/k3.r1", "spectra/k3.r1", "grains/k3.r1"):
        assert address in text
        assert edc.load(store, address).attrs["step"] == address.split("/")[0]
    for heading in ("Map", "Steps", "Phases (exclusive)", "Grain sizes (apparent diameters, um)"):
        assert f"\n{heading}\n" in f"\n{text}"
    assert "peak memory" in text
    report = store.with_name("rock-results") / "report.html"
    assert str(report) in text
    assert report.exists()
    assert max(map(len, text.splitlines())) <= max(100, len(str(report)) + 40)
    tables = [line for line in text.splitlines() if "  " in line and str(store.parent) not in line]
    assert max(map(len, tables)) <= 100
    assert all(line == line.rstrip() for line in text.splitlines())
    assert "\x1b" not in text


def test_run_corrects_the_calibration(done: tuple[Path, Result]) -> None:
    ds = edc.open(done[0])
    assert schema.pixel_size(ds) == (0.5, 0.5, "um")
    assert (float(ds["energy"][0]), float(ds["energy"][1])) == pytest.approx((-0.47, -0.42))


def test_run_as_json(source: Path, tmp_path: Path) -> None:
    found = answer("run", source, tmp_path / "a.zarr", "--folder", tmp_path / "out", "--min-size", 9, "--phases", 2)
    assert found["store"] == str(tmp_path / "a.zarr")
    assert found["results"]["nmf"] == "nmf/k2.r1"
    assert found["map"]["shape"] == list(SHAPE)
    assert sum(row["area_percent"] for row in found["modal"]) == pytest.approx(100)
    assert all(Path(file).is_relative_to(tmp_path / "out") for file in found["files"])
    assert set(found["seconds"]) >= {"convert", "pca", "nmf", "phases", "spectra", "grains"}
    assert edc.load(tmp_path / "a.zarr", "phases").attrs["parameters"]["min_size"] == 9


def test_demo_finds_the_rock(tmp_path: Path) -> None:
    options = ("--shape", "61x83x512", "--counts", 80, "--phases", 3, "--seed", 5)
    text = call("demo", tmp_path / "rock", *options).stdout
    assert "Found against true" in text
    assert (tmp_path / "rock" / "results" / "report.html").exists()
    found = answer("demo", tmp_path / "rock", *options, "--overwrite")
    assert [row["mineral"] for row in found["truth"]["minerals"]] == ["quartz", "albite", "K-feldspar"]
    assert min(row["cosine"] for row in found["truth"]["minerals"]) > 0.99
    assert found["truth"]["accuracy_percent"] > 98
    call("demo", tmp_path / "rock", *options, code=2)


def test_the_comparison_with_the_truth_is_exact() -> None:
    true = rock((41, 53, 256), n_phases=3, grain_size=7, energy_scale=0.03, energy_offset=-0.2)
    n_channels = true.header.shape[2]
    energies = true.header.energy_offset + true.header.energy_scale * np.arange(n_channels)
    order = [2, 0, 1]  # component i is mineral order[i]
    window = slice(13, 200)
    factors = true.spectra[order][:, window] * np.array([3.0, 0.1, 20.0])[:, None]
    truth = true.labels(0, 41).astype(int)
    phase_of_mineral = np.array([0, 2, 3, 1])
    label = phase_of_mineral[truth]
    wrong = np.argwhere(truth == 2)[:17]
    label[tuple(wrong.T)] = 2
    lost = np.argwhere(truth == 1)[:11]
    label[tuple(lost.T)] = schema.UNASSIGNED
    nmf = xr.Dataset({schema.FACTORS: (("component", "energy"), factors)}, coords={"energy": energies[window]})
    phases = xr.Dataset({schema.LABEL: (("y", "x"), label.astype("u1"))}, coords={"phase": [1, 2, 3]})
    agreement = compare_with_truth(true, nmf=nmf, phases=phases)
    assert [mineral.phase for mineral in agreement.minerals] == [2, 3, 1]
    assert [mineral.cosine for mineral in agreement.minerals] == pytest.approx([1, 1, 1])
    n = label.size
    assert agreement.accuracy_percent == pytest.approx(100 * (n - 28) / n)
    assert agreement.accuracy_of_labelled_percent == pytest.approx(100 * (n - 28) / (n - 11))
    second = int((truth == 2).sum())
    assert agreement.minerals[1].right_percent == pytest.approx(100 * (second - 17) / second)


def test_the_comparison_says_when_a_mineral_was_not_found() -> None:
    true = rock((29, 31, 256), n_phases=3, grain_size=7, energy_scale=0.03, energy_offset=-0.2)
    energies = true.header.energy_offset + true.header.energy_scale * np.arange(256)
    nmf = xr.Dataset({schema.FACTORS: (("component", "energy"), true.spectra[[1, 0]])}, coords={"energy": energies})
    label = np.array([0, 2, 1, 0], np.uint8)[true.labels(0, 29)]
    phases = xr.Dataset({schema.LABEL: (("y", "x"), label)}, coords={"phase": [1, 2]})
    agreement = compare_with_truth(true, nmf=nmf, phases=phases)
    assert [mineral.phase for mineral in agreement.minerals] == [2, 1, 0]
    assert agreement.accuracy_of_labelled_percent == 100
    assert agreement.accuracy_percent < 100


# ---------------------------------------------------------------------------------------------- single steps
def test_the_steps_one_by_one(source: Path, tmp_path: Path) -> None:
    store = tmp_path / "steps.zarr"
    assert call("convert", source, store, "--quiet").stdout == f"{store}\n"
    calibration = ("--energy-scale", 0.05, "--energy-offset", -0.47, "--elements", "Si,Al", "--title", "a rock")
    found = answer("calibrate", store, *calibration, "--beam-energy", 20, "--pixel-size", "0.5x0.25")
    assert found["map"]["elements"] == ["Al", "Si"]
    assert found["map"]["pixel_size"] == [0.5, 0.25]
    assert found["stale"] == []

    pca = answer("pca", store, "-k", 7)
    assert pca["address"] == "pca/main.r1"
    np.testing.assert_allclose(
        pca["explained_variance_ratio"], edc.load(store, "pca")["explained_variance_ratio"].values
    )
    assert pca["advised_components"] == 3
    assert call("pca", store, "-k", 7, "--name", "low", "--energy", "0.3:3", "-q").stdout == "pca/low.r1\n"
    assert float(edc.load(store, "pca/low")["energy"].max()) <= 3

    nmf = answer("nmf", store)
    assert nmf["address"] == "nmf/k3.r1"
    assert sum(nmf["share_of_counts"].values()) == pytest.approx(1)
    assert call("nmf", store, "-k", 2, "-q").stdout == "nmf/k2.r1\n"

    phases = answer("phases", store, "--from", "nmf/k3", "--min-size", 9)
    assert phases["address"] == "phases/k3.r1"
    assert [row["phase"] for row in phases["modal"]] == ["1", "2", "3", "unassigned", "mixed"]
    by_hand = answer("phases", store, "--from", "nmf/k2", "--threshold", "20.5,1e9", "--name", "by-hand")
    assert by_hand["address"] == "phases/by-hand.r1"
    assert edc.load(store, "phases/by-hand")["threshold"].values.tolist() == [20.5, 1e9]

    spectra = answer("spectra", store, "--from", "phases/k3")
    label = edc.load(store, "phases/k3")["label"].values
    counts = edc.open(store)["total_counts"].values
    for row in spectra["spectra"]:
        assert row["n_pixels"] == int((label == row["phase"]).sum())
        assert row["counts"] == int(counts[label == row["phase"]].sum())

    grains = answer("grains", store, "--from", "phases/k3", "--h", 0.5)
    assert edc.load(store, grains["address"]).attrs["parameters"] == {
        "source": "label", "method": "h-maxima", "min_size": 9, "h": 0.5
    }  # fmt: skip
    assert {row["phase"] for row in grains["grain_sizes"]} == {1, 2, 3}

    state = answer("info", store)
    assert all(result["stale"] is None for result in state["results"])
    assert len(answer("calibrate", store, "--title", "the rock")["stale"]) == len(state["results"])
    text = call("info", store).stdout
    assert "eds-chunked nmf" in text
    again = next(line for line in re.findall(r"eds-chunked nmf \S+ (.*)", text) if line.endswith(" --name k3"))
    assert again.startswith("-k 3 --noise ")
    # What the refresh command says can be typed: every option is one that the verb has.
    flags = set(re.findall(r" (--?[a-z][a-z-]*)", f" {again}"))
    assert flags <= set(re.findall(r"(--?[a-z][a-z-]*)", call("nmf", "--help").stdout))
    assert "--energy" in flags
    assert " fresh " not in text
    (line,) = call("phases", store, code=2).stderr.splitlines()
    assert "stale" in line


def test_tables_for_people(done: tuple[Path, Result], tmp_path: Path) -> None:
    store = Path(shutil.copytree(done[0], tmp_path / "copy.zarr"))
    text = call("info", store).stdout
    assert "nmf/k3.r1" in text
    assert "n_components=3" in text
    assert "uint8" in text
    modal = call("phases", store, "--from", "nmf/k3").stdout.splitlines()
    shares = [float(line.split()[3]) for line in modal[2:7]]
    assert sum(shares) == pytest.approx(100, abs=0.05)
    assert "phases/k3.r2" in modal[-2]
    # A step builds on the newest revision.
    assert edc.load(store, answer("spectra", store)["address"]).attrs["parent"] == "phases/k3.r2"


@pytest.mark.filterwarnings("always::eds_chunked.grains.statistics.FewGrainsWarning")
def test_sizes_of_a_phase_and_of_a_file(done: tuple[Path, Result], tmp_path: Path) -> None:
    store = done[0]
    compared = answer("sizes", store)
    row = compared["grain_sizes"][0]
    picture = tmp_path / "sizes.png"
    one = call("sizes", store, "--phase", 1, "--scale", "log", "--bins", 7, "--json", "--plot", picture)
    found = json.loads(one.stdout)
    assert found["geometric_mean"] == pytest.approx(row["geometric_mean_um"])
    assert (found["n"], found["n_bins"], found["scale"]) == (row["n_used"], 7, "log")
    assert picture.read_bytes()[:4] == b"\x89PNG"
    (warning,) = one.stderr.splitlines()
    assert warning.startswith("warning: ")
    assert call("sizes", store, "--phase", 1, "--quiet").stderr == ""

    diameters = np.random.default_rng(0).lognormal(2, 0.5, 500)
    np.savetxt(tmp_path / "d.txt", diameters, header="unit: nm")
    text = call("sizes", tmp_path / "d.txt").stdout
    assert f"{np.exp(np.log(diameters).mean()):.2f}  nm" in text
    written = next(store.with_name("rock-results").glob("*_diameters_1.txt"))
    assert answer("sizes", written)["n"] == row["n_used"]


def test_report_and_export(source: Path, tmp_path: Path) -> None:
    store = tmp_path / "rock.zarr"
    call("convert", source, store)
    page = tmp_path / "new" / "rock.html"
    assert call("report", store, page, "-q").stdout == f"{page}\n"
    assert [path.name for path in page.parent.iterdir()] == ["rock.html"]
    found = answer("report", store)
    assert found["report"] == str(tmp_path / "rock-results" / "report.html")
    assert [Path(file).name for file in found["files"]] == ["results.csv", "versions.csv", "01_sum_spectrum.png"]
    assert all(Path(file).exists() for file in [found["report"], *found["files"]])

    target = tmp_path / "rock.hspy"
    assert answer("export", store, target)["bytes"] == target.stat().st_size
    assert describe(target)[0].shape == SHAPE
    call("export", store, target, code=2)
    call("export", store, target, "--overwrite")


# --------------------------------------------------------------------------------------- ways to end, streams
def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def broken(*args: object, **options: object) -> str:
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr(workflow, "pca_step", broken)
    stderr = call("pca", tmp_path, code=1).stderr
    assert "Traceback" in stderr
    assert "ZeroDivisionError: by zero" in stderr
    assert "this is a bug in eds_chunked" in stderr.splitlines()[-1]


def test_interrupted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def stopped(*args: object, **options: object) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(workflow, "pca_step", stopped)
    assert call("pca", tmp_path, code=130).stderr.strip() == "interrupted"


@pytest.mark.skipif(os.name != "posix", reason="signals as on POSIX")
def test_ctrl_c_leaves_no_map(tmp_path: Path) -> None:
    # A shell starts background jobs deaf to Ctrl-C, and a test run may be one.
    listening = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
    running = program("demo", tmp_path / "out", "--shape", "6000x500x512", "--counts", 60, **listening)
    counts = tmp_path / "out" / "rock.zarr" / "map" / "counts" / "c"
    try:
        deadline = time.monotonic() + 60
        while not counts.exists() and time.monotonic() < deadline and running.poll() is None:
            time.sleep(0.05)
        running.send_signal(signal.SIGINT)
        stdout, stderr = running.communicate(timeout=60)
    finally:
        running.kill()
    assert running.returncode == 130, stderr
    assert stdout == ""
    assert stderr.split() == ["interrupted"]
    # Rows that were written stay, to be gone on with.
    told = call("info", tmp_path / "out" / "rock.zarr", code=2).stderr
    assert "found nothing" in told or "conversion stopped at row" in told


def test_results_on_stdout_and_nothing_on_stderr_without_a_terminal(tmp_path: Path) -> None:
    source = write_ripple(tmp_path / "map.rpl", random_counts((13, 11, 31)))
    running = program("convert", source, tmp_path / "map.zarr", "--json")
    stdout, stderr = running.communicate(timeout=60)
    assert running.returncode == 0
    assert stderr == ""
    assert json.loads(stdout)["map"]["total_counts"] == int(random_counts((13, 11, 31)).sum())


def test_bars_are_on_stderr_of_a_terminal(source: Path, tmp_path: Path) -> None:
    pty = pytest.importorskip("pty")
    ours, theirs = pty.openpty()
    command = [sys.executable, "-c", "from eds_chunked.cli import main; main()", "convert", str(source)]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "80"}
    running = subprocess.Popen(
        [*command, str(tmp_path / "map.zarr")], stdout=subprocess.PIPE, stderr=theirs, env=environment
    )
    os.close(theirs)
    shown = io.BytesIO()
    try:
        while block := os.read(ours, 4096):
            shown.write(block)
    except OSError:  # how Linux says that the other end has closed
        pass
    stdout, _ = running.communicate(timeout=60)
    os.close(ours)
    assert running.returncode == 0
    assert b"convert" in shown.getvalue()
    assert b"pixels" in stdout
    assert b"\x1b" not in stdout


# -------------------------------------------------------------------------------------------------- printing
@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (1234567, "1,234,567"),
        (617.04, "617"),
        (8.73678, "8.737"),
        (float("nan"), "-"),
        (0.000123456, "0.0001235"),
    ],
)
def test_numbers(value: float, text: str) -> None:
    assert output.number(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.04, "0.0 s"), (9.96, "10.0 s"), (59.6, "1 min 00 s"), (3725, "1 h 02 min")]
)
def test_durations(seconds: float, text: str) -> None:
    assert output.duration(seconds) == text


def test_json_has_no_nan() -> None:
    found = output.plain({"a": np.array([1.5, np.nan]), 2: (np.float32(0.5), Path("b")), "c": {"d": np.int64(3)}})
    assert found == {"a": [1.5, None], "2": [0.5, "b"], "c": {"d": 3}}
    assert type(found["c"]["d"]) is int


def test_tables_of_numbers_are_never_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    lines = output._table_lines(output.Rows(["a", "b\nc"], [["x" * 15, "1" * 15], ["y", "2"]]))
    assert lines == [" " * 31 + "b", "a" + " " * 30 + "c", "x" * 15 + "  " + "1" * 15, "y" + " " * 30 + "2"]
