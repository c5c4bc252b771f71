from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from eds_chunked.errors import ParameterError
from eds_chunked.figures import draw_phase_map, png
from eds_chunked.report.page import MOST_ROWS, render
from tests.made_results import make

HOSTILE = """<script>alert("1")</script>&'"><img src=x onerror=alert(2)>"""
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


def page(**changed):
    parts = {"title": "A rock", "figures": [], "tables": [], "facts": {}, "warnings": []} | changed
    return Page(render(**parts))


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
    assert found.text_of("dd") == ["75 x 100", "4,627,814"]
    assert found.text_of("th") == ["phase", "n_pixels", "area_um2"]
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
    )
    names = [tag for tag, _ in found.tags]
    assert "script" not in names
    assert names.count("img") == 1
    assert not any("onerror" in attrs for _, attrs in found.tags)
    for tag in ("title", "h1", "figcaption", "h2", "th", "td", "dt", "dd", "li"):
        assert HOSTILE in found.text_of(tag)
    assert [attrs["alt"] for tag, attrs in found.tags if tag == "img"] == [HOSTILE]


def test_nothing_is_loaded_from_outside(picture):
    html = render(title="t", figures=[("c", "a", picture)], tables=[], facts={}, warnings=[])
    found = Page(html)
    assert "default-src 'none'" in html
    assert not {"script", "link", "iframe"} & {tag for tag, _ in found.tags}
    for _, attrs in found.tags:
        for name in ("src", "href"):
            assert attrs.get(name, "data:image/png;base64,").startswith("data:image/png;base64,")
    assert "url(" not in html
    assert "prefers-color-scheme: dark" in html
    assert "@media print" in html


def test_figure_size_is_that_of_the_png(picture):
    from io import BytesIO

    from matplotlib.image import imread

    height, width = imread(BytesIO(picture)).shape[:2]
    [attrs] = [attrs for tag, attrs in page(figures=[("c", "a", picture)]).tags if tag == "img"]
    assert (int(attrs["width"]), int(attrs["height"])) == (round(0.48 * width), round(0.48 * height))


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
