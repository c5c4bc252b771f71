"""Which reader opens which file, the formats that come through RosettaSciIO, and the errors that name the cure."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import eds_chunked as edc
from eds_chunked.errors import CountsError, SourceError, SourceNotFoundError
from eds_chunked.memory import MB
from eds_chunked.readers import describe, open_source
from eds_chunked.readers.hspy import HspyReader
from eds_chunked.readers.ripple import RippleReader
from eds_chunked.readers.rosetta import RosettaReader
from eds_chunked.readers.units import in_kev, in_um
from eds_chunked.schema import SEM
from tests import bcf_files
from tests.dm_files import write_dm
from tests.edax_files import write_spd
from tests.real_data import real_data
from tests.ripple_files import random_counts, write_ripple

SHAPE = (13, 7, 61)
BCF = "P45_the_default_job.bcf"


def read_all(reader: Any, rows: int) -> np.ndarray[Any, Any]:
    bands = list(reader.bands(rows))
    assert [band.y0 for band in bands] == list(range(0, reader.header.shape[0], rows))
    return np.concatenate([band.counts for band in bands])


@pytest.fixture
def signal() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import hyperspy.api as hs

        signal = hs.signals.Signal1D(random_counts(SHAPE).astype(np.uint16))
        signal.metadata.General.title = "rock"
        calibration = (("y", 250.0, "nm"), ("x", 0.5, "um"), ("Energy", 10.0, "eV"))
        for axis, (name, scale, units) in zip(signal.axes_manager._axes, calibration, strict=True):
            axis.name, axis.scale, axis.units = name, scale, units
    return signal


@pytest.mark.parametrize("suffix", ["emd", "nxs"])
def test_other_formats_come_through_rosettasciio(tmp_path: Path, signal: Any, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        signal.save(path)
    reader = open_source(path)
    assert isinstance(reader, RosettaReader)
    for rows in (2, 5, 20):
        np.testing.assert_array_equal(read_all(reader, rows), signal.data)
    header = reader.header
    assert (header.shape, header.dtype) == (SHAPE, np.dtype(np.uint16))
    assert (header.energy_scale, header.energy_offset, header.energy_calibrated) == (0.01, 0.0, True)
    assert header.pixel_size == pytest.approx((0.25, 0.5), rel=1e-12)
    assert (header.title, header.signal_type) == ("rock", SEM)
    assert [found.shape for found in describe(path)] == [SHAPE]
    assert open_source(path, pick="rock").header == header


def test_a_format_that_cannot_wait_says_that_it_holds_the_whole_map(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import hyperspy.api as hs

        hs.signals.Signal1D(np.ones((3, 5, 7), np.float32)).save(tmp_path / "a.nxs")
    reader = open_source(tmp_path / "a.nxs")
    assert reader.peak_bytes(1) >= 3 * 5 * 7 * 4
    assert not reader.header.energy_calibrated


def test_float_counts_that_are_not_whole_are_refused(tmp_path: Path, signal: Any) -> None:
    signal.change_dtype(np.float32)
    signal.data[8, 3, 44] = 0.5
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        signal.save(tmp_path / "a.nxs")
    with pytest.raises(CountsError, match=r"found 0\.5 at y=8, x=3, channel=44,"):
        list(open_source(tmp_path / "a.nxs").bands(5))


def test_the_signature_goes_before_the_suffix(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        file.attrs["file_format"] = "HyperSpy"
        group = file.create_group("Experiments/map")
        group.create_dataset("data", data=random_counts(SHAPE))
        for i, (name, navigate) in enumerate((("y", True), ("x", True), ("Energy", False))):
            group.create_group(f"axis-{i}").attrs.update({"name": name, "navigate": navigate})
    reader = open_source(tmp_path / "a.hdf5")
    assert isinstance(reader, HspyReader)
    np.testing.assert_array_equal(read_all(reader, 6), random_counts(SHAPE))


def test_a_bcf_opens_under_any_name(tmp_path: Path) -> None:
    bruker = pytest.importorskip("eds_chunked.readers.bruker")
    path = real_data(BCF)
    copy = tmp_path / "map.dat"
    copy.symlink_to(path)
    for name in (path, copy):
        for pick in (None, 1):
            reader = open_source(name, pick=pick)
            assert isinstance(reader, bruker.BrukerReader)
            assert reader.header.shape == (75, 100, 2048)
        assert [header.shape for header in describe(name)] == [(75, 100, 2048)]


def test_either_name_of_a_ripple_pair_opens_it(tmp_path: Path) -> None:
    path = write_ripple(tmp_path / "a.rpl", random_counts(SHAPE))
    for name in (path, path.with_suffix(".raw"), str(path)):
        assert isinstance(open_source(name), RippleReader)


# ------------------------------------------------------------------------------------------------- wrong files


@pytest.mark.parametrize("call", [open_source, describe])
def test_no_such_file(tmp_path: Path, call: Any) -> None:
    with pytest.raises(SourceNotFoundError, match=r"nothing\.bcf: found no such file"):
        call(tmp_path / "nothing.bcf")


@pytest.mark.parametrize("call", [open_source, describe])
def test_a_folder(tmp_path: Path, call: Any) -> None:
    with pytest.raises(SourceError, match="found a folder, expected a file"):
        call(tmp_path)


@pytest.mark.parametrize(("name", "found"), [("a.docx", "docx"), ("map", "no suffix")])
def test_an_unknown_format_lists_the_known_ones(tmp_path: Path, name: str, found: str) -> None:
    (tmp_path / name).write_bytes(b"something else")
    with pytest.raises(
        SourceError,
        match=rf"unknown format \(\.?{found}\), expected one of \.bcf \.rpl \.raw \.spd \.hspy.* \.emd .*\.pts ",
    ):
        open_source(tmp_path / name)


def test_a_file_that_no_plugin_can_read(tmp_path: Path) -> None:
    (tmp_path / "a.emd").write_bytes(b"not an EMD file")
    with pytest.raises(SourceError, match=r"EMD: .*export the map as \.rpl/\.raw or \.hspy"):
        open_source(tmp_path / "a.emd")


def test_an_array_without_an_energy_axis(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.ones(SHAPE))
    with pytest.raises(SourceError, match=r"no spectrum image, but 'signal 1': .*no energy axis"):
        open_source(tmp_path / "a.npy")


# ----------------------------------------------------------------------------------------------- small pieces


@pytest.mark.parametrize(
    ("unit", "expected"),
    [("keV", 3.0), ("KEV", 3.0), (" eV ", 0.003), ("", None), (None, None), ("um", None), ("channel", None)],
)
def test_units_of_energy(unit: Any, expected: float | None) -> None:
    assert in_kev(3.0, unit) == expected


@pytest.mark.parametrize(
    ("unit", "expected"),
    [
        *((micro, 3.0) for micro in ("um", "\u00b5m", "\u03bcm", "\u00c2\u00b5m", "Micron", "micrometre", " um")),
        ("m", 3e6),
        ("cm", 3e4),
        ("mm", 3e3),
        ("nm", 0.003),
        ("\u00c5", 3e-4),
        ("\u212b", 3e-4),
        ("pm", 3e-6),
        ("px", None),
        ("<undefined>", None),
        ("keV", None),
    ],
)
def test_units_of_length(unit: Any, expected: float | None) -> None:
    assert in_um(3.0, unit) == expected


def test_importing_the_readers_is_light() -> None:
    code = "import sys, eds_chunked.readers; print(*sorted({m.partition('.')[0] for m in sys.modules}))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"h5py", "dask", "rsciio", "hyperspy", "xarray", "zarr", "sklearn", "skimage", "matplotlib", "pandas"}
    assert not heavy & set(run.stdout.split())


# ------------------------------------------------------------------------------------------------------ memory

# The first bands pay for what the libraries load; then what was freed goes back to the system and the peak, which a
# process can forget, counts from here.
MEASURE = """
import sys
from itertools import islice
from pathlib import Path
from eds_chunked import memory
from eds_chunked.readers import open_source

def look():
    for band in islice(reader.bands(8), 6):
        counts = getattr(band.counts, "value", band.counts)
        counts[..., ::7].max()

reader = open_source(sys.argv[1], memory="400MB")
look()
memory.release()
Path("/proc/self/clear_refs").write_text("5")
before = memory.resident()
look()
print(memory.peak_resident() - before, reader.peak_bytes(8))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc/self/status is Linux only")
@pytest.mark.parametrize("kind", ["vector", "image", "hspy", "spd", "dm4", "bcf"])
def test_resident_memory_stays_within_the_bound(tmp_path: Path, kind: str) -> None:
    band = 8 * 127 * 1024 * 2
    counts = random_counts((331, 127, 1024), high=9).astype(np.uint16)
    if kind == "bcf":
        counts = bcf_files.counts((48, 127, 512), density=0.1)
        band = 3 * np.count_nonzero(counts[8:16])  # bytes of the channels and values
        path = bcf_files.write(tmp_path / "a.bcf", [counts], block_size=0x80000, chunk_size=0x10000)
    elif kind == "hspy":
        path = tmp_path / "a.hspy"
        with h5py.File(path, "w") as file:
            group = file.create_group("Experiments/map")
            # Chunks of whole images: every band needs all of them, one after the other.
            group.create_dataset("data", data=counts, chunks=(331, 127, 64), compression="lzf", shuffle=True)
            for i, navigate in enumerate((True, True, False)):
                group.create_group(f"axis-{i}").attrs["navigate"] = navigate
    elif kind == "spd":
        path = write_spd(tmp_path / "a.spd", counts)
    elif kind == "dm4":
        path = write_dm(tmp_path / "a.dm4", counts)
    else:
        path = write_ripple(tmp_path / "a.rpl", counts, record_by=kind)
    run = subprocess.run([sys.executable, "-c", MEASURE, str(path)], capture_output=True, text=True, check=True)
    grown, bound = map(int, run.stdout.split())
    # What the allocator keeps of what it was given back.
    slack = 2 << 20
    # A band and the one before it must show, or it is not the reading that was measured; a few pages may be old ones.
    assert 1.8 * band <= grown <= bound + slack
    if kind != "bcf":  # where most is not the bands, but the blocks of the file that are in work
        assert bound + slack < counts.nbytes / 2


CONVERT = """
import sys, warnings
import eds_chunked as edc
from eds_chunked import memory
from eds_chunked.errors import MemoryBudgetError
warnings.simplefilter("ignore")
try:
    edc.convert(sys.argv[1], sys.argv[2], memory=sys.argv[3])
except MemoryBudgetError as error:
    print(error.fix)
else:
    print(memory.peak_resident())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc/self/status is Linux only")
@pytest.mark.parametrize("kind", ["spd", "dm4"])
def test_a_conversion_keeps_to_the_smallest_budget_that_is_named(tmp_path: Path, kind: str) -> None:
    counts = np.zeros((331, 127, 1024), np.uint16)
    at = np.random.default_rng(3).integers(0, counts.size, 400_000)
    counts.reshape(-1)[at] = 1 + at % 7
    path = write_spd(tmp_path / "a.spd", counts) if kind == "spd" else write_dm(tmp_path / "a.dm4", counts)

    def converted(budget: str) -> str:
        command = [sys.executable, "-c", CONVERT, str(path), str(tmp_path / "a.zarr"), budget]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    budget = converted("100MB").removeprefix("--memory ")  # too little for the program itself
    peak = int(converted(budget))
    assert 100 * MB < peak <= int(budget.removesuffix("MB")) * MB
    assert int(budget.removesuffix("MB")) * MB < 230 * MB + counts.nbytes  # so that all of it does not fit
    np.testing.assert_array_equal(edc.open(tmp_path / "a.zarr").counts, counts)
