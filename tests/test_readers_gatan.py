"""Gatan .dm3 and .dm4: tags through RosettaSciIO, counts from where they stand in the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rsciio.digitalmicrograph import file_reader

from eds_chunked.errors import CountsError, SourceError
from eds_chunked.readers import describe, open_source
from eds_chunked.readers.base import Box
from eds_chunked.schema import TEM
from tests.dm_files import write_dm
from tests.ripple_files import random_counts

SHAPE = (13, 7, 61)
TAGS = {"EDS": {"Live_time": 3.5, "Real_time": 4.25}, "Microscope Info": {"Voltage": 200e3}}


def read_all(reader: Any, rows: int, box: Box | None = None) -> np.ndarray[Any, Any]:
    whole = box or Box.whole(reader.header.shape)
    bands = list(reader.bands(rows, box))
    assert [band.y0 for band in bands] == list(range(whole.ys.start, whole.ys.stop, rows))
    return np.concatenate([band.counts for band in bands])


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    dtype=st.sampled_from(["u1", "u2", "i4", "u4", "f4", "f8"]),
    version=st.sampled_from([3, 4]),
    rows=st.integers(1, 15),
    data=st.data(),
)
def test_a_box_is_what_rosettasciio_reads(tmp_path: Path, dtype: str, version: int, rows: int, data: Any) -> None:
    counts = random_counts(SHAPE, high=200).astype(dtype)
    path = write_dm(tmp_path / f"a.dm{version}", counts)
    (expected,) = file_reader(str(path))
    np.testing.assert_array_equal(expected["data"], counts.transpose(2, 0, 1))
    reader = open_source(path)
    assert reader.header.shape == SHAPE
    np.testing.assert_array_equal(read_all(reader, rows), counts)
    starts = [data.draw(st.integers(0, n - 1)) for n in SHAPE]
    box = Box(*(slice(a, data.draw(st.integers(a + 1, n))) for a, n in zip(starts, SHAPE, strict=True)))
    np.testing.assert_array_equal(read_all(reader, rows, box), counts[box])


def test_the_counts_do_not_come_through_mapped_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = random_counts(SHAPE).astype(np.uint16)
    reader = open_source(write_dm(tmp_path / "a.dm4", counts))
    monkeypatch.setattr(da.Array, "compute", None, raising=False)
    np.testing.assert_array_equal(read_all(reader, 4), counts)
    # Two bands and a group of planes, not a chunk of 128 MiB.
    assert reader.peak_bytes(4) < 8 * 7 * 61 * 2 + 64 * 4 * 7 * 2 + (1 << 19)


@pytest.mark.parametrize("version", [3, 4])
def test_what_the_tags_say(tmp_path: Path, version: int) -> None:
    path = write_dm(tmp_path / f"a.dm{version}", random_counts(SHAPE).astype(np.uint16), tags=TAGS)
    header = open_source(path).header
    assert (header.energy_scale, header.energy_offset) == pytest.approx((0.01, -0.48))
    assert header.pixel_size == pytest.approx((0.5e-3, 0.25e-3))
    assert (header.title, header.signal_type, header.beam_energy) == ("rock", TEM, 200.0)
    assert (header.live_time, header.real_time) == (3.5, 4.25)
    assert describe(path) == (header,)


def test_a_value_that_is_no_count_is_named_with_its_pixel(tmp_path: Path) -> None:
    counts = random_counts(SHAPE).astype(np.int32)
    counts[9, 4, 50] = -3
    with pytest.raises(CountsError, match=r"a\.dm4: found -3 at y=9, x=4, channel=50,"):
        list(open_source(write_dm(tmp_path / "a.dm4", counts)).bands(4))


@pytest.mark.parametrize("call", [open_source, describe])
def test_a_file_that_is_cut_off(tmp_path: Path, call: Any) -> None:
    # The tags after the counts are lost with their end, so that RosettaSciIO has nothing to say of it.
    path = write_dm(tmp_path / "a.dm3", random_counts(SHAPE).astype(np.uint16))
    for share in (0.02, 0.5, 0.98):
        path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
        with pytest.raises(SourceError, match=r"a\.dm3: found DigitalMicrograph: .*copy the file again"):
            call(path)


def test_a_file_that_became_shorter_since_it_was_opened(tmp_path: Path) -> None:
    path = write_dm(tmp_path / "a.dm3", random_counts(SHAPE).astype(np.uint16))
    reader = open_source(path)
    path.write_bytes(path.read_bytes()[: 13 * 7 * 50 * 2])
    with pytest.raises(SourceError, match=r"a\.dm3: found 9100 bytes, expected at least \d+ bytes.*truncated"):
        list(reader.bands(4))
