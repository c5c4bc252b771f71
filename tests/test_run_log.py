"""The run log of a store: what ran, how it ended, and that nothing else is in its way."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from click.testing import CliRunner, Result

import eds_chunked as edc
from eds_chunked import schema
from eds_chunked.cli import main
from eds_chunked.errors import MissingResultError, ParameterError, SourceError, StoreNotFoundError
from eds_chunked.memory import peak_resident
from eds_chunked.store import run_log
from eds_chunked.store.backend import list_dir
from eds_chunked.store.cleaning import clean
from eds_chunked.store.conversion import convert
from eds_chunked.store.layout import LOG
from eds_chunked.store.opening import open_map, open_tree
from eds_chunked.store.results import save
from eds_chunked.store.run_log import read_log, recorded
from eds_chunked.store.verification import verify
from eds_chunked.workflow import pca_step, phases_step
from tests.made_maps import MadeReader, made_counts, made_result

COUNTS = made_counts((29, 23, 41))


@pytest.fixture(params=["disk", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    place = str(tmp_path / "map.zarr") if request.param == "disk" else f"memory://{tmp_path.name}/map.zarr"
    convert(MadeReader(COUNTS), place)
    return place


def call(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def said(store: str) -> list[tuple[str, str]]:
    return [(entry.what, entry.outcome) for entry in read_log(store)]


# ---------------------------------------------------------------------------------------------- what is noted
def test_a_conversion_a_step_and_a_refusal_are_noted(store: str) -> None:
    pca_step(store, n_components=3, memory="3GB", energy=(0.0, 0.3))
    with pytest.raises(MissingResultError):
        phases_step(store)
    converted, pca, phases = read_log(store)
    assert (converted.what, converted.outcome, converted.parameters["source"]) == ("convert", "done", "made.map")
    assert (pca.what, pca.outcome, pca.result, pca.error) == ("pca", "done", "pca/main.r1", "")
    # As it was called, and what came of it.
    assert pca.parameters["memory"] == "3GB"
    assert pca.parameters["solver"] == "gram"
    assert pca.parameters["n_components"] == 3
    assert pca.versions["zarr"] == edc.load(store, "pca").attrs[schema.VERSIONS]["zarr"]
    assert pca.versions["python"].count(".") == 2
    assert pca.seconds is not None
    assert 0 < pca.seconds < 300
    assert pca.peak_bytes is not None
    assert 50e6 < pca.peak_bytes <= peak_resident()
    assert (pca.pid, pca.host) == (os.getpid(), os.uname().nodename)
    assert (phases.what, phases.outcome, phases.result) == ("phases", "refused", "")
    assert "expected a saved nmf" in phases.error
    assert [entry.when for entry in read_log(store)] == sorted(entry.when for entry in read_log(store))
    assert read_log(store, last=1) == (phases,)


def test_what_is_saved_from_python_is_noted_with_what_it_was_made_with(store: str) -> None:
    ds = open_map(store)
    save(made_result(ds, **{schema.PARAMETERS: {"seed": np.int64(7), "energy": (0.1, float("inf"))}}), store)
    entry = read_log(store)[-1]
    assert (entry.what, entry.result) == ("save", "nmf/k2.r1")
    assert entry.parameters == {"result": "Dataset", "seed": 7, "energy": [0.1, "inf"]}


def test_a_table_of_it_is_one_call(store: str) -> None:
    table = pd.DataFrame(read_log(store))
    assert table.loc[0, ["what", "outcome"]].tolist() == ["convert", "done"]


@pytest.mark.parametrize(
    ("error", "outcome"),
    [(RuntimeError("a\nbug"), "failed"), (KeyboardInterrupt(), "interrupted"), (SystemExit(3), "interrupted")],
)
def test_how_it_ended(store: str, error: BaseException, outcome: str) -> None:
    @recorded("step")
    def step(store: str, *, seed: int = 0) -> None:
        assert said(store)[-1] == ("step", "running")
        raise error

    with pytest.raises(type(error)):
        step(store, seed=3)
    entry = read_log(store)[-1]
    assert (entry.what, entry.outcome, entry.parameters) == ("step", outcome, {"seed": 3})
    assert entry.error == " ".join(str(error).split())


def test_what_was_killed_says_so(tmp_path: Path) -> None:
    store = str(tmp_path / "map.zarr")
    convert(MadeReader(COUNTS), store)
    script = f"""
import time
from eds_chunked.store.run_log import recorded
recorded("nmf")(lambda store: time.sleep(600))({store!r})
"""
    process = subprocess.Popen([sys.executable, "-c", script])
    try:
        until = time.monotonic() + 60
        while len(list_dir(store, LOG)) < 2:
            assert time.monotonic() < until
            time.sleep(0.05)
        assert said(store)[-1] == ("nmf", "running")
        assert read_log(store)[-1].seconds is None
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert said(store)[-1] == ("nmf", "killed")
    # Of another machine nobody here knows.
    (entry,) = [name for name in list_dir(store, LOG) if b'"nmf"' in Path(store, LOG, name).read_bytes()]
    document = json.loads(Path(store, LOG, entry).read_text())
    Path(store, LOG, entry).write_text(json.dumps(document | {"host": "another"}))
    assert said(store)[-1] == ("nmf", "unknown")
    # Nor is a process that got its number later the same.
    document |= {"pid": os.getpid()}
    Path(store, LOG, entry).write_text(json.dumps(document))
    assert said(store)[-1] == ("nmf", "killed")


def test_what_a_step_calls_is_part_of_it(store: str, tmp_path: Path) -> None:
    @recorded("outer")
    def outer(store: str) -> str:
        return save(made_result(open_map(store)), store)

    assert outer(store) == "nmf/k2.r1"
    assert said(store)[1:] == [("outer", "done")]
    assert read_log(store)[-1].result == "nmf/k2.r1"

    # Of another store it is work of its own.
    @recorded("outer")
    def elsewhere(store: str, other: str) -> None:
        save(made_result(open_map(other)), other)

    other = str(tmp_path / "other.zarr")
    convert(MadeReader(COUNTS), other)
    elsewhere(store, other)
    assert said(other) == [("convert", "done"), ("save", "done")]
    assert read_log(store)[-1].result == ""


def test_two_processes_lose_nothing_of_each_other(tmp_path: Path) -> None:
    store = str(tmp_path / "map.zarr")
    convert(MadeReader(COUNTS), store)
    script = f"""
import sys
from eds_chunked.store.run_log import recorded
step = recorded("step")(lambda store, seed: None)
for number in range(25):
    step({store!r}, seed=100 * int(sys.argv[1]) + number)
"""
    started = [subprocess.Popen([sys.executable, "-c", script, str(number)]) for number in (1, 2)]
    assert [process.wait(timeout=120) for process in started] == [0, 0]
    steps = [entry for entry in read_log(store) if entry.what == "step"]
    assert {entry.outcome for entry in steps} == {"done"}
    assert sorted(entry.parameters["seed"] for entry in steps) == [*range(100, 125), *range(200, 225)]


# -------------------------------------------------------------------------------------- in nobody's way
def test_the_store_is_none_the_worse_for_it(store: str, tmp_path: Path) -> None:
    pca_step(store, n_components=2)
    names = list_dir(store, LOG)
    assert len(names) == 2
    assert verify(store).whole
    # Without a warning, which would be an error here.
    assert "pca" in open_tree(store)["results"]
    xr.open_zarr(
        f"{store}" if "://" not in store else store, group="map", consolidated=False, drop_variables=["counts"]
    )
    copy = edc.export(store, tmp_path / "copy.zarr")
    # A log is of its own store.
    assert said(copy) == []
    assert verify(copy).whole
    assert said(store)[2:] == [("verify", "done"), ("export", "done")]


def test_where_there_is_no_store_none_is_made(tmp_path: Path) -> None:
    with pytest.raises(StoreNotFoundError):
        pca_step(tmp_path / "mistyped.zarr")
    faulty = SourceError("map", found="damage", expected="none", fix="copy it again")

    class Faulty(MadeReader):  # type: ignore[misc]
        def bands(self, *args: Any) -> Any:
            raise faulty

    with pytest.raises(SourceError, match="damage"):
        convert(Faulty(COUNTS), tmp_path / "map.zarr")
    assert list(tmp_path.iterdir()) == [] or [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["lock"]
    with pytest.raises(StoreNotFoundError):
        read_log(tmp_path / "mistyped.zarr")


def test_a_store_that_cannot_be_written_works_all_the_same(
    store: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise PermissionError("read only")

    monkeypatch.setattr(run_log, "zarr_store", refuse)
    with caplog.at_level(logging.DEBUG, "eds_chunked.store.run_log"):
        assert verify(store).whole
    assert "no entry in the run log (read only)" in caplog.text
    monkeypatch.undo()
    assert said(store) == [("convert", "done")]


def test_an_entry_that_cannot_be_read_is_told_and_left_out(store: str, caplog: pytest.LogCaptureFixture) -> None:
    from zarr.core.buffer import default_buffer_prototype
    from zarr.core.sync import sync

    from eds_chunked.store.backend import zarr_store

    for number, text in enumerate((b"{", b"[]", b'{"what": 1}', b"[" * 100_000)):
        key = f"{LOG}/20200101T000000000000Z-0000000{number}.json"
        sync(zarr_store(store).set(key, default_buffer_prototype().buffer.from_bytes(text)))
    with caplog.at_level(logging.WARNING, "eds_chunked.store.run_log"):
        assert said(store) == [("convert", "done")]
    assert caplog.text.count("cannot be read") == 4


def test_it_stays_when_the_map_is_replaced(tmp_path: Path) -> None:
    store = tmp_path / "map.zarr"
    convert(MadeReader(COUNTS), store)
    pca_step(store, n_components=2)
    convert(MadeReader(COUNTS + np.uint8(1)), store, overwrite=True)
    assert said(str(store)) == [("convert", "done"), ("pca", "done"), ("convert", "done")]


def test_a_conversion_that_stopped_has_a_log(tmp_path: Path) -> None:
    store = tmp_path / "map.zarr"

    class Stopping(MadeReader):  # type: ignore[misc]
        def bands(self, rows: int, box: Any = None) -> Any:
            for number, band in enumerate(super().bands(rows, box)):
                if number:
                    raise KeyboardInterrupt
                yield band

    tall = made_counts((150, 23, 41))
    with pytest.raises(KeyboardInterrupt):
        convert(Stopping(tall, rows=130), store)
    assert said(str(store)) == [("convert", "interrupted")]
    convert(MadeReader(tall), store, resume=True)
    assert said(str(store)) == [("convert", "interrupted"), ("convert", "done")]
    assert read_log(store)[-1].parameters["resume"] is True


def test_cleaning_leaves_the_newest_entries(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_log, "KEPT", 3)
    for number in range(4):
        save(made_result(open_map(store), run=f"k{number}"), store)
    assert clean(store, dry_run=True).log_entries == 2
    # A rehearsal leaves no trace; cleaning itself is noted when it begins.
    assert len(read_log(store)) == 5
    assert clean(store).log_entries == 3
    assert said(store) == [("save", "done"), ("save", "done"), ("clean", "done")]


def test_last_is_a_number_of_entries(store: str) -> None:
    with pytest.raises(ParameterError, match="found 0, expected at least 1"):
        read_log(store, last=0)


# ------------------------------------------------------------------------------------------------- the verbs
def test_the_verb_and_info_show_it(tmp_path: Path) -> None:
    store = tmp_path / "map.zarr"
    convert(MadeReader(COUNTS), store)
    assert call("pca", store, "-k", 2).exit_code == 0
    assert call("phases", store).exit_code == 2
    text = call("log", store).stdout
    lines = text.splitlines()
    assert [line.split()[2:4] for line in lines[2:5]] == [["convert", "done"], ["pca", "done"], ["phases", "refused"]]
    assert "pca/main.r1" in lines[3]
    assert "a saved nmf" in " ".join(text.split())
    told = json.loads(call("log", store, "--json", "--last", 2).stdout)["log"]
    assert [entry["what"] for entry in told] == ["pca", "phases"]
    assert told[0]["parameters"]["noise"] == "poisson"
    assert call("log", store, "-q").stdout.splitlines()[1].endswith(" pca done")
    assert f"Last of what ran: eds-chunked log {store}" in call("info", store).stdout
    assert [entry["what"] for entry in json.loads(call("info", store, "--json").stdout)["log"]] == [
        "convert",
        "pca",
        "phases",
    ]
    # To ask is no work.
    assert len(read_log(store)) == 3


def test_a_store_of_before_the_log_has_none(tmp_path: Path) -> None:
    store = tmp_path / "map.zarr"
    convert(MadeReader(COUNTS), store)
    shutil.rmtree(store / LOG)
    assert "Nothing ran" in call("log", store).stdout
    assert "Last of what ran" not in call("info", store).stdout


# ------------------------------------------------------------------------------------------------ the logger
def test_the_library_is_silent_unless_asked(tmp_path: Path) -> None:
    store = tmp_path / "map.zarr"
    convert(MadeReader(COUNTS), store)
    script = f"import eds_chunked as edc; edc.pca(edc.open({str(store)!r}), n_components=2)"
    quiet = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert (quiet.stdout, quiet.stderr) == ("", "")
    asked = f"import logging; logging.basicConfig(level='INFO'); {script}"
    told = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True).stderr
    assert "INFO:eds_chunked.memory:pca: " in told
    assert "INFO:eds_chunked.progress:pca: a pass in" in told


@pytest.mark.parametrize(("level", "lines"), [("debug", True), ("info", True), ("warning", False), ("error", False)])
def test_log_level(tmp_path: Path, level: str, lines: bool) -> None:
    store = tmp_path / "map.zarr"
    convert(MadeReader(COUNTS), store)
    log = logging.getLogger("eds_chunked")
    before = list(log.handlers), log.propagate, log.level
    done = call("pca", store, "-k", 2, "--log-level", level)
    for line in ("info: pca: begins, on ", "projected peak", "info: pca: done after "):
        assert (line in done.stderr) is lines
    assert ("debug: pca: {" in done.stderr) is (level == "debug")
    # What one verb asks for is not left to the next.
    assert (log.handlers, log.propagate, log.level) == before


# What prints a script for the shell does nothing that there is to log.
@pytest.mark.parametrize("verb", sorted(set(main.commands) - {"completion"}))
def test_every_verb_has_a_log_level(verb: str) -> None:
    assert "--log-level" in call(verb, "--help").stdout
