"""What docs/security.md promises, a test a promise.

Files and stores come from others. Nothing in them is run, none of their names becomes a path, their texts stay texts in
every report and terminal, and none of them makes more room than a budget leaves.
"""

from __future__ import annotations

import ast
import base64
import hashlib
import json
import pyexpat
import re
import shutil
import struct
import sys
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
import rsciio
from click.testing import CliRunner
from numcodecs.zstd import Zstd
from PIL import Image

import eds_chunked as edc
from eds_chunked import schema
from eds_chunked.cli import main
from eds_chunked.engine.mask_file import read_pixel_mask
from eds_chunked.errors import EdsError, ParameterError, SourceError, StoreError
from eds_chunked.memory import peak_resident, resident
from eds_chunked.phases.naming import merge_phases
from eds_chunked.readers import open_source, rosetta
from eds_chunked.store import replacement
from eds_chunked.store.conversion import convert
from eds_chunked.store.opening import open_map
from eds_chunked.store.results import load, newest, revisions, save
from eds_chunked.store.tile_codecs import checksum_of
from eds_chunked.store.verification import verify
from eds_chunked.synthetic import rock
from eds_chunked.workflow import run
from tests import bcf_files
from tests.made_maps import MadeReader, made_counts, made_result
from tests.ripple_files import write_ripple

PACKAGE = Path(edc.__file__).parent
COUNTS = made_counts((29, 23, 41))
SCRIPT = "<script>alert('x')</script>"
HOSTILE = f"\"><img src=x onerror=alert(1)>{SCRIPT}'\x1b[31m{{{{7*7}}}}\u202e"
OBEYED = [*map(chr, range(0x20)), *map(chr, range(0x7F, 0xA0)), "\u202e", "\u2066"]
"""What a terminal may obey, but for the end of a line."""
OBEYED.remove("\n")


@pytest.fixture
def store(tmp_path: Path) -> Path:
    place = tmp_path / "map.zarr"
    convert(MadeReader(COUNTS), place)
    return place


def call(*words: object) -> Any:
    return CliRunner().invoke(main, [str(word) for word in words])


def edit(document: Path, **attributes: Any) -> None:
    """Change attributes in a document of a store by hand, as whoever sends one may."""
    found = json.loads(document.read_text())
    found["attributes"] |= attributes
    document.write_text(json.dumps(found))


# ------------------------------------------------------------------------------- nothing in a file is run
EVIL = b"cbuiltins\nexec\n(Vraise SystemExit('unpickled')\ntR."
"""A pickle that ends the process when it is loaded."""


def sources() -> Iterator[tuple[str, ast.AST]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            yield f"{path.relative_to(PACKAGE)}:{getattr(node, 'lineno', 0)}", node


def dotted(node: ast.AST) -> str:
    """Return the name of what is called: ``np.load``."""
    return ast.unparse(node) if isinstance(node, ast.Name | ast.Attribute) else ""


def test_no_code_of_ours_evaluates_text_or_starts_programs() -> None:
    banned = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "np.fromstring"}
    modules = {"pickle", "dill", "cloudpickle", "marshal", "shelve", "joblib", "subprocess", "yaml", "code"}
    found = []
    for place, node in sources():
        if isinstance(node, ast.Call) and dotted(node.func) in banned:
            found.append(f"{place} {dotted(node.func)}")
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
        found += [f"{place} {name}" for name in names if name.split(".")[0] in modules]
    assert found == []


def test_arrays_are_loaded_without_pickles() -> None:
    loads = [
        (place, node) for place, node in sources() if isinstance(node, ast.Call) and dotted(node.func) == "np.load"
    ]
    assert loads
    for place, node in loads:
        said = {word.arg: ast.unparse(word.value) for word in node.keywords}  # type: ignore[attr-defined]
        assert said.get("allow_pickle") == "False", place


def test_a_mask_of_pickled_objects_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "mask.npy", np.array([[object()]], dtype=object), allow_pickle=True)
    with pytest.raises(ParameterError, match="cannot be read"):
        read_pixel_mask(tmp_path / "mask.npy", (1, 1))


def test_learning_results_of_pickled_objects_are_left_out(tmp_path: Path, store: Path) -> None:
    result = made_result(open_map(store))
    path = edc.write_learning_results(result, tmp_path / "k2.npz")
    header = b"\x93NUMPY\x01\x00" + struct.pack("<H", 118) + b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }"
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("evil.npy", header.ljust(127) + b"\n" + EVIL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        again = edc.read_learning_results(open_map(store), path)
    np.testing.assert_array_equal(again[schema.FACTORS], result[schema.FACTORS])


@pytest.mark.parametrize("dtype", ["|O", "<i4"])
@pytest.mark.parametrize("group", ["map", "results/nmf/k2.r1", "images/0"])
def test_pickles_in_a_store_are_never_loaded(store: Path, group: str, dtype: str) -> None:
    save(made_result(open_map(store)), store)
    folder = store / group / "evil"
    folder.mkdir(parents=True)
    filters = [{"id": "pickle", "protocol": 5}]
    about = {"zarr_format": 2, "shape": [1], "chunks": [1], "dtype": dtype, "order": "C", "fill_value": None}
    (folder / ".zarray").write_text(json.dumps(about | {"compressor": None, "filters": filters}))
    (folder / "0").write_bytes(EVIL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        open_map(store)
        load(store, "nmf")
        damage = verify(store).other_damage
    assert any("evil: unreadable" in line for line in damage) or group == "images/0"


def test_no_format_whose_library_evaluates_text_is_read(tmp_path: Path) -> None:
    # RosettaSciIO's netCDF plugin calls eval on the history of a file.
    root = Path(rsciio.__file__).parent
    evaluating = {
        path.parent.name
        for path in root.rglob("*.py")
        if "tests" not in path.parts
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and dotted(node.func) in ("eval", "exec", "pickle.load", "pickle.loads", "dill.loads")
    }
    assert "netcdf" in evaluating
    used = {plugin["api"].split(".")[1] for plugin in rosetta._plugins()}
    # Of .msa it is an entry of the plugin's own table that is evaluated.
    assert evaluating & used <= {"msa"}
    (tmp_path / "evil.nc").write_bytes(b"CDF\x01" + bytes(60))
    with pytest.raises(SourceError, match="unknown format"):
        open_source(tmp_path / "evil.nc")


# ------------------------------------------------------------------------------------------------------ XML
BILLION = (
    '<?xml version="1.0"?><!DOCTYPE l [<!ENTITY a "lol"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>'
    "<TRTProject>&b;</TRTProject>"
)


@pytest.mark.parametrize(
    "text", [BILLION, BILLION.replace('<!ENTITY a "lol">', '<!ENTITY a SYSTEM "file:///etc/passwd">')]
)
def test_entities_in_the_header_of_a_bcf_are_refused(tmp_path: Path, text: str) -> None:
    files = bcf_files.contents([made_counts((3, 5, 61)).astype(np.uint16)])
    name = next(name for name in files if name == "header" or "header" in name.lower())
    path = tmp_path / "a.bcf"
    path.write_bytes(bcf_files.pack(files | {name: text.encode()}))
    with pytest.raises(SourceError, match=r"DTDForbidden|DTD|EntitiesForbidden|forbidden|no header|document type"):
        open_source(path)


def test_xml_of_our_own_is_parsed_by_defusedxml_only() -> None:
    parsers = {"xml.dom", "xml.sax", "lxml", "xml.etree.cElementTree"}
    for place, node in sources():
        if isinstance(node, ast.ImportFrom) and node.module == "xml.etree.ElementTree":
            # Its data classes, and no parser.
            assert {alias.name for alias in node.names} <= {"Element", "ParseError", "TreeBuilder"}, place
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        assert not any(name.startswith((*parsers, "xml.etree")) for name in names), place


def test_the_parser_that_libraries_use_limits_entities_by_itself() -> None:
    assert pyexpat.version_info >= (2, 4, 1)


# ------------------------------------------------------------------------------------ no name becomes a path
OUTSIDE = ["../../x", "/etc/x", "..", "nmf/../../x", "nmf/..", "nmf/k2.r1/../../x", "nmf/k2\n", "C:\\x", "nmf/K", "~"]


@pytest.mark.parametrize("address", OUTSIDE)
def test_addresses_are_addresses(store: Path, address: str) -> None:
    with pytest.raises(ParameterError, match=r"expected STEP, STEP/RUN or STEP/RUN\.rN"):
        newest(store, address)
    done = call("phases", store, "--from", address)
    assert done.exit_code == 2
    assert "STEP/RUN" in done.stderr


@pytest.mark.parametrize("name", ["../../x", "/x", "..", "a/b", "a\\b", "", "a.b", "A", "k2\n", "é"])
def test_runs_have_plain_names(store: Path, name: str) -> None:
    with pytest.raises(ParameterError, match="run name"):
        save(made_result(open_map(store), run=name or " "), store)
    assert not (store.parent / "x").exists()


def test_folders_of_a_store_that_are_no_runs_are_not_looked_at(store: Path) -> None:
    save(made_result(open_map(store)), store)
    for odd in ("K2.r1", "k2.r1x", "k2.rr1", "..r1"):
        shutil.copytree(store / "results/nmf/k2.r1", store / "results/nmf" / odd)
    assert [revision.address for revision in revisions(store)] == ["nmf/k2.r1"]


def test_names_of_images_and_files_come_from_no_file(tmp_path: Path) -> None:
    title = "../../../evil"
    images = [("../../evil", COUNTS[:, :, 0].astype("u2"), None)]
    convert(MadeReader(COUNTS, title=title, images=images), tmp_path / "in" / "map.zarr")
    assert sorted(path.name for path in (tmp_path / "in/map.zarr/images").iterdir()) == ["0", "zarr.json"]
    edc.export(tmp_path / "in" / "map.zarr", tmp_path / "in" / "map.hspy")
    with h5py.File(tmp_path / "in" / "map.hspy") as file:
        assert list(file["Experiments"]) == ["map"]
        assert file["Experiments/map/metadata/General"].attrs["title"] == title
    assert {path.name for path in tmp_path.iterdir()} == {"in"}


def test_names_of_files_in_a_bcf_are_no_paths(tmp_path: Path) -> None:
    files = bcf_files.contents([made_counts((3, 5, 61)).astype(np.uint16)])
    path = tmp_path / "in" / "a.bcf"
    path.parent.mkdir()
    path.write_bytes(bcf_files.pack(files | {"../../evil": b"x"}))
    reader = open_source(path)
    list(reader.bands(4))
    list(reader.images())
    assert [found.name for found in tmp_path.rglob("*") if found.is_file()] == ["a.bcf"]


def test_what_a_replacement_hands_on_is_ours(store: Path) -> None:
    # The mark of a replacement is a file with names of parts of the store.
    old, new = store.with_name(".map.zarr.old"), store.with_name(".map.zarr.new")
    shutil.copytree(store, new)
    (store.parent / "precious").mkdir()
    store.rename(old)
    replacement._mark(str(old), kept=("results", "../precious", "map/../../precious"))
    replacement._mark(str(new))
    convert(MadeReader(COUNTS), store, overwrite=True)
    assert (store.parent / "precious").is_dir()


# ---------------------------------------------------------------------------------- texts stay texts: HTML
class Page(HTMLParser):
    """All tags with their attributes, and all text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store all of whose texts are hostile, as if whoever sent it had written them into its documents."""
    place = tmp_path_factory.mktemp("hostile") / "map.zarr"
    with pytest.MonkeyPatch.context() as patch:
        # Its pictures are made below.
        patch.setattr("eds_chunked.report.assemble.pictures", lambda found: iter(()))
        run(rock((31, 37, 256), counts_per_pixel=200, n_phases=2, seed=1), place, n_phases=2, n_components=3)
    event = {"what": HOSTILE, "when": HOSTILE, "parameters": {HOSTILE: HOSTILE}, "versions": {HOSTILE: HOSTILE}}
    edit(
        place / "map/zarr.json", title=HOSTILE, history=[event], source_metadata={HOSTILE: HOSTILE}, missing_rows=[1, 2]
    )
    for document in sorted((place / "results").glob("*/*/zarr.json")):
        names = {"1": HOSTILE, "2": "=cmd|' /C calc'!A0"}
        made = json.loads(document.read_text())["attributes"]["parameters"]
        extra = {"parameters": made | {HOSTILE: HOSTILE}, "versions": {HOSTILE: HOSTILE}}
        edit(document, title=HOSTILE, phase_names=names, elements=["Si", HOSTILE], **extra)
    return place


def test_no_text_of_a_store_becomes_html(hostile: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    html = edc.write_report(hostile, tmp_path / "map.html").read_text(encoding="utf-8")
    page = Page(html)
    tags = {tag for tag, _ in page.tags}
    assert not tags & {"svg", "iframe", "object", "embed", "link", "base", "form"}
    assert {attrs["type"] for tag, attrs in page.tags if tag == "input"} <= {"radio"}
    for tag, attrs in page.tags:
        assert not any(name.startswith("on") for name in attrs), (tag, attrs)
        for name in ("src", "href"):
            assert (attrs.get(name) or "#").startswith(("#", "data:image/png;base64,")), (tag, attrs)
        assert tag != "meta" or set(attrs) <= {"charset", "name", "content", "http-equiv"}
    # They are shown, as what they are: title, history, versions, phase names, parameters.
    assert " ".join(page.words).count(SCRIPT) >= 5
    # The template is not a text of theirs either.
    assert "49" not in html.split("<title>")[1].split("</title>")[0]


def test_the_page_itself_allows_its_own_scripts_alone_and_no_network(hostile: Path, tmp_path: Path) -> None:
    html = edc.write_report(hostile, tmp_path / "map.html").read_text(encoding="utf-8")
    policies = [
        attrs["content"] for _, attrs in Page(html).tags if attrs.get("http-equiv") == "Content-Security-Policy"
    ]
    scripts = re.findall(r"<script>(.*?)</script>", html, flags=re.DOTALL)
    assert len(scripts) == html.count("<script") - 1 == 2
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    assert policies == [
        f"default-src 'none'; script-src 'sha256-{digests[0]}' 'sha256-{digests[1]}'; connect-src 'none'; "
        "img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
    ]
    # Texts of the store are in the data of the plots alone, and there they end no script.
    [data] = re.findall(r'<script type="application/json" id="plots">(.*?)</script>', html, flags=re.DOTALL)
    assert "<img" in json.dumps(json.loads(data))
    assert not set("<>&") & set(data)
    assert not any(SCRIPT in script for script in scripts)


# ------------------------------------------------------------------------------ texts stay texts: terminals
@pytest.mark.parametrize("option", [(), ("--json",), ("--quiet",)])
@pytest.mark.parametrize("verb", ["info", "log", "modal", "elements"])
def test_no_text_of_a_store_reaches_the_terminal_as_a_command(hostile: Path, verb: str, option: tuple[str]) -> None:
    done = call(verb, hostile, *option)
    assert done.exit_code == 0, done.stderr
    for letter in OBEYED:
        assert letter not in done.stdout + done.stderr, repr(letter)


@pytest.mark.parametrize("letter", OBEYED)
def test_printable(letter: str) -> None:
    assert letter not in schema.printable(f"a{letter}b\nc")
    assert schema.printable(f"a{letter}b\nc") == "a\ufffdb\nc"
    assert letter == "\t" or letter not in schema.text(f"a{letter}b")


def test_errors_and_warnings_are_printable(tmp_path: Path) -> None:
    done = call("info", tmp_path / "a\x1b[2Jb.bcf")
    assert done.exit_code == 2
    assert "\x1b" not in done.stderr


# ---------------------------------------------------------------------------- texts stay texts: spreadsheets
FORMULAS = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1+1", " =1+1"]


@pytest.mark.parametrize("name", FORMULAS)
def test_phases_are_not_called_like_formulas(store: Path, name: str) -> None:
    phases = edc.segment_phases(edc.nmf(open_map(store), n_components=2, solver="minibatch"), min_size=1)
    with pytest.raises(ParameterError, match="name of a phase"):
        merge_phases(phases, names={1: name})


@pytest.mark.parametrize("name", FORMULAS)
def test_nor_do_they_come_so_from_a_store(name: str) -> None:
    attrs = {schema.PHASE_NAMES: {"1": name}}
    assert schema.phase_name(attrs, 1)[0] == "'"
    assert schema.phase_name(attrs, 2, "phase 2") == "phase 2"


def test_no_cell_of_a_table_begins_a_formula(hostile: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eds_chunked.report.assemble.pictures", lambda found: iter(()))
    edc.write_results(hostile, tmp_path / "results")
    edc.write_spectra(load(hostile, "spectra"), tmp_path / "results" / "spectra.csv")
    files = sorted((tmp_path / "results").glob("*.csv"))
    assert len(files) > 5
    met = 0
    for file in files:
        for row in pd.read_csv(file, header=None, dtype=str, keep_default_na=False).to_numpy().tolist():
            for cell in row:
                met += "=cmd" in cell
                try:
                    float(cell.removesuffix("%") or 0)
                except ValueError:
                    assert not cell.startswith(("=", "+", "-", "@", "\t", "\r")), (file.name, cell)
    assert met > 3


# ------------------------------------------------------------------------------------- bombs and tall claims
@pytest.fixture
def small() -> Iterator[None]:
    """The process does not grow by more than 300 MB within."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = resident()
    yield
    assert peak_resident() - before < 300e6


linux = pytest.mark.skipif(sys.platform != "linux", reason="the peak of a process is reset by /proc")


@linux
@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("codec", ["counts", "zstd", "lz4"])
@pytest.mark.parametrize("way", ["engine", "verify"])
def test_a_tile_that_inflates_to_a_gigabyte_is_damage(tmp_path: Path, codec: str, way: str) -> None:
    store = tmp_path / "map.zarr"
    convert(MadeReader(COUNTS), store, codec=codec)
    if codec == "counts":
        bomb = bytes(Zstd(level=1, checksum=True).encode(np.zeros(2**30, np.uint8)))
        assert len(bomb) < 2**20
    else:
        # A header of Blosc that claims two gigabytes.
        (tile,) = (path for path in (store / "map/counts/c").rglob("*") if path.is_file())
        packed = bytearray(tile.read_bytes()[:-4])
        packed[4:8] = struct.pack("<I", 2**31 - 1024)
        bomb = bytes(packed) + checksum_of(bytes(packed))
    for tile in [path for path in (store / "map/counts/c").rglob("*") if path.is_file()]:
        tile.write_bytes(bomb)
    if way == "verify":
        assert "claims to hold" in verify(store).damaged_tiles[0].why
        return
    with pytest.raises(StoreError, match="claims to hold"):
        edc.pca(open_map(store), n_components=2)


@linux
@pytest.mark.usefixtures("small")
def test_an_index_of_a_shard_that_claims_terabytes_is_damage(tmp_path: Path) -> None:
    store = tmp_path / "map.zarr"
    convert(MadeReader(COUNTS), store, shards=True)
    (shard,) = (path for path in (store / "map/counts/c").rglob("*") if path.is_file())
    data = bytearray(shard.read_bytes())
    index = len(data) - 4 - 16 * 16
    data[index : index + 16] = struct.pack("<QQ", 0, 2**33)
    data[-4:] = checksum_of(bytes(data[index:-4]))
    shard.write_bytes(data)
    with pytest.raises(StoreError, match="points behind the end"):
        edc.pca(open_map(store), n_components=2)


@linux
@pytest.mark.usefixtures("small")
def test_a_file_that_claims_more_than_it_holds_is_refused_before_room_is_made(tmp_path: Path) -> None:
    write_ripple(tmp_path / "a.rpl", COUNTS.astype(np.uint16))
    text = (tmp_path / "a.rpl").read_text()
    (tmp_path / "a.rpl").write_text(text.replace("width\t23", "width\t2300000"))
    assert "2300000" in (tmp_path / "a.rpl").read_text()
    with pytest.raises(SourceError):
        open_source(tmp_path / "a.rpl")
    with h5py.File(tmp_path / "a.hspy", "w") as file:
        file.attrs["file_format"], file.attrs["file_format_version"] = "HyperSpy", "3.3"
        group = file.create_group("Experiments/map")
        group.create_dataset("data", (10**6, 10**6, 2048), "u2", chunks=(1, 1, 2048))
        for number, (name, size) in enumerate((("y", 10**6), ("x", 10**6), ("Energy", 2048))):
            axis = group.create_group(f"axis-{number}")
            axis.attrs.update(
                {"name": name, "size": size, "scale": 1.0, "offset": 0.0, "units": "", "navigate": number < 2}
            )
    with pytest.raises(EdsError):
        convert(tmp_path / "a.hspy", tmp_path / "map.zarr")
    assert not (tmp_path / "map.zarr" / "map").exists()


@linux
@pytest.mark.usefixtures("small")
def test_a_mask_that_claims_terabytes_is_refused(tmp_path: Path) -> None:
    header = b"\x93NUMPY\x01\x00" + struct.pack("<H", 118)
    header += b"{'descr': '|u1', 'fortran_order': False, 'shape': (1000000, 1000000), }".ljust(117) + b"\n"
    (tmp_path / "mask.npy").write_bytes(header + bytes(100))
    with pytest.raises(ParameterError, match="cannot be read"):
        read_pixel_mask(tmp_path / "mask.npy", (29, 23))


@linux
@pytest.mark.usefixtures("small")
def test_an_image_that_inflates_to_more_than_the_map_is_refused(tmp_path: Path) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = zlib.compress(bytes(9000 * (4 * 9000 + 1)), 9)
    shape = chunk(b"IHDR", struct.pack(">IIBBBBB", 9000, 9000, 8, 6, 0, 0, 0))
    (tmp_path / "mask.png").write_bytes(b"\x89PNG\r\n\x1a\n" + shape + chunk(b"IDAT", rows) + chunk(b"IEND", b""))
    assert (tmp_path / "mask.png").stat().st_size < 4e5
    with pytest.raises(ParameterError, match="found 9000 x 9000 values, expected"):
        read_pixel_mask(tmp_path / "mask.png", (29, 23))


def test_a_mask_of_the_right_size_is_read(tmp_path: Path) -> None:
    mask = COUNTS.sum(axis=2) % 3 == 1
    Image.fromarray(mask).save(tmp_path / "mask.png")
    np.save(tmp_path / "mask.npy", mask)
    for name in ("mask.png", "mask.npy"):
        np.testing.assert_array_equal(read_pixel_mask(tmp_path / name, mask.shape), mask)


# --------------------------------------------------------------------------------------------------- servers
def test_nothing_of_ours_listens_to_the_network() -> None:
    """Whoever adds a cluster gives it the address of loopback, dashboard included."""
    servers = {
        "HTTPServer",
        "ThreadingHTTPServer",
        "TCPServer",
        "socket.socket",
        "create_server",
        "start_server",
        "serve",
    }
    clusters = {"LocalCluster", "Scheduler", "Worker", "Nanny"}
    for place, node in sources():
        if not isinstance(node, ast.Call):
            continue
        last = dotted(node.func).rsplit(".", 1)[-1]
        assert {last, dotted(node.func)}.isdisjoint(servers), place
        if last in clusters:
            said = {word.arg: ast.unparse(word.value) for word in node.keywords}
            assert "127.0.0.1" in said.get("host", ""), place
            assert said.get("dashboard_address") == "None" or "127.0.0.1" in said.get("dashboard_address", ""), place
        # A client without an address would start a cluster of its own, with a dashboard on all interfaces.
        assert not last.endswith("Client") or node.args or node.keywords, place
