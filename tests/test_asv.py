"""The classes that asv runs, here on tiny data and without asv."""

import inspect
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.asv_suite import codec, imports, steps

CONF = Path(steps.__file__).parents[1] / "asv.conf.json"
SMALL = {"shape": (67, 71, 97), "chunk": (11, 13, 97)}
ROOMY = "6GB"
"""A budget is of a whole process, and this one has run many tests."""
KINDS = ("time_", "peakmem_", "track_", "timeraw_")
SUITES = [
    one
    for module in (codec, imports, steps)
    for name, one in inspect.getmembers(module, inspect.isclass)
    if one.__module__ == module.__name__ and not name.startswith("_")
]


def benchmarks_of(suite):
    return {name: one for name, one in inspect.getmembers(suite, inspect.isfunction) if name.startswith(KINDS)}


def arguments_of(suite):
    params = getattr(suite, "params", [])
    return list(itertools.product(*(params if params and isinstance(params[0], list) else [params] if params else [])))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("asv")


@pytest.fixture(scope="module")
def cached(folder):
    """The store that asv would make once for all suites that want the same."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(steps._OnAStore, "shape", SMALL["shape"])
            patch.setattr(steps, "MEMORY", ROOMY)
            return steps._OnAStore().setup_cache()
    finally:
        os.chdir(before)


@pytest.mark.parametrize("suite", SUITES, ids=lambda suite: suite.__name__)
def test_every_benchmark_runs(suite, cached, folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setattr(steps, "MEMORY", ROOMY)
    for name, small in SMALL.items():
        if hasattr(suite, name):
            monkeypatch.setattr(suite, name, small)
    made = (cached,) if hasattr(suite, "setup_cache") else ()
    ran = 0
    for arguments in arguments_of(suite):
        one = suite()
        getattr(one, "setup", lambda *_: None)(*made, *arguments)
        for name, function in benchmarks_of(suite).items():
            found = function(one, *made, *arguments)
            ran += 1
            if name.startswith("track_"):
                assert found > 0
                assert function.unit
            elif name.startswith("timeraw_"):
                subprocess.run([sys.executable, "-c", found], check=True, capture_output=True)
            else:
                assert found is None
    assert ran >= 2


def test_all_kinds_are_tracked():
    names = [name for suite in SUITES for name in benchmarks_of(suite)]
    assert all(any(name.startswith(kind) for name in names) for kind in KINDS)
    assert "peakmem_reference" in names


def test_asv_finds_the_suite():
    conf = json.loads(CONF.read_text())
    assert conf["environment_type"] == "existing"
    assert (CONF.parent / conf["benchmark_dir"] / "__init__.py").exists()
    assert (CONF.parent / conf["repo"] / "pyproject.toml").exists()
