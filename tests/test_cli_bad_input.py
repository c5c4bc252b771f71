"""Bad input on the command line: one line that names the thing, exit code 2, and nothing left that looks whole."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from click.testing import CliRunner, Result

import eds_chunked as edc
from eds_chunked.cli import main
from eds_chunked.errors import StoreError
from eds_chunked.synthetic import rock
from tests import bcf_files
from tests.ripple_files import random_counts, write_ripple

SHAPE = (13, 11, 31)


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def assert_one_clear_line(result: Result, *words: str) -> None:
    assert result.exit_code == 2, result.stderr
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert "Traceback" not in line
    for word in words:
        assert word in line


def hspy(path: Path, data: np.ndarray, navigate: tuple[bool, ...]) -> Path:
    with h5py.File(path, "w") as file:
        file.attrs["file_format"], file.attrs["file_format_version"] = "HyperSpy", "3.3"
        group = file.create_group("Experiments/it")
        group["data"] = data
        for i, value in enumerate(navigate):
            axis = {"name": f"axis {i}", "scale": 1.0, "offset": 0.0, "units": "", "navigate": value}
            group.create_group(f"axis-{i}").attrs.update(axis)
        for name in ("metadata", "original_metadata"):
            group.create_group(name)
    return path


def no_such_file(folder: Path) -> Path:
    return folder / "nowhere.bcf"


def unknown_format(folder: Path) -> Path:
    (folder / "map.xyz").write_text("not a map")
    return folder / "map.xyz"


def no_map(folder: Path) -> Path:
    return hspy(folder / "image.hspy", np.ones((5, 7)), (False, False))


def several_maps(folder: Path) -> Path:
    cubes = [bcf_files.counts((5, 7, 31), seed=seed) for seed in (0, 1)]
    return bcf_files.write(folder / "two.bcf", cubes)


def truncated(folder: Path) -> Path:
    path = write_ripple(folder / "short.rpl", random_counts(SHAPE).astype(np.uint8))
    raw = path.with_suffix(".raw")
    raw.write_bytes(raw.read_bytes()[:-100])
    return path


def sizes_disagree(folder: Path) -> Path:
    return write_ripple(folder / "wrong.rpl", random_counts(SHAPE).astype(np.uint8), keys={"width": 12})


def negative(folder: Path) -> Path:
    counts = random_counts(SHAPE).astype(np.int16)
    counts[7, 5, 3] = -4
    return write_ripple(folder / "negative.rpl", counts)


def fractional(folder: Path) -> Path:
    counts = random_counts(SHAPE).astype(np.float32)
    counts[7, 5, 3] = 2.5
    return write_ripple(folder / "fractional.rpl", counts)


def not_a_number(folder: Path) -> Path:
    counts = random_counts(SHAPE).astype(np.float32)
    counts[7, 5, 3] = np.nan
    return write_ripple(folder / "nan.rpl", counts)


def all_zero(folder: Path) -> Path:
    return write_ripple(folder / "empty.rpl", np.zeros(SHAPE, np.uint8))


N_BYTES = int(np.prod(SHAPE))
SOURCES = [
    (no_such_file, ("nowhere.bcf", "no such file")),
    (unknown_format, ("map.xyz", ".xyz", ".bcf")),
    (no_map, ("image.hspy", "no spectrum image")),
    (several_maps, ("two.bcf", "2 spectrum images", "--map")),
    (truncated, ("short.raw", f"{N_BYTES - 100}", f"{N_BYTES}")),
    (sizes_disagree, ("wrong", f"{N_BYTES}", f"{N_BYTES // 11 * 12}")),
    (negative, ("negative", "-4")),
    (fractional, ("fractional", "2.5")),
    (not_a_number, ("nan", "nan")),
    (all_zero, ("empty", "no counts")),
]


@pytest.mark.parametrize("verb", ["convert", "run"])
@pytest.mark.parametrize(("make", "words"), SOURCES, ids=lambda value: getattr(value, "__name__", ""))
def test_a_bad_source(tmp_path: Path, verb: str, make: Callable[[Path], Path], words: tuple[str, ...]) -> None:
    source = make(tmp_path)
    before = set(tmp_path.iterdir())
    assert_one_clear_line(call(verb, source, tmp_path / "map.zarr"), *words)
    with pytest.raises((StoreError, FileNotFoundError)):
        edc.open(tmp_path / "map.zarr")
    assert set(tmp_path.iterdir()) == before
    assert_one_clear_line(call("info", tmp_path / "map.zarr"), "map.zarr")


@pytest.mark.parametrize(
    ("make", "words"),
    [case for case in SOURCES if case[0] in (no_such_file, unknown_format, no_map)],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_info_of_a_bad_source(tmp_path: Path, make: Callable[[Path], Path], words: tuple[str, ...]) -> None:
    assert_one_clear_line(call("info", make(tmp_path)), *words)


@pytest.mark.filterwarnings("default::UserWarning")
@pytest.mark.parametrize(("make", "words"), [case for case in SOURCES if case[0] in (truncated, sizes_disagree)])
def test_info_of_a_source_that_can_be_salvaged(
    tmp_path: Path, make: Callable[[Path], Path], words: tuple[str, ...]
) -> None:
    result = call("info", make(tmp_path))
    assert result.exit_code == 0
    assert "31 channels" in result.stdout
    (line,) = result.stderr.splitlines()
    for word in ("warning: ", "--salvage", *words):
        assert word in line


def test_a_map_that_is_not_in_the_file(tmp_path: Path) -> None:
    assert_one_clear_line(call("convert", several_maps(tmp_path), tmp_path / "map.zarr", "--map", 3), "'3'", "2")
    assert not (tmp_path / "map.zarr").exists()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cli") / "rock.zarr"
    edc.convert(rock((17, 23, 64), energy_scale=0.1, energy_offset=-0.2, n_phases=2, grain_size=8), path)
    return path


PARAMETERS = [
    (("pca", "-k", 65), ("65", "60 channels")),
    (("pca", "-k", 40, "--energy", "0.2:2"), ("40", "19 channels")),
    (("pca", "-k", 0), ("-k", "0")),
    (("pca", "-k", "four"), ("-k", "'four'")),
    (("nmf", "-k", 65), ("65", "60 channels")),
    (("nmf", "-k", 0), ("-k", "0")),
    (("nmf", "-k", -3), ("-k", "-3")),
    (("nmf",), ("pca", "no results")),
    (("nmf", "-k", 2, "--max-epochs", 0), ("max_epochs", "0")),
    (("nmf", "-k", 2, "--name", "K2"), ("run name", "'K2'")),
    (("pca", "--energy", "30:40"), ("energy window", "30 to 40", "6.1 keV")),
    (("pca", "--energy", "3:2"), ("--energy", "'3:2'")),
    (("pca", "--energy", "low"), ("--energy", "'low'")),
    (("pca", "--energy", "nan:2"), ("--energy", "'nan:2'")),
    (("pca", "--solver", "magic"), ("solver", "'magic'")),
    (("pca", "--noise", "gauss"), ("noise", "'gauss'")),
    (("pca", "--memory", "much"), ("memory", "'much'")),
    (("pca", "--memory", "20MB"), ("pca", "20 MB", "--memory")),
    (("phases",), ("nmf", "no results")),
    (("phases", "--from", "nmf/k9"), ("nmf/k9",)),
    (("phases", "--from", "map"), ("'map'",)),
    (("spectra",), ("phases", "no results")),
    (("grains",), ("phases", "no results")),
    (("sizes",), ("grains", "no results")),
    (("sizes", "--plot", "x.png"), ("--plot", "--phase")),
    (("calibrate",), ("nothing to set",)),
    (("calibrate", "--pixel-size", "0"), ("--pixel-size", "'0'")),
    (("calibrate", "--pixel-size", "2xq"), ("--pixel-size", "'2xq'")),
    (("calibrate", "--energy-scale", "nan"), ("energy_scale", "nan")),
    (("calibrate", "--energy-scale", "-1"), ("energy_scale", "-1")),
    (("calibrate", "--elements", "Si,Xx"), ("elements", "'Xx'")),
    (("calibrate", "--signal-type", "AFM"), ("--signal-type", "'AFM'")),
    (("report", "--frobnicate"), ("--frobnicate",)),
]


@pytest.mark.parametrize(("arguments", "words"), PARAMETERS, ids=lambda value: "-".join(map(str, value)))
def test_a_bad_parameter(store: Path, arguments: tuple[object, ...], words: tuple[str, ...]) -> None:
    verb, *options = arguments
    assert_one_clear_line(call(verb, store, *options), *words)
    assert '"results": []' in call("info", store, "--json").stdout


@pytest.mark.parametrize("option", ["--phases", "--components"])
def test_run_refuses_zero_before_it_converts(tmp_path: Path, option: str) -> None:
    source = write_ripple(tmp_path / "map.rpl", random_counts(SHAPE))
    assert_one_clear_line(call("run", source, tmp_path / "map.zarr", option, 0), option, "0")
    assert not (tmp_path / "map.zarr").exists()


def test_a_store_that_exists_stays(store: Path, tmp_path: Path) -> None:
    source = write_ripple(tmp_path / "map.rpl", random_counts(SHAPE))
    total = int(edc.open(store)["total_counts"].sum())
    for verb in ("convert", "run"):
        assert_one_clear_line(call(verb, source, store), "rock.zarr", "--overwrite")
    assert int(edc.open(store)["total_counts"].sum()) == total


def test_what_is_no_store_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.txt").write_text("years of work")
    source = write_ripple(tmp_path / "map.rpl", random_counts(SHAPE))
    assert_one_clear_line(call("convert", source, tmp_path / "thesis", "--overwrite"), "thesis", "no eds_chunked store")
    assert (tmp_path / "thesis" / "chapter1.txt").read_text() == "years of work"


@pytest.mark.parametrize("verb", ["pca", "nmf", "phases", "spectra", "grains", "report", "calibrate", "info"])
def test_a_store_that_is_not_there(tmp_path: Path, verb: str) -> None:
    more = ["--title", "x"] if verb == "calibrate" else ["-k", "2"] if verb == "nmf" else []
    assert_one_clear_line(call(verb, tmp_path / "no.zarr", *more), "no.zarr", "found nothing")
    assert list(tmp_path.iterdir()) == []


def test_files_of_diameters(tmp_path: Path) -> None:
    file = tmp_path / "d.txt"
    assert_one_clear_line(call("sizes", file), "d.txt", "no such file")
    file.write_text("1.0\n2.0\n3,5\n")
    assert_one_clear_line(call("sizes", file), "line 3", "'3,5'")
    file.write_text("1.0\n-2.0\n3.5\n")
    assert_one_clear_line(call("sizes", file), "-2.0")
    file.write_text("1.0\n2.0\n")
    assert_one_clear_line(call("sizes", file), "2 usable", "at least 3")
    assert_one_clear_line(call("sizes", file, "--phase", 1), "--phase")


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    source = write_ripple(tmp_path / "map.rpl", random_counts(SHAPE))
    # A path below a file: refused by the system also for root.
    assert_one_clear_line(call("convert", source, source / "map.zarr"), "map.rpl")


def program(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from eds_chunked.cli import main; main()", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(
    ("make", "words"),
    [(no_such_file, ("nowhere.bcf",)), (not_a_number, ("nan.raw", "nan")), (truncated, ("short.raw",))],
)
def test_the_program_itself(tmp_path: Path, make: Callable[[Path], Path], words: tuple[str, ...]) -> None:
    done = program("convert", make(tmp_path), tmp_path / "map.zarr")
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    for word in words:
        assert word in line
