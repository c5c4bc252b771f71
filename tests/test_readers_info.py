"""`info` of a file: at once, whatever its header holds, and without what takes seconds to import."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import zarr
from click.testing import CliRunner, Result

from eds_chunked.cli import main
from eds_chunked.readers import describe, open_source
from eds_chunked.readers.bruker_blocks import crc16
from eds_chunked.readers.rosetta_log import rosetta_log
from tests import bcf_files
from tests.dm_files import write_dm
from tests.edax_files import write_spd
from tests.ripple_files import random_counts, write_ripple

# As on the command line, where a warning is a line on stderr.
pytestmark = pytest.mark.filterwarnings("default::UserWarning")

SHAPE = (13, 7, 61)
AXES = (("y", True), ("x", True), ("Energy", False))


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def bcf(folder: Path) -> Path:
    """A file whose header has an image of 20 MB."""
    files = bcf_files.contents([bcf_files.counts(SHAPE)])
    image = np.random.default_rng(0).integers(0, 1 << 16, (2501, 3001), dtype=np.uint16)
    extra = bcf_files.image_xml("extra", {"a large one": image}).encode()
    files["HeaderData"] = files["HeaderData"].replace(b"<LineCounter>", extra + b"<LineCounter>")
    assert len(files["HeaderData"]) > 20_000_000
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bcf_files, "crc16", crc16)  # its own takes a second for a megabyte
        (folder / "a.bcf").write_bytes(bcf_files.pack(files, block_size=1 << 19, chunk_size=1 << 16))
    return folder / "a.bcf"


def rpl(folder: Path) -> Path:
    return write_ripple(folder / "a.rpl", random_counts(SHAPE))


def spd(folder: Path) -> Path:
    return write_spd(folder / "a.spd", random_counts(SHAPE).astype(np.uint16))


def hspy(folder: Path) -> Path:
    with h5py.File(folder / "a.hspy", "w") as file:
        group = file.create_group("Experiments/map")
        group.create_dataset("data", data=random_counts(SHAPE))
        for i, (name, navigate) in enumerate(AXES):
            group.create_group(f"axis-{i}").attrs.update({"name": name, "navigate": navigate})
    return folder / "a.hspy"


def zspy(folder: Path) -> Path:
    group = zarr.open_group(folder / "a.zspy", mode="a", zarr_format=2).require_group("Experiments").create_group("map")
    group.create_array("data", shape=SHAPE, dtype=np.uint16)[...] = random_counts(SHAPE).astype(np.uint16)
    for i, (name, navigate) in enumerate(AXES):
        group.create_group(f"axis-{i}").attrs.update({"name": name, "navigate": navigate})
    return folder / "a.zspy"


RUN = """
import resource, sys
if len(sys.argv) > 1:
    from eds_chunked.cli import main
    try:
        main(["info", sys.argv[1], "--json"])
    except SystemExit as exit:
        assert exit.code == 0, exit.code
else:
    import click
used = resource.getrusage(resource.RUSAGE_SELF)
print(used.ru_utime + used.ru_stime, *sorted({name.partition(".")[0] for name in sys.modules}))
"""


def run(*arguments: object) -> tuple[float, set[str], str]:
    """Seconds of processor time of a process of its own, what it has imported, and what it printed before."""
    command = [sys.executable, "-c", RUN, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    *printed, last = done.stdout.splitlines()
    seconds, *modules = last.split()
    return float(seconds), set(modules), "\n".join(printed)


@cache
def bare_seconds() -> float:
    return min(run()[0] for _ in range(3))


@pytest.mark.skipif(sys.platform == "win32", reason="processor time of a process is told by the resource module")
@pytest.mark.parametrize("make", [bcf, rpl, spd, hspy, zspy], ids=lambda make: make.__name__)
def test_info_takes_no_second_and_imports_nothing_heavy(tmp_path: Path, make: Any) -> None:
    source = make(tmp_path)
    # Processor time: what others do on the machine is no part of it. The best of three, as the first fills caches.
    found = [run(source) for _ in range(3)]
    for _, modules, printed in found:
        assert not modules & {"dask", "numba", "xarray", "rsciio", "scipy", "pandas"}
        assert json.loads(printed)["maps"][0]["shape"] == list(SHAPE)
    assert min(seconds for seconds, _, _ in found) - bare_seconds() < 1.0


# ------------------------------------------------------------------------------------------- files that are damaged


def cut_bcf(folder: Path) -> Path:
    cube = bcf_files.counts(SHAPE, density=0.9)
    path = bcf_files.write(folder / "cut.bcf", [cube], front=True, packing="pulses16", version=1, compressed=False)
    path.write_bytes(path.read_bytes()[:-20_000])  # of the map, which comes last
    return path


def cut_rpl(folder: Path) -> Path:
    path = rpl(folder)
    path.with_suffix(".raw").write_bytes(path.with_suffix(".raw").read_bytes()[:-100])
    return path


def cut_spd(folder: Path) -> Path:
    path = spd(folder)
    path.write_bytes(path.read_bytes()[:-100])
    return path


@pytest.mark.parametrize("make", [cut_bcf, cut_rpl, cut_spd], ids=lambda make: make.__name__)
def test_what_is_cut_off_is_described_with_its_damage_and_the_remedy(tmp_path: Path, make: Any) -> None:
    path = make(tmp_path)
    result = call("info", path)
    assert result.exit_code == 0, result.stderr
    assert "13 x 7 pixels x 61 channels" in result.stdout
    told = [line for line in result.stderr.splitlines() if "is damaged" in line]
    assert len(told) == 1
    assert told[0].startswith(f"warning: {path} is damaged (")
    assert told[0].endswith(f"; eds-chunked convert {path} STORE --salvage keeps the whole rows before the damage")
    assert len([line for line in result.stderr.splitlines() if "is truncated" in line]) == (make is cut_bcf)
    answer = json.loads(call("info", path, "--json").stdout)
    assert answer["damage"] in told[0]
    assert answer["maps"][0]["shape"] == list(SHAPE)
    # And what it says is true.
    assert call("convert", path, tmp_path / "a.zarr").exit_code == 2
    assert call("convert", path, tmp_path / "a.zarr", "--salvage").exit_code == 0


def test_a_whole_file_has_no_damage(tmp_path: Path) -> None:
    assert json.loads(call("info", rpl(tmp_path), "--json").stdout)["damage"] is None


def test_a_header_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    path = cut_bcf(tmp_path)
    path.write_bytes(path.read_bytes()[:5000])
    result = call("info", path)
    assert (result.exit_code, result.stdout) == (2, "")
    assert [line for line in result.stderr.splitlines() if line.startswith("error: ")] == [
        result.stderr.splitlines()[-1]
    ]


# -------------------------------------------------------------------------------------------- what RosettaSciIO says


def test_the_log_of_rosettasciio_goes_through_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import rsciio.digitalmicrograph._api as api

    path = write_dm(tmp_path / "a.dm4", random_counts(SHAPE).astype(np.uint16))
    original = api.DigitalMicrographReader.parse_header

    def telling(self: Any) -> None:
        api._logger.warning("a tag that\nnobody knows")
        original(self)

    monkeypatch.setattr(api.DigitalMicrographReader, "parse_header", telling)
    for verb in (("info", path), ("convert", path, tmp_path / "a.zarr")):
        result = call(*verb, "--json")
        assert result.exit_code == 0, result.stderr
        json.loads(result.stdout)  # nothing else is there
        assert result.stderr.splitlines() == ["warning: a tag that nobody knows"]
        assert call(*verb[:2], "--quiet").stderr == "" or verb[0] == "convert"


def test_the_log_of_rosettasciio_is_left_as_it_was(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    import rsciio  # noqa: F401

    theirs = logging.getLogger("rsciio")
    before = theirs.handlers, theirs.propagate
    with rosetta_log():
        theirs.warning("inside")
        theirs.debug("too little to be told")
    assert (theirs.handlers, theirs.propagate) == before
    assert [(record.name, record.message) for record in caplog.records] == [("rsciio", "inside")]
    open_source(write_dm(tmp_path / "a.dm4", random_counts(SHAPE).astype(np.uint16)))
    assert (theirs.handlers, theirs.propagate) == before


def test_describe_salvages_only_on_request(tmp_path: Path) -> None:
    from eds_chunked.errors import ParameterError, SourceError

    path = cut_rpl(tmp_path)
    with pytest.raises(SourceError, match="--salvage"):
        describe(path)
    (header,) = describe(path, salvage=True)
    assert header.shape == SHAPE
    with pytest.raises(ParameterError, match=r"found a \.hspy file"):
        describe(hspy(tmp_path), salvage=True)
