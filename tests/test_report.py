import base64
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

import eds_chunked as edc
from eds_chunked import figures, schema, workflow
from eds_chunked.errors import MemoryBudgetError, ParameterError
from eds_chunked.figures import draw_phase_map, png
from eds_chunked.phases.percent import closed_percent
from eds_chunked.report import notes
from eds_chunked.report.findings import Findings, word
from eds_chunked.report.page import MOST_ROWS, Figure, Section, render
from eds_chunked.report.plots import seen
from eds_chunked.report.sections import SECTIONS
from eds_chunked.report.tables import tables
from tests.made_results import make

HOSTILE = """<script>alert("1")</script>&'"><img src=x onerror=alert(2)>"""
pytestmark = pytest.mark.filterwarnings("ignore::eds_chunked.grains.statistics.FewGrainsWarning")
VOID = {"meta", "img", "br", "input"}
# A4 in inches, and the margin that the page asks for.
PAPER, MARGIN = (8.27, 11.69), 13 / 25.4


class Page(HTMLParser):
    """Tags with their attributes, text by the tag that holds it, and whether all tags close in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if data.strip():
            self.texts.append((self.open[-1], data.strip()))

    def text_of(self, tag):
        return [text for found, text in self.texts if found == tag]


def page(*, title="A rock", facts=None, warnings=(), name="Part", words=(), figures=(), tables=()):
    part = Section(name, words, [Figure(*figure) for figure in figures], tables)
    return Page(render(title=title, facts=facts or {}, warnings=warnings, sections=[part]))


@pytest.fixture(scope="module")
def picture():
    return png(draw_phase_map(make((31, 43), n=2, seeds=20).phases))


def test_page_holds_all_parts_and_is_well_formed(picture):
    table = pd.DataFrame({"phase": ["1", "unassigned"], "n_pixels": [14998, 3], "area_um2": [1234567.8, np.nan]})
    found = page(
        figures=[("Phases", "Map of two phases", picture)],
        tables=[("Modal table", table)],
        facts={"map": "75 x 100", "counts": 4627814},
        warnings=["few grains"],
    )
    assert found.open == []
    assert found.text_of("h1") == ["A rock"]
    assert found.text_of("li") == ["few grains"]
    assert found.text_of("a") == ["Part"]
    assert found.text_of("dd") == ["75 x 100", "4,627,814"]
    assert found.text_of("h2") == ["Please note", "Part"]
    assert found.text_of("h3") == ["Modal table"]
    assert found.text_of("th") == ["phase", "n pixels", "area um2"]
    assert found.text_of("td") == ["1", "14,998", "1,234,568", "unassigned", "3", "\N{EN DASH}"]
    assert [attrs["alt"] for tag, attrs in found.tags if tag == "img"] == ["Map of two phases"]


def test_numbers_stand_right_and_words_left():
    found = page(tables=[("t", pd.DataFrame({"word": ["a"], "number": [1.5], "flag": [True]}))])
    cells = [attrs.get("class") for tag, attrs in found.tags if tag == "td"]
    assert cells == [None, "number", None]
    assert found.text_of("td") == ["a", "1.5", "yes"]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (8.73678506, "8.737"),
        (0.00001234, "1.234e-05"),
        (0.0, "0"),
        (12345.6, "12,346"),
        (5514.2, "5,514"),
        (-999.94, "-999.9"),
        (True, "yes"),
        (np.bool_(False), "no"),
        (np.float32(0.5), "0.5"),
        (np.uint8(255), "255"),
        (None, "\N{EN DASH}"),
        (float("nan"), "\N{EN DASH}"),
        (float("inf"), "inf"),
        ((75, 100, 2048), "75, 100, 2,048"),
        (np.array([1, 2]), "1, 2"),
        ({"k": 4, "noise": "poisson"}, "k: 4, noise: poisson"),
    ],
)
def test_values_are_written_for_readers(value, shown):
    assert page(facts={"value": value}).text_of("dd") == [shown]


def test_hostile_text_stays_text(picture):
    found = page(
        title=HOSTILE,
        figures=[(HOSTILE, HOSTILE, picture)],
        tables=[(HOSTILE, pd.DataFrame({HOSTILE: [HOSTILE]}))],
        facts={HOSTILE: HOSTILE},
        warnings=[HOSTILE],
        name=HOSTILE,
        words=[HOSTILE],
    )
    names = [tag for tag, _ in found.tags]
    assert "script" not in names
    assert names.count("img") == 1
    assert not any("onerror" in attrs for _, attrs in found.tags)
    for tag in ("title", "h1", "figcaption", "h2", "h3", "th", "td", "dt", "dd", "li", "p", "a"):
        assert HOSTILE in found.text_of(tag)
    assert [attrs["alt"] for tag, attrs in found.tags if tag == "img"] == [HOSTILE]


def test_nothing_is_loaded_from_outside(picture):
    html = render(title="t", facts={}, warnings=[], sections=[Section("s", [], [Figure("c", "a", picture)], [])])
    found = Page(html)
    assert "default-src 'none'; script-src 'none'; connect-src 'none'" in html
    assert not {"script", "link", "iframe"} & {tag for tag, _ in found.tags}
    for _, attrs in found.tags:
        for name in ("src", "href"):
            assert attrs.get(name, "#").startswith(("data:image/png;base64,", "#"))
    assert "url(" not in html
    assert "prefers-color-scheme: dark" in html
    assert "@media print" in html


def test_figure_size_is_that_of_the_png(picture):
    from io import BytesIO

    from matplotlib.image import imread

    height, width = imread(BytesIO(picture)).shape[:2]
    [attrs] = [attrs for tag, attrs in page(figures=[("c", "a", picture)]).tags if tag == "img"]
    assert (int(attrs["width"]), int(attrs["height"])) == (round(0.48 * width), round(0.48 * height))


def test_percent_that_close_do_so_as_they_are_printed():
    thirds = pd.DataFrame(
        {"area_percent": closed_percent([1, 1, 1, 0]), "weight_percent": [*closed_percent([1, 2, 4]), np.nan]}
    )
    cells = page(tables=[("c", thirds)]).text_of("td")
    assert cells[::2] == ["33.34", "33.33", "33.33", "0.00"]
    assert cells[1::2] == ["14.29", "28.57", "57.14", "\N{EN DASH}"]
    open_ended = thirds.assign(area_percent=[33.333333, 33.3, 0.0, 0.012345])
    assert page(tables=[("c", open_ended)]).text_of("td")[::2] == ["33.33", "33.3", "0", "0.01235"]


def test_long_tables_say_what_they_leave_out():
    found = page(tables=[("grains", pd.DataFrame({"grain_id": np.arange(MOST_ROWS + 23)}))])
    assert len(found.text_of("td")) == MOST_ROWS
    assert found.text_of("p") == ["23 more rows are not shown."]


def test_empty_parts_leave_no_headings():
    found = page()
    assert {tag for tag, _ in found.tags} == {"html", "head", "meta", "title", "style", "body", "h1"}


def test_a_figure_that_is_no_png_is_refused():
    with pytest.raises(ParameterError, match="figure 'Phases': found 4 bytes"):
        page(figures=[("Phases", "alt", b"<svg")])


# ---------------------------------------------------------------------------------------- the report of a store

# Closes a script, and is mathematics for Bokeh, which would fetch MathJax for it.
NAME = "</script><b>$$x$$</b>"
LONG = "K-feldspar, perthitic, with inclusions of hematite"


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A store of a rock with a hostile title, of which two phases were merged and one has a hostile name."""
    path = str(tmp_path_factory.mktemp("report") / "rock.zarr")
    rock = edc.synthetic.rock((61, 83, 512), counts_per_pixel=150, n_phases=3, grain_size=13, energy_scale=0.04)
    edc.convert(rock, path)
    ds = edc.calibrate(path, title=HOSTILE)
    edc.save(edc.pca(ds.eds.window(0.2, 20), n_components=3), path)
    edc.save(edc.nmf(ds.eds.window(0.2, 20), n_components=3), path)
    phases = edc.segment_phases(edc.load(path, "nmf"), min_size=9)
    edc.save(phases, path)
    edc.save(edc.merge_phases(edc.load(path, "phases"), merges={NAME: [3, 1]}, names={2: LONG}), path)
    edc.save(edc.phase_spectra(edc.open(path), phases=edc.load(path, "phases")), path)
    edc.save(edc.separate_grains(edc.load(path, "phases")), path)
    return path


@pytest.fixture(scope="module")
def written(store, tmp_path_factory):
    return workflow.report_step(store, tmp_path_factory.mktemp("out"))


@pytest.fixture(scope="module")
def shown(written):
    return Page(written[-1].read_text(encoding="utf-8"))


def test_the_report_has_a_section_for_each_kind_of_result(shown):
    assert shown.open == []
    assert shown.text_of("h2") == ["Please note", *SECTIONS]
    assert shown.text_of("a") == list(SECTIONS)
    anchors = [attrs["id"] for tag, attrs in shown.tags if tag == "h2" and attrs["id"].startswith("section-")]
    assert [attrs["href"] for tag, attrs in shown.tags if tag == "a"] == [f"#{anchor}" for anchor in anchors]
    heads = " | ".join(shown.text_of("h3"))
    for wanted in ("Modal table", "interval", "Candidate elements", "evidence", "Boundaries between", "Perimeter"):
        assert wanted in heads
    for wanted in ("Grain sizes by phase", "Results of the store", "Versions"):
        assert wanted in heads
    captions = " | ".join(shown.text_of("figcaption"))
    for wanted in ("Sum spectrum", "Scree", "first three principal", "Phases (exclusive)", "Areas", "Margin"):
        assert wanted in captions
    for wanted in ("Phase spectra", "Association", "Grains", "over the counts", "log scale", "quantiles", "by area"):
        assert wanted in captions
    assert all(attrs["alt"] for tag, attrs in shown.tags if tag == "img")


def test_what_comes_from_a_file_stays_text_in_the_report_of_a_store(shown, written):
    names = [tag for tag, _ in shown.tags]
    assert names.count("script") == 3
    assert "b" not in names
    assert names.count("img") == len([path for path in written if path.suffix == ".png"])
    assert not any("onerror" in attrs for _, attrs in shown.tags)
    assert shown.text_of("h1") == [schema.text(HOSTILE)]
    assert NAME in shown.text_of("td")


def test_phases_go_by_their_names_all_through_the_report(shown):
    cells = shown.text_of("td")
    # In the modal table, elements, evidence, association, surfaces and sizes.
    assert cells.count(LONG) >= 6
    assert not {"phase 1", "phase 2", "phase 3"} & set(cells)
    said = " ".join([*shown.text_of("h3"), *shown.text_of("figcaption"), *shown.text_of("li")])
    assert "phase 1" not in said.lower()
    assert f"of {NAME}" in said
    assert f"Component 3, now {NAME}: histogram" in said


def test_numbers_of_the_report_are_those_of_the_functions(shown, store, written):
    phases = edc.load(store, "phases")
    modal = edc.modal_table(phases)
    for pixels in modal["n_pixels"]:
        assert f"{pixels:,}" in shown.text_of("td")
    folder = written[-1].parent
    for name, table in {
        "modal": modal,
        "association": edc.association(phases).contacts,
        "surfaces": edc.association(phases).surfaces,
        "grain_sizes": edc.compare_phases(edc.load(store, "grains")),
    }.items():
        assert (folder / f"{name}.csv").read_text() == table.to_csv(index=False)
    evidence = pd.read_csv(folder / "element_evidence.csv")
    identified = edc.identify_elements(edc.load(store, "spectra"))
    assert evidence["element"].fillna("").tolist() == identified["element"].tolist()
    elements = pd.read_csv(folder / "elements.csv").set_index("phase")
    found = identified[(identified["phase"] == 1) & (identified["decision"] == "found")]
    assert elements.loc[NAME, "found"].split() == found["element"].tolist()
    assert (folder / "versions.csv").read_text().count("numpy") == 1
    made = pd.read_csv(folder / "results.csv")
    assert made["result"].tolist() == [
        *("map", "map", "pca/main.r1", "nmf/k3.r1", "phases/k3.r1", "phases/k3-merged.r1"),
        *("spectra/k3-merged.r1", "grains/k3-merged.r1"),
    ]
    assert "min_size: 9" in made.loc[4, "parameters"]


def test_components_of_a_merged_phase_are_known_by_it(store):
    found = Findings(store)
    source, phases, phase_of = found.cut
    assert phase_of == {1: 1, 2: 2, 3: 1}
    assert source.attrs["step"] == "nmf"
    assert phases.sizes["phase"] == 3
    assert [word(found.phases, number) for number in (1, 2)] == [NAME, LONG]


def test_warnings_say_what_is_cut_and_what_is_few(store, shown):
    grains = edc.grain_table(edc.load(store, "grains"))
    said = shown.text_of("li")
    for number, name in ((1, NAME), (2, LONG)):
        own = grains[grains["phase"] == number]
        cut = own[own["touches_edge"]]
        percent = 100 * cut["n_pixels"].sum() / own["n_pixels"].sum()
        assert f"{name}: {len(cut)} of {len(own)} grains, {percent:.0f} % of their area, touch" in " ".join(said)
    few = [text for text in said if "fewer than 433" in text]
    assert len(few) == 1
    sizes = edc.compare_phases(edc.load(store, "grains"))
    assert f"{LONG} ({sizes.loc[1, 'n_used']})" in few[0]
    assert not [text for text in said if "stale" in text or "is unassigned" in text]


def test_warnings_say_how_much_is_unassigned_and_mixed(store):
    found = Findings(store)
    modal = found.modal.copy()
    modal["area_percent"] = [60.0, 20.0, 12.3, 7.7]
    modal.loc[1, "n_pixels"] = 0
    found.modal = modal
    said = notes.warnings_of(found)
    assert "12.3 % of the area is unassigned." in said
    assert "7.7 % of the area is mixed." in said
    assert any(text.startswith(f"{LONG} has no pixels left") for text in said)


def test_the_share_of_small_margins_is_counted(store):
    found = Findings(store)
    # Merged phases do not say by how much mixed was decided: these do.
    found.phases = edc.load(store, "phases/k3")
    label, margin = found.phases["label"].values, found.phases["margin"].values
    inside = (label > 0) & (label < 255)
    percent = 100 * (margin[inside] < 0.2).mean()
    assert notes.words_of(found)["How the phases were decided"] == [
        f"In {percent:.1f} % of the pixels that have a phase it was less than 0.2 ahead of the second best."
    ]


def test_spectra_without_lines_to_look_for_say_why(store):
    found = Findings(store)
    spectra = edc.load(store, "spectra")
    channels = spectra["energy"].copy(data=np.arange(512.0)).assign_attrs(units=schema.CHANNEL)
    found.result = lambda step: spectra.assign_coords(energy=channels) if step == schema.SPECTRA else None
    assert found.elements is None
    assert "elements" not in {table.name for table in tables(found)}
    assert "Elements were not looked for. energy axis" in notes.words_of(found)["Phase spectra and elements"][0]


def test_lines_of_elements_that_were_found_are_labelled_where_the_file_names_none(store):
    found = Findings(store)
    spectra = edc.load(store, "spectra").drop_attrs().assign_attrs({schema.BEAM_ENERGY: 20.0})
    found.result = lambda step: spectra if step == schema.SPECTRA else None
    assert {"Si", "O"} <= set(found.spectra.attrs[schema.ELEMENTS])


def test_counts_under_the_grains_are_those_of_their_pixels(tmp_path):
    path = str(tmp_path / "rock.zarr")
    edc.convert(edc.synthetic.rock((37, 43, 64), counts_per_pixel=90, n_phases=2, energy_scale=0.3), path)
    part = edc.open(path).eds.rebin(y=2, x=3).isel(y=slice(2, 17), x=slice(1, 13))
    edc.save(edc.nmf(part.eds.window(0.2, 15), n_components=2), path)
    edc.save(edc.segment_phases(edc.load(path, "nmf"), min_size=0), path)
    edc.save(edc.separate_grains(edc.load(path, "phases"), min_size=0), path)
    counted = Findings(path).counted
    assert np.array_equal(counted["total_counts"], part["total_counts"])


def test_a_store_without_results_has_a_report_that_asks_for_them(tmp_path):
    path = str(tmp_path / "bare.zarr")
    edc.convert(edc.synthetic.rock((13, 17, 64), counts_per_pixel=20, n_phases=2, energy_scale=0.3), path)
    alone = workflow.report_step(path, tmp_path / "bare.html", memory="4GB")
    assert alone == [tmp_path / "bare.html"]
    found = Page(alone[0].read_text())
    assert found.text_of("h2") == ["Please note", "The map", "Parameters and versions"]
    assert found.text_of("li")[:5] == [
        f"There is no {step} result yet: eds-chunked {step} {path}" for step in schema.RUN_STEPS
    ]
    with pytest.raises(MemoryBudgetError, match="figures"):
        edc.write_report(path, tmp_path / "bare.html", memory="50MB")


# ------------------------------------------------------------------------------------------ in a real browser

# Where the plot of an element is on the page, and what it shows: Bokeh draws within shadow roots.
VIEW = """
const view = Bokeh.index.roots.find((view) => view.el.parentElement === arguments[0]);
const found = (root, wanted) => {
  const own = [...root.querySelectorAll(wanted)];
  for (const { shadowRoot } of root.querySelectorAll("*")) if (shadowRoot) own.push(...found(shadowRoot, wanted));
  return own;
};
"""


@pytest.fixture(scope="module")
def browser(written):
    """Chromium with the report open; what it logged and asked for is told with the page."""
    webdriver = pytest.importorskip("selenium.webdriver")
    chromium, driver = (shutil.which(name) for name in ("chromium", "chromedriver"))
    if chromium is None or driver is None:
        pytest.skip("no chromium and chromedriver here: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    # Without the sandbox, which a container does not let it make; the page is one of our own.
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1100,900"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    opened = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    opened.get(written[-1].as_uri())
    wait_for(
        opened,
        "return window.Bokeh !== undefined && Bokeh.documents.length > 0 && Bokeh.documents.every("
        "(drawn) => drawn.is_idle) && document.querySelectorAll('.plot').length === Bokeh.documents.length",
    )
    yield opened
    opened.quit()


def wait_for(browser, script, *arguments):
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(browser, 60).until(lambda there: there.execute_script(script, *arguments))


def plots_of(browser, caption):
    from selenium.webdriver.common.by import By

    [figure] = [
        figure
        for figure in browser.find_elements(By.CSS_SELECTOR, ".has-plots")
        if caption in figure.find_element(By.TAG_NAME, "figcaption").text
    ]
    return figure.find_elements(By.CSS_SELECTOR, ".plot")


def point_at(browser, plot, x, y):
    """Move the pointer to where a plot shows x and y, and return what is said there."""
    from selenium.webdriver import ActionChains

    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", plot)
    right, down = browser.execute_script(
        VIEW + "const box = view.el.getBoundingClientRect(), own = arguments[0].getBoundingClientRect();"
        "return [view.frame.x_scale.compute(arguments[1]) + box.x - own.x - own.width / 2,"
        " view.frame.y_scale.compute(arguments[2]) + box.y - own.y - own.height / 2]",
        plot, x, y,
    )  # fmt: skip
    ActionChains(browser).move_to_element_with_offset(plot, 5, 5).perform()
    ActionChains(browser).move_to_element_with_offset(plot, round(right), round(down)).perform()
    return wait_for(
        browser,
        "return [...document.querySelectorAll('body > .bk-Tooltip')].map((tip) => [...tip.shadowRoot.children]"
        ".filter((part) => part.tagName !== 'STYLE').map((part) => part.textContent).join('').trim()).at(-1)",
    )


def test_the_page_logs_no_error_and_asks_the_network_for_nothing(browser):
    assert [entry for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [
        message["params"]["request"]["url"] for message in messages if message["method"] == "Network.requestWillBeSent"
    ]
    assert asked[0].startswith("file:")
    assert asked[0].endswith("/report.html")
    assert {url.split(":")[0] for url in asked[1:]} <= {"data", "blob"}


def test_plots_are_drawn_in_the_place_of_their_pictures(browser):
    sizes = browser.execute_script(
        "return [...document.querySelectorAll('.plot')].map((plot) => plot.getBoundingClientRect()).map((box) =>"
        "[box.width, box.height])"
    )
    assert len(sizes) >= 6
    assert np.min(sizes) > 200
    assert browser.execute_script(
        "return [...document.querySelectorAll('.has-plots > img')].every((img) => img.offsetParent === null)"
    )


def test_pixels_of_the_maps_say_what_they_are(browser, store):
    phases, grains = edc.load(store, "phases"), edc.load(store, "grains")
    label, grain = phases["label"].values, grains["grain_label"].values
    height, width, _ = schema.pixel_size(phases)
    rows = label.shape[0]
    [of_phases, _], [of_grains] = plots_of(browser, "Phases (exclusive)"), plots_of(browser, "Grains")
    table = edc.grain_table(grains).set_index("grain_id")
    for number, name in ((1, NAME), (2, LONG)):
        row, column = middle_of(label == number)
        place = ((column + 0.5) * width, (rows - row - 0.5) * height)
        said = point_at(browser, of_phases, *place)
        assert said == f"{name}, {100 * (label == number).mean():.1f} %"
        row, column = middle_of((label == number) & (grain > 0))
        said = point_at(browser, of_grains, (column + 0.5) * width, (rows - row - 0.5) * height)
        own = table.loc[grain[row, column]]
        assert said.startswith(f"grain {grain[row, column]}, {name}, {own.filter(like='ecd_').iloc[0]:.4g} ")
        assert ("cut by the map's edge" in said) == own["touches_edge"]


def middle_of(mask):
    """Return the pixel of a mask that is farthest from what is not in it."""
    from scipy.ndimage import distance_transform_edt

    return np.unravel_index(distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1].argmax(), mask.shape)


def test_buttons_beside_the_map_choose_whose_spectrum_is_seen_by_mouse_and_by_keyboard(browser):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    buttons = browser.find_elements(By.CSS_SELECTOR, ".choices input")
    lines = [button.get_attribute("data-line") for button in buttons[1:]]
    seen = "return arguments[0].map((id) => Bokeh.documents.map((d) => d.get_model_by_id(id)).find(Boolean).visible)"
    assert browser.execute_script(seen, lines) == [True, True]
    buttons[2].click()
    assert browser.execute_script(seen, lines) == [False, True]
    buttons[2].send_keys(Keys.ARROW_UP)
    assert browser.execute_script(seen, lines) == [True, False]
    palette = browser.execute_script(
        "return Bokeh.documents.map((d) => d.get_model_by_id(document.querySelector('.choices').dataset.pixels))"
        ".find(Boolean).glyph.color_mapper.palette"
    )
    own = int(buttons[1].get_attribute("data-kind"))
    assert palette[own] == figures.phase_colour(1)
    assert {colour for kind, colour in enumerate(palette) if kind != own} == {"#8080804d"}
    buttons[0].click()
    assert browser.execute_script(seen, lines) == [True, True]


def test_spectra_zoom_by_dragging_and_by_keyboard_and_legends_hide_lines(browser, store):
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.keys import Keys

    [plot] = plots_of(browser, "Sum spectrum")
    width = VIEW + "return view.model.x_range.end - view.model.x_range.start"
    whole = browser.execute_script(width, plot)
    said = point_at(browser, plot, 1.74, 1e3)
    channel = int(np.abs(edc.open(store)["energy"].values - 1.74).argmin())
    largest = int(edc.open(store)["max_spectrum"][channel])
    assert f"{largest} counts in pixel y " in said
    ActionChains(browser).drag_and_drop_by_offset(plot, 120, 60).perform()
    dragged = wait_for(browser, width + f" < {0.5 * whole} && view.model.x_range.end - view.model.x_range.start", plot)
    assert dragged > 0
    for button in ("Reset", "Zoom In"):
        browser.execute_script(
            VIEW + "found(view.el.shadowRoot, '.bk-tool-button, .bk-ToolButton, [title]').concat("
            "found(view.el.shadowRoot, '.bk-OnOffButton, .bk-ClickButton')).find((el) => el.title.startsWith("
            "arguments[1])).focus()",
            plot, button,
        )  # fmt: skip
        ActionChains(browser).send_keys(Keys.ENTER).perform()
        expected = f"Math.abs(view.model.x_range.end - view.model.x_range.start - {whole}) < 1e-6"
        wait_for(browser, VIEW + f"return {'!' if button == 'Zoom In' else ''}({expected})", plot)
    # An entry is made anew when it is clicked.
    for now in (False, True):
        browser.execute_script(VIEW + "return found(view.el.shadowRoot, '.bk-item')[0]", plot).click()
        assert browser.execute_script(VIEW + "return view.model.renderers.map((line) => line.visible)", plot) == [
            now,
            True,
        ]


@pytest.mark.parametrize("width", [400, 1100])
def test_nothing_is_wider_than_the_page(browser, width):
    metrics = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width == 400}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width


def test_paper_and_a_browser_without_scripts_get_the_pictures(browser, written):
    pictures_alone = (
        "return [...document.querySelectorAll('.has-plots > img')].every((img) => img.offsetParent !== null) &&"
        "[...document.querySelectorAll('.plots')].every((plots) => plots.offsetParent === null)"
    )
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    assert browser.execute_script(pictures_alone)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    assert not browser.execute_script(pictures_alone)
    browser.execute_script("document.documentElement.classList.remove('live')")
    assert browser.execute_script(pictures_alone)
    browser.execute_script("document.documentElement.classList.add('live')")


@pytest.fixture
def on_paper(browser):
    """The page as it is laid out on A4, by a browser that would show it dark."""
    width, height = (round(96 * (side - 2 * MARGIN)) for side in PAPER)
    dark = {"media": "print", "features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False},
    )
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", dark)
    yield width, height
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_on_paper_nothing_is_cut_distorted_or_there_to_be_clicked(browser, on_paper):
    width, height = on_paper
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    pictures = browser.execute_script(
        "return [...document.querySelectorAll('figure > img')].map((img) => [img.getBoundingClientRect(), img])"
        ".map(([box, img]) => [box.width, box.height, img.naturalWidth, img.naturalHeight])"
    )
    assert len(pictures) > 15
    for shown_width, shown_height, own_width, own_height in pictures:
        assert 100 < shown_width <= width
        assert shown_height < 0.9 * height
        assert shown_height / shown_width == pytest.approx(own_height / own_width, rel=0.01)
    for what in ("input", "fieldset", ".how", ".plot", "nav"):
        assert browser.execute_script(
            "return [...document.querySelectorAll(arguments[0])].every((part) => part.getClientRects().length === 0)",
            what,
        ), what
    colours = "const style = getComputedStyle(document.body); return [style.backgroundColor, style.color]"
    assert browser.execute_script(colours) == ["rgb(255, 255, 255)", "rgb(0, 0, 0)"]


def test_printed_pages_are_white_filled_and_have_every_picture(browser, on_paper, tmp_path):
    paper = {"paperWidth": PAPER[0], "paperHeight": PAPER[1], "preferCSSPageSize": True, "printBackground": True}
    printed = base64.b64decode(browser.execute_cdp_cmd("Page.printToPDF", paper)["data"])
    n_pages = len(re.findall(rb"/Type /Page\b", printed))
    pictures = browser.execute_script("return document.querySelectorAll('img').length")
    assert printed.count(b"/Subtype /Image") >= pictures
    assert pictures / 4 < n_pages < pictures
    if shutil.which("pdftoppm") is None:
        pytest.skip("no pdftoppm here to look at the pages: apt-get install poppler-utils")
    (tmp_path / "report.pdf").write_bytes(printed)
    subprocess.run(["pdftoppm", "-r", "24", "-gray", tmp_path / "report.pdf", tmp_path / "page"], check=True)
    pages = [np.asarray(Image.open(path)) for path in sorted(tmp_path.glob("page*.pgm"))]
    assert len(pages) == n_pages
    edge = int(24 * MARGIN) - 1
    for number, page in enumerate(pages, start=1):
        assert np.median(page) > 250, number
        ink = page < 200
        assert not ink[:, :edge].any(), number
        assert not ink[:, -edge:].any(), number
        lowest = np.flatnonzero(ink.any(axis=1)).max(initial=0) / len(page)
        assert lowest > 0.45 or number == n_pages, number


def test_lines_are_seen_on_a_white_and_on_a_dark_page():
    def luminance(colour):
        rgb = np.array(to_rgb(colour))
        return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4) @ (0.2126, 0.7152, 0.0722)

    for phase in range(1, 37):
        line = luminance(seen(figures.phase_colour(phase)))
        for paper in ("#ffffff", "#171819"):
            light, dark = sorted((luminance(paper), line), reverse=True)
            assert (light + 0.05) / (dark + 0.05) >= 3
