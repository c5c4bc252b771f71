"""Clicks, drags and keys on the explorers, as events of matplotlib, against the counts of the map."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr
from matplotlib.backend_bases import KeyEvent, MouseButton, MouseEvent
from matplotlib.figure import Figure

import eds_chunked as edc
from eds_chunked.errors import ChunkLayoutError, ParameterError
from eds_chunked.memory import format_size
from eds_chunked.store.source import CountsSource
from tests.ripple_files import random_counts, write_ripple

SHAPE = (131, 89, 61)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = str(tmp_path_factory.mktemp("explorer") / "map.zarr")
    rock = edc.synthetic.rock(SHAPE, counts_per_pixel=90, n_phases=3, grain_size=14, energy_scale=0.3)
    ds = edc.convert(rock, path)
    edc.save(edc.nmf(ds.eds.window(0.2, 20), n_components=3), path)
    return path


@pytest.fixture(scope="module")
def truth(store: str) -> np.ndarray:
    return edc.open(store).counts.values


@pytest.fixture(autouse=True)
def _agg() -> Iterator[None]:
    with plt.rc_context({"backend": "Agg"}):
        yield
    plt.close("all")


def place(figure: Figure, ds: xr.Dataset, y: int, x: int) -> tuple[float, float]:
    """Where the centre of a pixel is on the canvas."""
    figure.canvas.draw()
    height, width, _ = ds.eds.pixel_size
    return tuple(figure.axes[0].transData.transform(((x + 0.5) * width, (y + 0.5) * height)))


def mouse(figure: Figure, name: str, at: tuple[float, float], button: MouseButton = MouseButton.LEFT) -> None:
    held = [button] if name == "motion_notify_event" else None
    figure.canvas.callbacks.process(name, MouseEvent(name, figure.canvas, *at, button, buttons=held))


def drag(figure: Figure, *places: tuple[float, float], button: MouseButton = MouseButton.LEFT) -> None:
    mouse(figure, "button_press_event", places[0], button)
    for at in places[1:]:
        mouse(figure, "motion_notify_event", at, button)
    mouse(figure, "button_release_event", places[-1], button)


def press(figure: Figure, key: str) -> None:
    figure.canvas.callbacks.process("key_press_event", KeyEvent("key_press_event", figure.canvas, key))


def test_a_click_shows_the_pixel_and_reads_one_tile(
    store: str, truth: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    ds = edc.open(store)
    explorer = ds.eds.explore()
    read = []
    real = CountsSource.__getitem__
    monkeypatch.setattr(CountsSource, "__getitem__", lambda self, key: read.append(key) or real(self, key))
    drag(explorer.figure, place(explorer.figure, ds, 97, 71))
    np.testing.assert_array_equal(explorer.spectrum, truth[97, 71])
    assert explorer.window == (slice(97, 98), slice(71, 72))
    assert len(read) == 1
    shown = explorer.figure.axes[1]
    np.testing.assert_array_equal(shown.lines[0].get_ydata(), np.maximum(truth[97, 71], 0.7))
    assert [text.get_text() for text in shown.texts if "pixel" in text.get_text()] == [
        f"pixel y 97, x 71: {truth[97, 71].sum():,} counts"
    ]


def test_it_begins_at_the_brightest_pixel(store: str, truth: np.ndarray) -> None:
    explorer = edc.explore(edc.open(store))
    assert explorer.spectrum.sum() == truth.sum(axis=2).max()


def test_a_drag_shows_the_sum_of_the_box(store: str, truth: np.ndarray) -> None:
    ds = edc.open(store)
    explorer = edc.explore(ds)
    corners = [place(explorer.figure, ds, *corner) for corner in ((80, 60), (40, 33), (11, 23))]
    drag(explorer.figure, *corners)
    np.testing.assert_array_equal(explorer.spectrum, truth[11:81, 23:61].sum(axis=(0, 1)))
    assert "(2,660 pixels)" in explorer.figure.axes[1].texts[-1].get_text()


def test_arrow_keys_go_to_the_next_pixel_and_stop_at_the_edge(store: str, truth: np.ndarray) -> None:
    explorer = edc.explore(edc.open(store))
    explorer.show(slice(1, 2), slice(87, 88))
    for key, wanted in (("up", (0, 87)), ("up", (0, 87)), ("right", (0, 88)), ("right", (0, 88)), ("down", (1, 88))):
        press(explorer.figure, key)
        np.testing.assert_array_equal(explorer.spectrum, truth[wanted])
    press(explorer.figure, "q")
    np.testing.assert_array_equal(explorer.spectrum, truth[1, 88])


def test_clicks_beside_the_map_of_other_buttons_and_of_the_toolbar_do_nothing(store: str, truth: np.ndarray) -> None:
    ds = edc.open(store)
    explorer = edc.explore(ds)
    explorer.show(slice(3, 4), slice(5, 6))
    drag(explorer.figure, (1.0, 1.0))
    drag(explorer.figure, place(explorer.figure, ds, 50, 50), button=MouseButton.RIGHT)
    explorer.figure.canvas.widgetlock("the toolbar zooms")
    drag(explorer.figure, place(explorer.figure, ds, 50, 50))
    np.testing.assert_array_equal(explorer.spectrum, truth[3, 5])


def test_a_part_of_a_map_and_another_image(store: str, truth: np.ndarray) -> None:
    ds = edc.open(store).isel(y=slice(20, 91), x=slice(7, 50))
    explorer = edc.explore(ds, image=ds.total_counts.copy(data=-ds.total_counts.values.astype(float)))
    drag(explorer.figure, place(explorer.figure, ds, 31, 11))
    np.testing.assert_array_equal(explorer.spectrum, truth[51, 18])
    with pytest.raises(ParameterError, match="image: found"):
        edc.explore(ds, image=edc.open(store).total_counts)
    with pytest.raises(ChunkLayoutError, match="total_counts"):
        edc.explore(ds.drop_vars("total_counts"))


def test_components_by_key_and_slider(store: str) -> None:
    nmf = edc.load(store, "nmf")
    explorer = nmf.eds.explore_components()

    def shown() -> np.ndarray:
        spectrum = next(axes for axes in explorer.figure.axes if axes.get_ylabel() == "factor")
        return spectrum.lines[0].get_ydata()

    for key, number in (("left", 1), ("right", 2), ("right", 3), ("right", 3), ("left", 2), ("x", 2)):
        press(explorer.figure, key)
        assert explorer.component == number
        np.testing.assert_array_equal(shown(), nmf.factors.values[number - 1])
    explorer._slider.set_val(3)
    assert explorer.component == 3
    image = explorer.figure.axes[0].images[0].get_array()
    np.testing.assert_allclose(image, nmf.loadings.values[2])
    with pytest.raises(ChunkLayoutError, match="factors"):
        edc.explore_components(edc.open(store))


# -------------------------------------------------------------------------------------------------- the repr
def test_the_repr_says_what_is_stored_and_how(store: str) -> None:
    ds = edc.open(store)
    text = repr(ds.eds)
    tile = "lazy, 6 chunks of 64 x 64 x 61 (250 kB)"
    assert f"(y, x, energy) 131 x 89 x 61 uint8, {ds.counts.nbytes / 1e3:.3g} kB; {tile}" in text
    assert "nmf/k3.r1" in text
    assert store in text
    html = ds.assign_attrs(title="<b>x</b>").eds._repr_html_()
    assert "&lt;b&gt;x&lt;/b&gt;" in html
    assert "<b>" not in html
    assert "store" not in repr(ds.drop_encoding().eds)
    assert "loadings" in repr(edc.load(store, "nmf").eds)


def test_the_repr_of_a_file_says_how_it_is_read(tmp_path: Path) -> None:
    path = write_ripple(tmp_path / "map.rpl", random_counts((7, 11, 31)))
    with xr.open_dataset(path, engine="eds_chunked") as ds:
        size = format_size(ds.counts.nbytes)
        assert f"{size}; of a file, with chunks={{}} read by 7 rows ({size})" in repr(ds.eds)
        assert "results" not in repr(ds.eds)


def test_plots_are_those_of_the_figures(store: str) -> None:
    ds, nmf = edc.open(store), edc.load(store, "nmf")
    phases = edc.segment_phases(nmf, min_size=5)
    spectra = edc.phase_spectra(ds, phases=phases)
    drawn = [nmf.eds.plot_components(), phases.eds.plot_phases(), spectra.eds.plot_spectra()]
    headings = [figure.get_suptitle().split(":")[0] for figure in (*drawn, ds.eds.plot_sum_spectrum())]
    assert headings == ["NMF components", "Phases", "Phase spectra", "Sum spectrum"]
