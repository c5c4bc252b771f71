"""Healthy .bcf files: counts, header and images come out exactly."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import threading
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eds_chunked.cli.describing import header_facts, map_lines
from eds_chunked.errors import ParameterError, SourceError, SourceNotFoundError
from eds_chunked.kernels.sparse import Csr, to_dense
from eds_chunked.readers import bruker, open_source
from eds_chunked.readers.base import Band, Box
from eds_chunked.readers.bruker import BrukerReader, describe
from eds_chunked.readers.bruker_blocks import crc16
from eds_chunked.readers.bruker_container import Container
from eds_chunked.schema import SEM, TEM
from tests import bcf_files
from tests.real_data import real_data

REAL = {
    "P45_8bit_compressed_80keV_range.bcf": ((75, 100, 4096), 4_627_814, 84),
    "P45_12bit_packed_8bit_compressed.bcf": ((75, 100, 2048), 915_942, 16),
    "P45_the_default_job.bcf": ((75, 100, 2048), 165_941, 7),
}


def read(path: Path, rows: int = 3, pick: int | None = None) -> np.ndarray:
    """The whole map as uint32."""
    reader = BrukerReader(path, pick=pick)
    return read_bands(reader, reader.bands(rows), Box.whole(reader.header.shape), rows)


def read_bands(reader: BrukerReader, bands: Iterable[Band], box: Box, rows: int) -> np.ndarray:
    """The bands of a box as uint32, each checked to be well-formed and as narrow as its counts allow."""
    _, width, n_channels = box.shape
    parts, done = [np.zeros((0, n_channels), np.uint32)], 0
    for band in bands:
        assert isinstance(band.counts, Csr)
        assert band.y0 == box.ys.start + done
        # A bright band may be shorter, but then the next one ends where this one should have.
        assert 0 < band.rows <= rows - done % rows
        done += band.rows
        indptr, channel, value, channels = band.counts
        assert channels == n_channels
        assert len(indptr) == band.rows * width + 1
        assert indptr[0] == 0
        assert indptr[-1] == len(channel) == len(value)
        assert (value > 0).all()
        assert value.dtype == np.min_scalar_type(int(value.max(initial=0)))
        pixel = np.repeat(np.arange(len(indptr) - 1), np.diff(indptr))
        assert (np.diff(pixel * n_channels + channel.astype(np.int64)) > 0).all()
        parts.append(to_dense(band.counts, np.uint32))
    return np.concatenate(parts).reshape(done, width, n_channels)


def compile_kernels(folder: Path) -> None:
    """Read counts of every width once, so that no test that takes the time meets the compiler."""
    cube = bcf_files.counts((1, 1, 3))
    cube[0, 0, :] = 1, 300, 70000
    read(bcf_files.write(folder / "wide.bcf", [cube]))


# ------------------------------------------------------------------------------------------------------ our writer
@pytest.mark.parametrize("packing", bcf_files.PACKINGS)
@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("compressed", [True, False], ids=["zlib", "plain"])
def test_every_packing(tmp_path: Path, packing: str, version: int, compressed: bool) -> None:
    cube = bcf_files.counts((5, 7, 61))
    path = bcf_files.write(
        tmp_path / "a.bcf", [cube], packing=packing, version=version, compressed=compressed, extra=3
    )  # fmt: skip
    np.testing.assert_array_equal(read(path), cube)


@given(
    shape=st.tuples(st.integers(1, 5), st.integers(1, 9), st.integers(1, 300)),
    packing=st.sampled_from(bcf_files.PACKINGS),
    extra=st.integers(0, 4),
    version=st.sampled_from([1, 2]),
    compressed=st.booleans(),
    chunk_size=st.sampled_from([0x220, 0x224, 0xE49, 0x1000]),
    block_size=st.sampled_from([7, 100, 1000, 0x80000]),
    scatter=st.booleans(),
    rows=st.integers(1, 6),
    density=st.floats(0, 1),
    largest=st.sampled_from([1, 15, 16, 255, 256, 700]),
    seed=st.integers(0, 99),
)
@settings(max_examples=80, deadline=None)
def test_drawn_files(
    tmp_path_factory: pytest.TempPathFactory, shape: tuple[int, int, int], packing: str, extra: int, version: int,
    compressed: bool, chunk_size: int, block_size: int, scatter: bool, rows: int, density: float, largest: int,
    seed: int,
) -> None:  # fmt: skip
    cube = bcf_files.counts(shape, seed=seed, density=min(density, 4000 / np.prod(shape)), largest=largest)
    path = bcf_files.write(
        tmp_path_factory.getbasetemp() / "drawn.bcf", [cube], packing=packing, extra=extra, version=version,
        compressed=compressed, chunk_size=chunk_size, block_size=block_size, scatter=scatter,
    )  # fmt: skip
    np.testing.assert_array_equal(read(path, rows), cube)


@pytest.mark.parametrize("packing", ["nibbles", "words", "longs"])
@pytest.mark.parametrize("hot", [255, 256, 65535, 65536, 4_000_000_000])
def test_counts_widen_but_never_wrap(tmp_path: Path, packing: str, hot: int) -> None:
    # Dimmer rows before and after: bands of one row must be wide only where they have to be.
    cube = bcf_files.counts((4, 3, 29))
    cube[2, 1, 11] = hot
    path = bcf_files.write(tmp_path / "hot.bcf", [cube], packing=packing)
    for rows in (1, 4):
        np.testing.assert_array_equal(read(path, rows), cube)


def test_additional_pulses_alone_and_above_the_bunches(tmp_path: Path) -> None:
    cube = np.zeros((1, 3, 50), np.uint32)
    cube[0, 0, [3, 49]] = 1, 300  # extra=1: every count is an additional pulse and no bunch is left
    cube[0, 2, 7] = 2
    path = bcf_files.write(tmp_path / "a.bcf", [cube], extra=1)
    np.testing.assert_array_equal(read(path), cube)


def test_many_unsorted_pulses_are_sorted(tmp_path: Path) -> None:
    cube = np.random.default_rng(2).poisson(20, (1, 2, 997)).astype(np.uint32)
    path = bcf_files.write(tmp_path / "a.bcf", [cube], packing="words", extra=1)
    np.testing.assert_array_equal(read(path), cube)


def test_a_record_longer_than_chunks_and_blocks(tmp_path: Path) -> None:
    cube = np.full((2, 2, 1500), 3, np.uint32)
    for compressed in (True, False):
        path = bcf_files.write(
            tmp_path / "a.bcf", [cube], packing="pulses16", chunk_size=0x220, block_size=64, compressed=compressed
        )  # fmt: skip
        np.testing.assert_array_equal(read(path), cube)


def test_several_maps(tmp_path: Path) -> None:
    cubes = [bcf_files.counts((3, 5, 31), seed=seed) for seed in range(11)]
    path = bcf_files.write(tmp_path / "stack.bcf", cubes)
    assert [header.metadata["header_total_counts"] for header in describe(path)] == [int(c.sum()) for c in cubes]
    assert [header.title for header in describe(path)] == [f"Bröt & Käse (map {i})" for i in range(1, 12)]
    for i, cube in enumerate(cubes, 1):
        np.testing.assert_array_equal(read(path, pick=i), cube)
    assert BrukerReader(path, pick="Bröt & Käse (map 2)").header == describe(path)[1]
    with pytest.raises(SourceError, match="11 spectrum images"):
        BrukerReader(path)
    for pick in (-1, 0, 12):
        with pytest.raises(ParameterError, match=f"found '?{pick}'?"):
            BrukerReader(path, pick=pick)


# ----------------------------------------------------------------------------------------------------------- header
def test_header(tmp_path: Path) -> None:
    cube = bcf_files.counts((3, 5, 31))
    path = bcf_files.write(tmp_path / "a.bcf", [cube])
    (header,) = describe(path)
    assert header == BrukerReader(path).header
    assert header.shape == (3, 5, 31)
    assert header.pixel_size == (0.75, 1.25)  # DY, DX; DX has a decimal comma and DY a point
    assert (header.energy_scale, header.energy_offset) == (0.010001, -0.472)
    assert header.beam_energy == 20.0
    assert header.signal_type == SEM
    assert header.elements == ("Fe", "O")
    assert header.title == "Bröt & Käse"
    assert header.live_time is None
    assert header.real_time == pytest.approx(3 * 30 * 5 * 2 * 16 * 2e-6)
    assert header.metadata["energy_resolution_mn_ka_ev"] == 125.97
    assert header.metadata["stage_x_um"] == 62000.0
    assert header.metadata["elevation_angle_deg"] == 35.0
    assert header.metadata["detector_type"] == "XFlash 6|30"
    assert header.metadata["date"] == "14.3.2017"


def test_info_says_what_the_header_says_of_the_counts(tmp_path: Path) -> None:
    cube = bcf_files.counts((40, 50, 31), density=0.9)
    (header,) = describe(bcf_files.write(tmp_path / "a.bcf", [cube], block_size=0x80000))
    (line,) = (text for name, text in map_lines(header_facts(header), "a.bcf").rows if name == "counts")
    assert line == f"about {int(cube.sum()):,} in all (by the header)"


def test_missing_optional_nodes(tmp_path: Path) -> None:
    cube = bcf_files.counts((3, 5, 31))
    path = bcf_files.write(tmp_path / "a.bcf", [cube], microscope="", images={}, elements=())
    (header,) = describe(path)
    assert header.pixel_size is None
    assert header.elements == ()
    assert header.beam_energy == 20.0  # from the spectrum's own header
    assert [image.name for image in BrukerReader(path).images()] == ["Ch 1"]
    np.testing.assert_array_equal(read(path), cube)


def test_a_transmission_microscope_by_its_voltage(tmp_path: Path) -> None:
    path = bcf_files.write(tmp_path / "a.bcf", [bcf_files.counts((1, 2, 3))], microscope="<HV>2E2</HV>")
    assert describe(path)[0].signal_type == TEM
    assert describe(path)[0].beam_energy == 200.0


def test_images(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    planes = {"BSE": rng.integers(0, 65536, (3, 5), np.uint16), "SE": rng.integers(0, 65536, (3, 5), np.uint16)}
    path = bcf_files.write(tmp_path / "a.bcf", [bcf_files.counts((3, 5, 31))], images=planes)
    found = {image.name: image for image in BrukerReader(path).images()}
    assert list(found) == ["BSE", "SE", "Ch 1"]
    for name, pixels in planes.items():
        np.testing.assert_array_equal(found[name].pixels, pixels)
        assert found[name].pixel_size == (0.75, 1.25)
    assert found["Ch 1"].pixels.shape == (3, 5)
    assert found["Ch 1"].pixel_size is None


def test_describe_imports_neither_numba_nor_dask(tmp_path: Path) -> None:
    path = bcf_files.write(tmp_path / "a.bcf", [bcf_files.counts((3, 5, 31))])
    code = (
        "import sys; from eds_chunked.readers.bruker import describe;"
        f"describe({str(path)!r}); print([m for m in ('numba', 'dask', 'xarray', 'zarr') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(SourceNotFoundError, match=r"none\.bcf"):
        describe(tmp_path / "none.bcf")
    with pytest.raises(SourceNotFoundError, match="a folder"):
        describe(tmp_path)


def test_bands_need_a_row(tmp_path: Path) -> None:
    path = bcf_files.write(tmp_path / "a.bcf", [bcf_files.counts((1, 2, 3))])
    with pytest.raises(ParameterError, match="rows"):
        next(BrukerReader(path).bands(0))


def test_a_pass_that_is_given_up_leaves_no_thread(tmp_path: Path) -> None:
    path = bcf_files.write(tmp_path / "a.bcf", [bcf_files.counts((5, 7, 61))], packing="pulses16", block_size=50)
    before = threading.active_count()
    bands = BrukerReader(path).bands(1)
    next(bands)
    assert threading.active_count() > before
    bands.close()
    assert threading.active_count() == before


def test_the_file_is_opened_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = bcf_files.write(tmp_path / "two.bcf", [bcf_files.counts((3, 5, 31), seed=seed) for seed in (0, 1)])
    made = []

    def counting(*arguments: Any, **options: Any) -> Container:
        made.append(arguments)
        return Container(*arguments, **options)

    monkeypatch.setattr(bruker, "Container", counting)
    assert open_source(path, pick=2).header.title.endswith("(map 2)")
    assert len(made) == 1


def test_passes_may_run_at_once(tmp_path: Path) -> None:
    cube = bcf_files.counts((5, 7, 61))
    reader = BrukerReader(bcf_files.write(tmp_path / "a.bcf", [cube], packing="mixed", block_size=50))
    for one, other in zip(reader.bands(2), reader.bands(2), strict=True):
        for ours, theirs in zip(one.counts, other.counts, strict=True):
            np.testing.assert_array_equal(ours, theirs)


@given(st.binary(max_size=700))
@settings(max_examples=60, deadline=None)
def test_crc16(data: bytes) -> None:
    assert crc16(data) == bcf_files.crc16(data)


def test_crc16_of_the_catalogue() -> None:
    assert crc16(b"123456789") == 0xBB3D


# ------------------------------------------------------------------------------------------------------- other tools
def eager(path: Path) -> list[np.ndarray]:
    """Maps and images as RosettaSciIO reads them, counts as uint32 so that it cannot wrap them."""
    from rsciio.bruker import _api

    reader = _api.BCF_reader(str(path))
    return [reader.parse_hypermap(index=i, lazy=False) for i in reader.available_indexes]


@pytest.mark.parametrize("name", REAL)
def test_real_maps_equal_rosettasciio(name: str) -> None:
    path = real_data(name)
    shape, total, largest = REAL[name]
    cube = read(path, 31)
    assert cube.shape == shape
    assert int(cube.sum(dtype=np.uint64)) == total
    assert int(cube.max()) == largest
    (other,) = eager(path)
    np.testing.assert_array_equal(cube, other)


def test_real_header_and_images_equal_rosettasciio() -> None:
    from rsciio.bruker import file_reader

    path = real_data("P45_12bit_packed_8bit_compressed.bcf")
    reader = BrukerReader(path)
    signals = file_reader(str(path))
    (cube,) = (signal for signal in signals if signal["data"].ndim == 3)
    axes = {axis["name"]: axis for axis in cube["axes"]}
    assert reader.header.pixel_size == pytest.approx((axes["height"]["scale"], axes["width"]["scale"]))
    assert reader.header.energy_scale == axes["Energy"]["scale"]
    assert reader.header.energy_offset == axes["Energy"]["offset"]
    assert list(reader.header.elements) == sorted(cube["metadata"]["Sample"]["elements"])
    detector = cube["metadata"]["Acquisition_instrument"]["SEM"]["Detector"]["EDS"]
    assert reader.header.real_time == pytest.approx(detector["real_time"])
    assert reader.header.metadata["elevation_angle_deg"] == detector["elevation_angle"]
    images = {image.name: image.pixels for image in reader.images()}
    others = {signal["metadata"]["General"]["title"]: signal["data"] for signal in signals if signal["data"].ndim == 2}
    assert images.keys() == others.keys()
    for name, pixels in images.items():
        np.testing.assert_array_equal(pixels, others[name])


@pytest.fixture(scope="module")
def make_bcf() -> ModuleType:
    """The team's own synthetic writer, independent of this one."""
    path = Path(__file__).parents[2] / "shared" / "tools" / "make_bcf.py"
    if not path.exists():
        pytest.skip("make_bcf.py is not here (looked in ../shared/tools)")
    spec = importlib.util.spec_from_file_location("make_bcf", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Its compiled functions are cached beside it, which may be read-only, and never inside this project.
    sys.modules["make_bcf"] = module
    spec.loader.exec_module(module)
    return module


MADE = {
    "packed": {"width": 13, "height": 11, "channels": 512, "mean_counts": 150, "compressed": True},
    "pulses12": {"width": 17, "height": 5, "channels": 2048, "mean_counts": 60, "compressed": False, "bcf_version": 1},
    "pulses16": {"width": 7, "height": 19, "channels": 1024, "mean_counts": 90, "compressed": True},
    "mixed": {
        "width": 23,
        "height": 7,
        "channels": 4096,
        "mean_counts": 200,
        "compressed": True,
        "chunk_size": 0x1000,
        "scatter": True,
    },
    "packed-plain": {
        "width": 5,
        "height": 13,
        "channels": 300,
        "mean_counts": 5000,
        "compressed": False,
        "hot_pixels": 3,
    },
}


@pytest.mark.parametrize("flavour", MADE)
def test_made_maps_equal_their_truth_and_rosettasciio(tmp_path: Path, make_bcf: ModuleType, flavour: str) -> None:
    path = tmp_path / "made.bcf"
    make_bcf.make_bcf(path, flavour=flavour, truth=True, threads=1, empty_fraction=0.1, seed=3, maps=2, **MADE[flavour])
    for i, other in enumerate(eager(path)):
        cube = read(path, 4, pick=i + 1)
        assert int(cube.sum()) == int(np.load(tmp_path / "made.truth.npz")[f"sum_image{'_1' if i else ''}"].sum())
        np.testing.assert_array_equal(cube.astype(other.dtype), other)  # which wraps hot pixels
    synth = make_bcf.Synth.from_truth(tmp_path / "made.truth.npz")
    np.testing.assert_array_equal(read(path, 3, pick=1), np.stack([synth.row(y) for y in range(synth.height)]))
