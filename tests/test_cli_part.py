"""``pca`` and ``nmf`` of a part of the map: bins, windows, masks, and the command that makes a result again."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from skimage.io import imsave

import eds_chunked as edc
from eds_chunked import schema
from eds_chunked.cli import main
from eds_chunked.store.results import newest, refresh_command
from tests.decomposition_maps import ArrayReader, made_counts

SHAPE = (31, 47, 61)
COUNTS = made_counts(SHAPE)
MASK = np.add.outer(np.arange(31) ** 2, np.arange(47)) % 7 > 1


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = str(tmp_path_factory.mktemp("part") / "map.zarr")
    edc.convert(ArrayReader(COUNTS), path)
    return path


@pytest.fixture(scope="module")
def mask_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("part") / "mask.png"
    imsave(path, MASK.astype(np.uint8) * 255, check_contrast=False)
    return str(path)


def run(*words):
    return CliRunner().invoke(main, list(words))


def address_of(*words):
    done = run(*words, "--json")
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout)["address"]


def same(store, address, expected):
    found = edc.load(store, address)
    for name in expected.data_vars:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=str(name))
    return found


@pytest.mark.parametrize("verb", ["pca", "nmf"])
def test_options_give_the_result_of_the_functions(store, mask_file, verb):
    options = ["--exclude-energy", "0.4:0.5", "--exclude-energy", "0.9:", "--min-counts", "50", "--mask", mask_file]
    epochs = {"max_epochs": 2} if verb == "nmf" else {}
    if epochs:
        options += ["--max-epochs", "2"]
    address = address_of(verb, store, "-k", "3", *options)
    ds = edc.exclude(edc.open(store), pixels=~MASK, energy=[(0.4, 0.5), (0.9, np.inf)], min_counts=50)
    assert 0 < int(ds[schema.ANALYSED_PIXEL].sum()) < MASK.sum()
    found = same(store, address, getattr(edc, verb)(ds.eds.window(), n_components=3, **epochs))
    np.testing.assert_array_equal(found[schema.ANALYSED_PIXEL], ds[schema.ANALYSED_PIXEL])


def test_bins_come_first(store):
    address = address_of("pca", store, "-k", "2", "--rebin", "2,3,1", "--min-counts", "700", "--name", "binned")
    binned = edc.rebin(edc.open(store), y=2, x=3)
    ds = edc.exclude(binned, min_counts=700).eds.window()
    assert 0 < int(ds[schema.ANALYSED_PIXEL].sum()) < ds[schema.ANALYSED_PIXEL].size
    same(store, address, edc.pca(ds, n_components=2))


def test_excluded_pixels_are_projected_on_request(store, mask_file):
    address = address_of("pca", store, "-k", "2", "--mask", mask_file, "--project-excluded", "--name", "projected")
    result = edc.load(store, address)
    assert np.isfinite(result[schema.LOADINGS].values).all()
    np.testing.assert_array_equal(result[schema.ANALYSED_PIXEL], MASK)


def test_the_mask_may_be_that_of_a_result(store, mask_file):
    address_of("pca", store, "-k", "2", "--mask", mask_file, "--name", "masked")
    found = edc.load(store, address_of("nmf", store, "-k", "2", "--mask", "pca/masked", "--name", "alike"))
    np.testing.assert_array_equal(found[schema.ANALYSED_PIXEL], MASK)
    address_of("pca", store, "-k", "2", "--name", "whole")
    again = edc.load(store, address_of("pca", store, "-k", "2", "--mask", "pca/whole", "--name", "again"))
    assert schema.ANALYSED_PIXEL not in again.coords


def test_the_command_that_refreshes_makes_the_same_again(store, mask_file):
    options = ["--rebin", "1,1,2", "--mask", mask_file, "--exclude-energy", "0.4:0.5", "--project-excluded"]
    address = address_of("pca", store, "-k", "3", "--solver", "gram", *options, "--name", "again")
    command = refresh_command(store, newest(store, address)).split()
    assert command[0] == "eds-chunked"
    expected = edc.load(store, address)
    found = same(store, address_of(*command[1:]), expected)
    assert found.attrs[schema.PARAMETERS] == expected.attrs[schema.PARAMETERS]


def test_phases_and_spectra_follow_in_bins(store):
    address_of("nmf", store, "-k", "3", "--rebin", "2", "--name", "bins")
    address_of("phases", store, "--from", "nmf/bins", "--min-size", "2")
    address = address_of("spectra", store, "--from", "phases/bins")
    spectra, phases = edc.load(store, address), edc.load(store, "phases/bins")
    counts = edc.rebin(edc.open(store), y=2, x=2)[schema.COUNTS].values
    for number in (1, 2, 3):
        own = counts[phases[schema.LABEL].values == number].sum(axis=0, dtype=np.uint64)
        np.testing.assert_array_equal(spectra[schema.SPECTRUM].sel(phase=number), own)
    info = run("info", store)
    assert info.exit_code == 0
    assert "rebin=2,2,1" in " ".join(info.stdout.split())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--mask", "nowhere.png"], "nowhere.png"),
        (["--mask", "pca/nothing"], "pca/nothing"),
        (["--exclude-energy", "5:2"], "5:2"),
        (["--exclude-energy", "50:60"], "no channel"),
        (["--min-counts", "0"], "min_counts"),
        (["--min-counts", "1e9"], "pixels to analyse"),
        (["--exclude-energy", ":"], "channels to analyse"),
        (["--rebin", "99"], "bins along y"),
    ],
)
def test_bad_input_is_one_clear_error(store, options, message):
    done = run("pca", store, "-k", "2", *options)
    assert done.exit_code == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
