from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

import eds_chunked as edc
from eds_chunked import schema, workflow
from eds_chunked.errors import MemoryBudgetError, ParameterError
from eds_chunked.figures import draw_phase_map, png
from eds_chunked.phases.percent import closed_percent
from eds_chunked.report import notes
from eds_chunked.report.findings import Findings, word
from eds_chunked.report.page import MOST_ROWS, Figure, Section, render
from eds_chunked.report.sections import SECTIONS
from eds_chunked.report.tables import tables
from tests.made_results import make

HOSTILE = """<script>alert("1")</script>&'"><img src=x onerror=alert(2)>"""
pytestmark = pytest.mark.filterwarnings("ignore::eds_chunked.grains.statistics.FewGrainsWarning")
VOID = {"meta", "img", "br"}


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
    edc.save(edc.merge_phases(edc.load(path, "phases"), merges={NAME: [3, 1]}, names={2: "feldspar"}), path)
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
    assert cells.count("feldspar") >= 6
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
    assert [word(found.phases, number) for number in (1, 2)] == [NAME, "feldspar"]


def test_warnings_say_what_is_cut_and_what_is_few(store, shown):
    grains = edc.grain_table(edc.load(store, "grains"))
    said = shown.text_of("li")
    for number, name in ((1, NAME), (2, "Feldspar")):
        own = grains[grains["phase"] == number]
        cut = own[own["touches_edge"]]
        percent = 100 * cut["n_pixels"].sum() / own["n_pixels"].sum()
        assert f"{name}: {len(cut)} of {len(own)} grains, {percent:.0f} % of their area, touch" in " ".join(said)
    few = [text for text in said if "fewer than 433" in text]
    assert len(few) == 1
    sizes = edc.compare_phases(edc.load(store, "grains"))
    assert f"feldspar ({sizes.loc[1, 'n_used']})" in few[0]
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
    assert any(text.startswith("Feldspar has no pixels left") for text in said)


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
