"""The documentation: its answers run, all public names have a place, and built pages ask the network for nothing."""

import os
import re
import subprocess
import sys
from doctest import ELLIPSIS, NORMALIZE_WHITESPACE, OutputChecker
from pathlib import Path

import pytest

import eds_chunked as edc

DOCS = Path(__file__).parents[1] / "docs"
# What a browser fetches by itself; a link that a reader may click on is something else.
FETCHED = re.compile(
    r"""<(?:script|img|iframe|source|video|audio|embed|object)\b[^>]*\b(?:src|data)\s*=\s*["']?(?:https?:)?//
    |<link\b(?=[^>]*\brel\s*=\s*["']?(?:stylesheet|preload|preconnect|icon|dns-prefetch|manifest))[^>]*\bhref\s*=\s*["']?
    (?:https?:)?//""",
    re.IGNORECASE | re.VERBOSE,
)
IN_STYLES = re.compile(r"""(?:url\(\s*["']?|@import\s+["'])(?:https?:)?//""", re.IGNORECASE)


# Between what two answers print.
RULE = "-- next answer --"


def answers(page: str) -> list[tuple[str, str]]:
    """Return the code of each answer of a page, and what the page says that it prints: nothing where it does not."""
    text = (DOCS / page).read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```\n(?:```text\n(.*?)^```)?", text, flags=re.M | re.S)


@pytest.mark.parametrize(("page", "least", "printing"), [("how_do_i.md", 21, 8), ("start.md", 3, 2)])
def test_answers_run_and_print_what_the_page_says(page: str, least: int, printing: int, tmp_path: Path) -> None:
    found = answers(page)
    assert len(found) >= least
    assert sum(bool(shown) for _, shown in found) >= printing
    code = [f"{answer}\nprint({RULE!r})" for answer, _ in found]
    # In a process of its own, as a reader would run it: HyperSpy warns, and a memory budget is of a whole process.
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(code)],
        cwd=tmp_path,
        env=os.environ | {"MPLBACKEND": "agg"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    printed = done.stdout.split(RULE)
    assert len(printed) == len(found) + 1
    for (answer, wanted), got in zip(found, printed, strict=False):
        if wanted:
            # "..." stands for what depends on the machine or the day.
            same = OutputChecker().check_output(wanted, got.lstrip("\n"), ELLIPSIS | NORMALIZE_WHITESPACE)
            assert same, f"{page}\n{answer}\nprints\n{got}\nand not\n{wanted}"


def test_every_public_name_is_in_the_reference() -> None:
    listed = set(re.findall(r"auto\w+:: eds_chunked\.(\S+)", (DOCS / "api.md").read_text(encoding="utf-8")))
    wanted = set(edc.__all__) - {"figures", "synthetic"} | {f"figures.{name}" for name in edc.figures.__all__}
    assert wanted <= listed
    assert all(name.split(".")[0] in edc.__all__ for name in listed)


def test_what_a_browser_would_fetch_is_found() -> None:
    for asks in (
        '<script defer src="https://a.b/c.js">',
        "<img alt='' src='//a.b/c.png'>",
        '<link rel="stylesheet" href="https://a.b/c.css">',
    ):
        assert FETCHED.search(asks), asks
    assert IN_STYLES.search('@import "https://a.b/c.css"')
    assert IN_STYLES.search("src: url(https://a.b/c.woff2)")
    assert not FETCHED.search('<a href="https://a.b">, <link rel="search" href="search.html">')


def test_pages_are_built_without_a_warning_and_need_no_network(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", str(DOCS), str(tmp_path)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    pages = [*tmp_path.rglob("*.html")]
    assert {page.stem for page in DOCS.glob("*.md")} <= {page.stem for page in pages}
    for page in pages:
        assert not (found := FETCHED.search(page.read_text(encoding="utf-8"))), f"{page.name}: {found.group()}"
    for sheet in tmp_path.rglob("*.css"):
        assert not IN_STYLES.search(sheet.read_text(encoding="utf-8")), sheet.name
