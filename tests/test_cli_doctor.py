"""``doctor`` on a whole environment and on broken ones, and what a shell completes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from click.testing import CliRunner

from eds_chunked import memory, progress
from eds_chunked.cli import health, main


def call(*arguments: str, code: int = 0) -> str:
    done = CliRunner().invoke(main, list(arguments))
    assert done.exit_code == code, done.output
    return done.stdout


def test_a_whole_environment_is_well(tmp_path: Path) -> None:
    found = json.loads(call("doctor", str(tmp_path / "new" / "map.zarr"), "--json"))
    assert found["well"] is True
    checks = found["checks"]
    assert list(checks) == [
        *("versions", "requirements", "memory", "processors", "counts codec", "BLAS", "compiled code", "disk"),
    ]
    for package in ("eds-chunked", "numpy", "zarr", "xarray"):
        assert f"{package} {metadata.version(package)}" in checks["versions"]["found"]
    assert memory.format_size(psutil.virtual_memory().total) in checks["memory"]["found"]
    assert checks["processors"]["found"].startswith(str(memory.n_cpus()))
    assert str(tmp_path) in checks["disk"]["found"]
    assert "threads" in checks["BLAS"]["found"]
    text = call("doctor")
    assert "All is well." in text
    assert "disk" not in text
    assert call("doctor", "--quiet") == "well\n"


def test_the_limit_of_a_container_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "container_free", lambda: 200 * memory.MB)
    found = json.loads(call("doctor", "--json", code=memory.resident() < 450 * memory.MB))["checks"]["memory"]
    assert "200 MB free of" in found["found"]
    assert "200 MB left by the limit of the container" in found["found"]


def test_too_little_memory_is_not_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available", lambda: memory.MB)
    monkeypatch.setattr(memory, "resident", lambda: health.SMALLEST_BUDGET - 2 * memory.MB)
    text = call("doctor", code=1)
    assert "close other programs" in text
    assert "All is well" not in text
    assert call("doctor", "--quiet", code=1) == "memory\n"


def test_a_package_that_is_too_old_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = metadata.version
    monkeypatch.setattr(health, "version", lambda name: "2.18.7" if name == "zarr" else real(name))
    found = json.loads(call("doctor", "--json", code=1))["checks"]["requirements"]
    assert found["found"] == "zarr 2.18.7 (needs >=3.1)"
    assert found["fix"].startswith("pip install")


def test_a_codec_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "entry_points", lambda group: [SimpleNamespace(name="another")])
    found = json.loads(call("doctor", "--json", code=1))["checks"]["counts codec"]
    assert "no entry point 'eds_chunked.counts'" in found["found"]


def test_no_cache_of_compiled_code_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from eds_chunked.kernels import connected

    (tmp_path / "file").write_text("no folder")
    nowhere = SimpleNamespace(stats=SimpleNamespace(cache_path=str(tmp_path / "file" / "cache")))
    monkeypatch.setattr(connected, "piece_boxes", nowhere)
    found = json.loads(call("doctor", "--json", code=1))["checks"]["compiled code"]
    assert found["fix"] == "set NUMBA_CACHE_DIR to a folder that can be written"


def test_a_full_disk_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(health.shutil, "disk_usage", lambda folder: SimpleNamespace(free=memory.MB))
    found = json.loads(call("doctor", str(tmp_path), "--json", code=1))["checks"]["disk"]
    assert found["found"] == f"1 MB free at {tmp_path}"
    assert "no local folder" in call("doctor", "s3://bucket/map.zarr")


# ------------------------------------------------------------------------------------------------ completion
def completed(shell: str, typed: str) -> str:
    """What the program answers a shell that asks how ``typed`` may go on."""
    words = typed.split(" ")
    asked = {"COMP_WORDS": typed, "COMP_CWORD": str(len(words) - 1), "_EDS_CHUNKED_COMPLETE": f"{shell}_complete"}
    if shell == "fish":
        asked["COMP_CWORD"] = words[-1]
    program = "from eds_chunked.cli import main; main(prog_name='eds-chunked')"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env={**os.environ, **asked}, check=True
    )
    return done.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_verbs_options_and_files_are_completed(shell: str) -> None:
    assert "phases" in completed(shell, "eds-chunked ph")
    assert "pca" not in completed(shell, "eds-chunked ph")
    assert "--salvage" in completed(shell, "eds-chunked convert map.bcf map.zarr --sal")
    assert "file" in completed(shell, "eds-chunked convert ma")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_takes_its_script(shell: str, tmp_path: Path) -> None:
    script = call("completion", shell)
    assert "_EDS_CHUNKED_COMPLETE" in script
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    path = tmp_path / "script"
    path.write_text(script)
    setup = "autoload -U compinit && compinit -D -u; " if shell == "zsh" else ""
    known = {
        "bash": "complete -p eds-chunked",
        "zsh": "print $_comps[eds-chunked]",
        "fish": "complete -c eds-chunked",
    }[shell]
    done = subprocess.run(
        [shell, "-c", f"{setup}source {path} && {known}"], capture_output=True, text=True, check=True, timeout=30
    )
    assert "eds" in done.stdout
    assert done.stderr == ""


def test_another_shell_is_refused_with_those_that_are_known() -> None:
    done = CliRunner().invoke(main, ["completion", "tcsh"])
    assert done.exit_code == 2
    assert "'bash', 'zsh', 'fish'" in done.stderr


def test_an_option_that_is_misspelt_gets_the_right_one() -> None:
    done = CliRunner().invoke(main, ["pca", "map.zarr", "--memry", "2GB"])
    assert done.exit_code == 2
    assert "'--memory'" in done.stderr


# -------------------------------------------------------------------------------------------------- progress
@pytest.mark.parametrize(
    ("speed", "unit", "said"),
    [
        (1.234e6, "pixels", "1.23 M pixels/s"),
        (45_600, "pixels", "45.6 k pixels/s"),
        (7.0, "tiles", "7 tiles/s"),
        (7.0, "", ""),
        (None, "pixels", ""),
    ],
)
def test_rates(speed: float | None, unit: str, said: str) -> None:
    assert progress.rate(speed, unit) == said


@pytest.mark.parametrize(
    ("seconds", "said"), [(None, ""), (0.2, "1 s left"), (61, "1:01 left"), (3725, "1:02:05 left")]
)
def test_time_left(seconds: float | None, said: str) -> None:
    assert progress.time_left(seconds) == said


def test_bars_show_rate_and_time_left(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "110")
    with progress.bars(), progress.step("convert", 1000) as done:
        for _ in range(5):
            done(100)
            time.sleep(0.01)
            progress._shown.refresh()
    shown = capsys.readouterr().err
    assert "pixels/s" in shown
    assert "left" in shown
