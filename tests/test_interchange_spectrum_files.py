"""Spectra as EMSA/MSA and CSV: what other software reads is what was summed."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from rsciio.msa import file_reader

from eds_chunked import schema
from eds_chunked.errors import ChunkLayoutError, MissingResultError, ParameterError, StoreExistsError
from eds_chunked.interchange.spectrum_files import write_spectra
from eds_chunked.phases.rates import mean_spectra

N_CHANNELS = 61
NAMES = {"2": "../quartz: SiO2, Gänge\n", "4": "a" * 150}


def made_spectra(*, of_grains=False, live=True, **attrs):
    rng = np.random.default_rng(7)
    numbers = [3, 17, 5] if of_grains else [1, 2, 4]
    what = schema.GRAIN if of_grains else schema.PHASE
    name = schema.GRAIN_SPECTRUM if of_grains else schema.SPECTRUM
    counts = rng.poisson(rng.gamma(0.4, 9000, (3, N_CHANNELS))).astype(np.uint64)
    counts[1] += np.uint64(2**40)
    counts[2] = 0
    energy = -0.0963 + 0.0101 * np.arange(N_CHANNELS)
    columns = {schema.N_PIXELS: [7, 11, 0]} | ({schema.LIVE_TIMES: [0.25, 1.75, 0.0]} if live else {})
    return xr.Dataset(
        {name: ((what, schema.ENERGY), counts)} | {key: (what, values) for key, values in columns.items()},
        coords={what: numbers, schema.ENERGY: (schema.ENERGY, energy, {"units": schema.KEV})},
        attrs={schema.TITLE: "P45: a dacite", schema.BEAM_ENERGY: 15.0, schema.PHASE_NAMES: NAMES} | attrs,
    )


def test_rosettasciio_reads_the_same_counts_and_axis(tmp_path):
    spectra = made_spectra(created="2026-02-03T04:05:06.000001+00:00")
    files = write_spectra(spectra, tmp_path / "out.msa")
    # Names that are in a store never become paths.
    assert files == [tmp_path / f"out_{number}.msa" for number in (1, 2, 4)]
    assert sorted(tmp_path.iterdir()) == files
    for i, file in enumerate(files):
        (read,) = file_reader(file)
        np.testing.assert_array_equal(read["data"], spectra[schema.SPECTRUM].values[i].astype(float))
        (axis,) = read["axes"]
        np.testing.assert_allclose(
            axis["offset"] + axis["scale"] * np.arange(axis["size"]), spectra[schema.ENERGY], rtol=0, atol=1e-12
        )
        assert (axis["units"], axis["name"]) == ("keV", "Energy")
        said = read["original_metadata"]
        assert said["FORMAT"] == "EMSA/MAS Spectral Data File"
        assert (said["NPOINTS"], said["NCOLUMNS"], said["DATATYPE"]) == (N_CHANNELS, 1, "Y")
        assert (said["DATE"], said["TIME"], said["YUNITS"]) == ("03-FEB-2026", "04:05", "counts")
        metadata = read["metadata"]
        assert metadata["Signal"]["signal_type"] == "EDS_SEM"
        assert metadata["General"]["title"].startswith(f"phase {(1, 2, 4)[i]}")
        assert said["BEAMKV   -kV"] == 15
        assert said.get("LIVETIME -s") == (0.25, 1.75, None)[i]
        assert f"sum of {(7, 11, 0)[i]} pixels" in said["COMMENT"]
    assert file_reader(files[1])[0]["metadata"]["General"]["title"] == "phase 2 ../quartz SiO2, Gange, P45 a dacite"
    assert "a" * 150 in file_reader(files[2])[0]["metadata"]["General"]["title"].replace(" ", "")
    text = files[0].read_bytes()
    assert text.isascii()
    assert text.startswith(
        b"#FORMAT      : EMSA/MAS Spectral Data File\r\n#VERSION     : 1.0\r\n#TITLE       : phase 1"
    )
    assert text.count(b"\n") == text.count(b"\r\n")
    assert max(map(len, text.split(b"\r\n"))) <= 80
    assert text.endswith(b",\r\n#ENDOFDATA   : \r\n")


def test_hyperspy_loads_an_msa(tmp_path):
    from tests.hyperspy_api import hs

    (file,) = write_spectra(made_spectra(), tmp_path / "one.msa", numbers=[2])
    assert file == tmp_path / "one.msa"
    signal = hs.load(file)
    assert type(signal).__name__ == "EDSSEMSpectrum"
    np.testing.assert_array_equal(signal.data, made_spectra()[schema.SPECTRUM].values[1])
    assert signal.metadata.Acquisition_instrument.SEM.Detector.EDS.live_time == 1.75


def test_csv_has_a_column_a_spectrum_and_units_in_its_header(tmp_path):
    spectra = made_spectra()
    (file,) = write_spectra(spectra, tmp_path / "out.csv")
    table = pd.read_csv(file, encoding="utf-8")
    assert list(table) == [
        "energy_keV",
        "phase_1_counts",
        "phase_2_../quartz: SiO2, Gänge_counts",
        f"phase_4_{'a' * 150}_counts",
    ]
    np.testing.assert_allclose(table["energy_keV"], spectra[schema.ENERGY], rtol=1e-9, atol=1e-9)
    np.testing.assert_array_equal(table.to_numpy()[:, 1:].T, spectra[schema.SPECTRUM])
    assert table.dtypes.iloc[1] == np.int64


@pytest.mark.parametrize(("per", "column"), [("pixel", "counts_per_pixel"), ("second", "counts_per_second")])
def test_means_in_place_of_counts(tmp_path, per, column):
    spectra = made_spectra()
    expected = mean_spectra(spectra, per=per).values
    table = pd.read_csv(write_spectra(spectra, tmp_path / "m.csv", per=per)[0])
    assert list(table)[1] == f"phase_1_{column}"
    np.testing.assert_array_equal(table.to_numpy()[:, 1:].T, expected)
    assert np.isnan(expected[2]).all()
    files = write_spectra(spectra, tmp_path / "m.msa", per=per)
    np.testing.assert_array_equal(file_reader(files[0])[0]["data"], expected[0])
    assert file_reader(files[2])[0]["data"].tolist() == [0.0] * N_CHANNELS


def test_chosen_grains_in_the_order_that_was_asked_for(tmp_path):
    spectra = made_spectra(of_grains=True).chunk({schema.GRAIN: 2})
    files = write_spectra(spectra, tmp_path / "g.msa", numbers=[5, 3])
    assert files == [tmp_path / "g_5.msa", tmp_path / "g_3.msa"]
    np.testing.assert_array_equal(file_reader(files[1])[0]["data"], spectra[schema.GRAIN_SPECTRUM].values[0])
    assert file_reader(files[1])[0]["metadata"]["General"]["title"].startswith("grain 3")
    (file,) = write_spectra(spectra, tmp_path / "g.csv", numbers=[17])
    assert list(pd.read_csv(file)) == ["energy_keV", "grain_17_counts"]


def test_an_axis_without_calibration_is_of_channels(tmp_path):
    spectra = made_spectra()
    channel = (schema.ENERGY, np.arange(N_CHANNELS), {"units": schema.CHANNEL})
    spectra = spectra.assign_coords({schema.ENERGY: channel})
    assert next(iter(pd.read_csv(write_spectra(spectra, tmp_path / "c.csv")[0]))) == "energy_channel"
    files = write_spectra(spectra, tmp_path / "c.msa")
    assert file_reader(files[0])[0]["axes"][0]["units"] == "channel"


def test_what_cannot_be_written_is_refused(tmp_path):
    spectra = made_spectra(live=False)
    for call, error, match in [
        (lambda: write_spectra(spectra, tmp_path / "o.txt"), ParameterError, "suffix '.txt', expected .msa or .csv"),
        (lambda: write_spectra(spectra, tmp_path / "no" / "o.csv"), ParameterError, "no folder"),
        (lambda: write_spectra(spectra, tmp_path / "o.csv", numbers=[1, 3]), ParameterError, "phase to write: found 3"),
        (lambda: write_spectra(spectra, tmp_path / "o.csv", numbers=[]), ParameterError, "found none"),
        (lambda: write_spectra(spectra, tmp_path / "o.csv", per="second"), MissingResultError, "live_time"),
        (lambda: write_spectra(spectra[[schema.N_PIXELS]], tmp_path / "o.csv"), ChunkLayoutError, "'spectrum'"),
        (lambda: write_spectra(spectra.isel(energy=[0, 1, 5]), tmp_path / "o.msa"), ParameterError, "evenly spaced"),
    ]:
        with pytest.raises(error, match=match):
            call()
    many = xr.concat([made_spectra(of_grains=True)] * 400, schema.GRAIN)
    many = many.assign_coords({schema.GRAIN: np.arange(1, 1201)})
    with pytest.raises(ParameterError, match=r"1200 spectra, expected at most 1000.*numbers="):
        write_spectra(many, tmp_path / "o.csv")
    assert list(tmp_path.iterdir()) == []


def test_existing_files_stay_unless_they_are_to_be_replaced(tmp_path):
    spectra = made_spectra()
    (tmp_path / "o_4.msa").write_text("mine")
    with pytest.raises(StoreExistsError, match=r"o_4\.msa"):
        write_spectra(spectra, tmp_path / "o.msa")
    assert [file.name for file in tmp_path.iterdir()] == ["o_4.msa"]
    write_spectra(spectra, tmp_path / "o.msa", overwrite=True)
    assert file_reader(tmp_path / "o_4.msa")[0]["data"].tolist() == [0.0] * N_CHANNELS
