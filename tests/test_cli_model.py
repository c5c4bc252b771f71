"""The verb ``model``, the model that it writes, and the figure of its fit."""

import json
import shutil
from collections import namedtuple

import numpy as np
import pytest
import xarray as xr
from click.testing import CliRunner
from matplotlib.colors import Normalize

from eds_chunked import figures, schema, workflow
from eds_chunked.cli import main
from eds_chunked.decomposition.low_rank import reconstruct
from eds_chunked.decomposition.principal import pca
from eds_chunked.decomposition.residuals import residual
from eds_chunked.engine.exclusion import exclude
from eds_chunked.errors import ChunkLayoutError, StoreFullError
from eds_chunked.report import assemble
from eds_chunked.report.findings import Findings
from eds_chunked.store.calibration import calibrate
from eds_chunked.store.conversion import convert
from eds_chunked.store.opening import open_map
from eds_chunked.store.results import load, save
from eds_chunked.synthetic import rock


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    place = str(tmp_path_factory.mktemp("model") / "rock.zarr")
    convert(rock((83, 97, 128), energy_scale=0.05, n_phases=3, grain_size=12, counts_per_pixel=120), place)
    calibrate(place, elements=["Si", "O", "Al", "Fe"])
    workflow.pca_step(place, n_components=3)
    return place


def call(*arguments, code=0):
    done = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert done.exit_code == code, done.stderr
    return done


def test_the_verb_saves_what_the_function_gives(store):
    found = json.loads(call("model", store, "--from", "pca/main", "--json").stdout)
    saved = load(store, found["address"])
    result = load(store, "pca/main")
    expected = residual(open_map(store).sel({schema.ENERGY: result[schema.ENERGY]}), result)
    for name in expected.data_vars:
        np.testing.assert_array_equal(saved[name], expected[name])
    assert saved.attrs[schema.PARENT] == "pca/main.r1"
    assert found["mean_chi_square"] == pytest.approx(float(expected[schema.CHI_SQUARE].mean()), rel=1e-6)
    spectrum = expected[schema.CHI_SQUARE_SPECTRUM].values
    largest = found["largest_channels"]
    assert [one[schema.CHI_SQUARE] for one in largest] == sorted(spectrum, reverse=True)[:5]
    at = expected[schema.ENERGY].values[np.argsort(-spectrum)[:5]]
    np.testing.assert_allclose([one[schema.ENERGY] for one in largest], at)


def test_components_and_name(store):
    found = json.loads(call("model", store, "--from", "pca", "--components", "1", "--name", "one", "--json").stdout)
    assert found["address"] == "model/one.r1"
    assert load(store, "model/one").attrs[schema.PARAMETERS]["components"] == [1]
    # Without its other components the model misses the phases: chi-square is larger, and says so.
    assert (
        found["mean_chi_square"]
        > 1.05 * json.loads(call("model", store, "--from", "pca", "--json").stdout)["mean_chi_square"]
    )
    assert "over 2 in" in call("model", store, "--from", "pca", "--components", "1").stdout
    assert call("model", store, "--from", "pca", "-q").stdout.startswith("model/main.r")


def test_the_model_itself_is_written_only_on_request(store, tmp_path):
    target = tmp_path / "model.zarr"
    call("model", store, "--from", "pca")
    assert not target.exists()
    found = json.loads(call("model", store, "--from", "pca", "--write-model", target, "--json").stdout)
    written = xr.open_zarr(target, consolidated=False)[schema.MODEL]
    assert found["shape"] == list(written.shape)
    np.testing.assert_array_equal(written, reconstruct(load(store, "pca")))
    again = call("model", store, "--from", "pca", "--write-model", target, code=2)
    assert "expected a new place" in again.stderr


def test_a_disk_without_room_is_refused_before_anything_is_written(store, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage(10**9, 10**9 - 1000, 1000))
    with pytest.raises(StoreFullError, match=r"found 1 kB free, expected 3.* MB, 4 bytes a value"):
        workflow.write_model(store, tmp_path / "new" / "model.zarr", parent=schema.PCA)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--from", "nmf/k9"], "result nmf/k9"),
        (["--from", "pca", "--components", "7"], "expected some of 1 to 3"),
        (["--from", "pca", "--memory", "100MB"], "memory for model"),
        (["--from", "spectra"], "expected a saved spectra"),
    ],
)
def test_bad_input_is_one_line(store, given, message):
    (line,) = call("model", store, *given, code=2).stderr.splitlines()
    assert message in line


def test_the_region_energies_and_exclusions_are_those_of_the_result(store):
    ds = open_map(store).isel({schema.Y: slice(7, 60), schema.X: slice(11, 80), schema.ENERGY: slice(20, 90)})
    pixels = np.zeros((53, 69), bool)
    pixels[3:9, 5:40] = True
    ds = exclude(ds, pixels=pixels, energy=[(2.0, 2.2)])
    save(pca(ds, n_components=2, name="part"), store)
    saved = load(store, workflow.model_step(store, parent="pca/part"))
    expected = residual(ds, load(store, "pca/part"))
    for name in expected.data_vars:
        np.testing.assert_array_equal(saved[name], expected[name])
    np.testing.assert_array_equal(np.isnan(saved[schema.CHI_SQUARE]), pixels)


# ------------------------------------------------------------------------------------------------------ the figure
def test_figure_shows_both_maps_and_the_spectrum(store):
    fit = load(store, workflow.model_step(store, parent=schema.PCA, components=[1, 2]))
    figure = figures.draw_model_fit(fit)
    assert figures.png(figure).startswith(b"\x89PNG")
    maps = [axes for axes in figure.axes if axes.images]
    assert [axes.get_title(loc="left") for axes in maps] == ["chi-square", "residual, counts: all under 0.5"]
    np.testing.assert_array_equal(maps[0].images[0].get_array(), fit[schema.CHI_SQUARE])
    np.testing.assert_array_equal(maps[1].images[0].get_array(), fit[schema.RESIDUAL])
    assert maps[0].images[0].norm.vmin == 0
    scale: Normalize = maps[1].images[0].norm
    assert scale.vmax == -scale.vmin >= 1
    spectrum = next(axes for axes in figure.axes if axes.get_ylabel() == "chi-square")
    np.testing.assert_array_equal(spectrum.lines[1].get_ydata(), fit[schema.CHI_SQUARE_SPECTRUM])
    assert any("Fe" in text.get_text() for axes in figure.axes for text in axes.texts)


def test_figure_of_what_is_left_out_and_of_a_perfect_fit(store):
    fit = load(store, "model").load()
    holes = fit.where(fit[schema.Y] > 5)
    holes[schema.CHI_SQUARE_SPECTRUM] = fit[schema.CHI_SQUARE_SPECTRUM].where(fit[schema.ENERGY] > 1)
    holes[schema.RESIDUAL_SPECTRUM] = fit[schema.RESIDUAL_SPECTRUM]
    figures.png(figures.draw_model_fit(holes))
    figures.png(figures.draw_model_fit(fit * 0))
    with pytest.raises(ChunkLayoutError, match="variable 'chi_square'"):
        figures.draw_model_fit(load(store, "pca"))


@pytest.mark.usefixtures("unrendered")
def test_the_report_has_the_figure_and_asks_for_no_model(store, tmp_path):
    names = [picture.name for picture in assemble.pictures(Findings(store))]
    assert "model" in names
    bare = str(shutil.copytree(store, tmp_path / "bare.zarr"))
    shutil.rmtree(f"{bare}/results/model")
    page = assemble.write_report(bare, tmp_path / "bare.html").read_text()
    assert "no model result" not in page
    assert "no nmf result" in page
