"""Chunks of a table of spectra: the bytes that Zarr would make, and damage that is told."""

import numpy as np
import pytest
import zarr

from eds_chunked.store.spectra_table import CHECKED_SPECTRA, spectra_shape, write_spectra_chunk


def made(folder, name, dtype):
    return zarr.create_array(folder, name=name, shape=(23, 61), chunks=(7, 61), dtype=dtype, **CHECKED_SPECTRA)


@pytest.mark.parametrize("dtype", [np.uint32, np.uint64, np.float64, ">u4"])
def test_the_bytes_are_those_of_zarr(tmp_path, dtype):
    values = np.random.default_rng(1).poisson(9, (23, 61)).astype(dtype)
    values[7:14] = 0
    ours = made(tmp_path, "ours", dtype)
    for chunk in range(4):
        write_spectra_chunk(ours, chunk, values[7 * chunk : 7 * chunk + 7])
    np.testing.assert_array_equal(ours[...], values)
    with zarr.config.set({"array.write_empty_chunks": True}):
        made(tmp_path, "theirs", dtype)[...] = values
    for chunk in range(4):
        mine, its = ((tmp_path / name / "c" / str(chunk) / "0").read_bytes() for name in ("ours", "theirs"))
        assert mine == its


def test_a_flipped_bit_is_an_error(tmp_path):
    table = made(tmp_path, "table", np.uint32)
    write_spectra_chunk(table, 1, np.full((7, 61), 12345, np.uint32))
    chunk = tmp_path / "table" / "c" / "1" / "0"
    data = bytearray(chunk.read_bytes())
    data[20] ^= 4
    chunk.write_bytes(bytes(data))
    with pytest.raises(ValueError, match="checksum"):
        table[8]


@pytest.mark.parametrize(
    ("n_spectra", "n_channels", "itemsize", "rows"), [(10**5, 2048, 4, 256), (3, 2048, 4, 3), (10, 2**22, 8, 1)]
)
def test_a_chunk_is_two_megabytes_at_most_and_one_spectrum_at_least(n_spectra, n_channels, itemsize, rows):
    assert spectra_shape(n_spectra, n_channels, itemsize) == (rows, n_channels)
