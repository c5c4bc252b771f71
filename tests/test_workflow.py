"""The whole way, on a synthetic rock of known truth, on real maps, and from every format that is streamed."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from sklearn.metrics import roc_auc_score

import eds_chunked as edc
from eds_chunked.readers import open_source
from eds_chunked.workflow import nmf_step, pca_step, phases_step, spectra_step, write_model
from tests.real_data import real_data
from tests.ripple_files import write_ripple

DACITE = "P45_8bit_compressed_80keV_range.bcf"
MIDDLE_DOSE = "P45_12bit_packed_8bit_compressed.bcf"
LOW_DOSE = "P45_the_default_job.bcf"
LAMELLA = "88_ES-LP_G8_selection2_cropped2.hspy"

pytestmark = pytest.mark.filterwarnings("ignore::eds_chunked.grains.statistics.FewGrainsWarning")


@pytest.fixture(scope="module")
def rock() -> "edc.synthetic.Rock":
    return edc.synthetic.rock((113, 151, 512), counts_per_pixel=150, n_phases=4, grain_size=17, energy_scale=0.04)


@pytest.fixture(scope="module")
def summary(rock, tmp_path_factory: pytest.TempPathFactory):
    return edc.run(rock, tmp_path_factory.mktemp("run") / "rock.zarr", memory="3GB")


def test_the_advice_is_the_number_of_phases(summary) -> None:
    assert summary.advice.n_components == 4


def test_the_spectra_are_those_of_the_phases(summary, rock) -> None:
    nmf = edc.load(summary.store, "nmf/k4")
    found = nmf["factors"].values
    ds = edc.open(summary.store)
    truth = rock.spectra[:, np.isin(ds["energy"].values, nmf["energy"].values)]
    cosine = found @ truth.T / np.outer(np.linalg.norm(found, axis=1), np.linalg.norm(truth, axis=1))
    assert sorted(cosine.argmax(axis=1)) == [0, 1, 2, 3]
    assert cosine.max(axis=1).min() > 0.99


def test_the_labels_are_those_of_the_phases(summary, rock) -> None:
    label = edc.load(summary.store, "phases")["label"].values
    truth = rock.labels(0, 113)
    found = pd.crosstab(truth.ravel(), label.ravel())
    # Small objects are removed by design; of what is labelled, nearly all must be right.
    right = sum(found[number].max() for number in found if number not in (0, 255))
    labelled = ((label > 0) & (label < 255)).sum()
    assert labelled > 0.9 * label.size
    assert right > 0.98 * labelled


def test_the_modal_table_closes(summary) -> None:
    assert summary.modal["area_percent"].sum() == pytest.approx(100, abs=1e-9)
    assert set(summary.modal["phase"]) >= {"unassigned", "mixed", "1", "4"}


def test_the_phase_spectra_hold_all_channels_and_all_counts(summary) -> None:
    spectra, phases = edc.load(summary.store, "spectra"), edc.load(summary.store, "phases")
    counts = edc.open(summary.store)["counts"].values
    for number in (1, 2, 3, 4):
        expected = counts[phases["label"].values == number].sum(axis=0, dtype=np.uint64)
        np.testing.assert_array_equal(spectra["spectrum"].sel(phase=number), expected)


def test_everything_is_written(summary) -> None:
    names = {path.name for path in summary.folder.iterdir()}
    for wanted in (
        "report.html",
        "modal.csv",
        "grain_sizes.csv",
        "phase_spectra.csv",
        "01_counts.png",
        "02_sum_spectrum.png",
    ):
        assert wanted in names
    for wanted in ("scree", "nmf", "threshold_4", "phase_map", "phase_spectra", "grain_map", "linear", "log"):
        assert any(wanted in name and name.endswith(".png") for name in names), wanted
    diameters = np.loadtxt(summary.folder / "rock_diameters_1.txt")
    assert diameters.min() > 0
    assert "um" in (summary.folder / "rock_diameters_1.txt").read_text().splitlines()[0]
    assert "<html" in summary.report.read_text()


def test_each_result_knows_its_parent(summary) -> None:
    assert summary.addresses == ("pca/main.r1", "nmf/k4.r1", "phases/k4.r1", "spectra/k4.r1", "grains/k4.r1")
    assert edc.load(summary.store, "phases").attrs["parent"] == "nmf/k4.r1"
    assert edc.load(summary.store, "grains").attrs["parent"] == "phases/k4.r1"


def test_a_step_again_with_other_parameters_makes_a_new_revision(summary) -> None:
    nmf = edc.load(summary.store, "nmf/k4")
    assert edc.save(edc.segment_phases(nmf, min_size=3), summary.store) == "phases/k4.r2"
    assert edc.load(summary.store, "phases/k4.r1").attrs["parameters"]["min_size"] == 113 * 151 // 1000


def test_anybody_can_open_it(summary) -> None:
    plain = xr.open_zarr(summary.store, group="map", consolidated=False)
    np.testing.assert_array_equal(plain["counts"].sum(("y", "x")), plain["sum_spectrum"])
    tree = edc.open_tree(summary.store)
    assert "/results/nmf/k4.r1" in tree.groups
    results = xr.open_datatree(summary.store, engine="zarr", group="results", consolidated=False, chunks={})
    assert "/nmf/k4.r1" in results.groups


def share_of_line(nmf: xr.Dataset, energy: float) -> np.ndarray:
    """Share of each component's counts within 0.1 keV of an X-ray line."""
    near = np.abs(nmf["energy"].values - energy) < 0.1
    return nmf["factors"].values[:, near].sum(axis=1)


SI_KA, AL_KA, P_KA, CA_KA, FE_KA = 1.740, 1.487, 2.013, 3.691, 6.403


def test_the_dacite(tmp_path: Path) -> None:
    store = tmp_path / "dacite.zarr"
    ds = edc.convert(real_data(DACITE), store)
    assert ds["counts"].shape == (75, 100, 4096)
    assert int(ds["sum_spectrum"].sum()) == 4_627_814
    assert int(ds["max_spectrum"].max()) == 84
    pca_step(store)
    assert nmf_step(store) == "nmf/k7.r1"
    phases_step(store, min_size=7)
    modal = edc.modal_table(edc.load(store, "phases")).set_index("phase")
    assert modal["area_percent"].sum() == pytest.approx(100, abs=1e-9)
    assert modal.loc["unassigned", "area_percent"] < 20
    # Minerals that are hardly there are not lost among the groundmass: iron oxide (Fe, little Si) and apatite (Ca, P).
    nmf = edc.load(store, "nmf")
    assert (share_of_line(nmf, FE_KA) > share_of_line(nmf, SI_KA)).any()
    assert ((share_of_line(nmf, P_KA) > 0.05) & (share_of_line(nmf, CA_KA) > 0.08)).any()


def test_phases_of_a_high_dose_are_found_at_a_fifth_of_it(tmp_path: Path) -> None:
    """One field at 617 and at 122 counts a pixel: the feldspar of the high dose stands out in the other map."""
    found = {}
    for name in (DACITE, MIDDLE_DOSE):
        ds = edc.convert(real_data(name), tmp_path / f"{name}.zarr").eds.window(0.2, 20)
        found[name] = edc.nmf(ds, n_components=4)
    # Feldspar phenocrysts are what has most aluminium.
    feldspar = int(share_of_line(found[DACITE], AL_KA).argmax()) + 1
    label = edc.segment_phases(found[DACITE], min_size=7)["label"].values.ravel()
    assert 0.1 < np.mean(label == feldspar) < 0.2
    maps = found[MIDDLE_DOSE]["loadings"].values.reshape(4, -1)
    assert max(roc_auc_score(label == feldspar, one) for one in maps) > 0.95


def test_a_hyperspy_file(tmp_path: Path) -> None:
    store = tmp_path / "lamella.zarr"
    ds = edc.convert(real_data(LAMELLA), store)
    assert ds["counts"].shape == (80, 80, 1917)
    assert int(ds["sum_spectrum"].sum()) == 716_887
    assert ds.attrs["signal_type"] == "EDS_TEM"
    assert ds["y"].attrs["units"] == "um"
    nmf_step(store, n_components=3)
    phases_step(store, min_size=6)
    assert spectra_step(store) == "spectra/k3.r1"
    sums = edc.load(store, "spectra")["spectrum"].sum("energy").values
    assert (sums > 0).all()
    assert sums.sum() <= 716_887


@pytest.mark.parametrize("record_by", ["vector", "image"])
@pytest.mark.parametrize("byte_order", ["little-endian", "big-endian"])
@pytest.mark.parametrize("length", [1, 2, 4])
def test_ripple_written_from_the_dacite(tmp_path: Path, record_by: str, byte_order: str, length: int) -> None:
    reader = open_source(real_data(LOW_DOSE))
    ds = edc.convert(reader, tmp_path / "first.zarr")
    counts = ds["counts"].values
    file = write_ripple(
        tmp_path / "again.rpl",
        counts.astype(f"u{length}"),
        record_by=record_by,
        byte_order=byte_order if length > 1 else "dont-care",
    )
    again = edc.convert(file, tmp_path / "again.zarr")
    np.testing.assert_array_equal(again["counts"].values, counts)
    assert again["counts"].dtype == np.uint8
    np.testing.assert_array_equal(again["sum_spectrum"], ds["sum_spectrum"])


def test_the_model_is_written_on_request(summary, tmp_path: Path) -> None:
    target = tmp_path / "model.zarr"
    assert write_model(summary.store, target, components=[1, 3], memory="2GB")[:2] == (113, 151)
    nmf = edc.load(summary.store, "nmf").sel(component=[1, 3])
    written = xr.open_zarr(target, consolidated=False)["model"]
    expected = np.einsum("kyx,ke->yxe", nmf["loadings"].values, nmf["factors"].values)
    np.testing.assert_allclose(written.values, expected, rtol=1e-5, atol=1e-6)
    with pytest.raises(FileExistsError, match="choose another"):
        write_model(summary.store, target)
