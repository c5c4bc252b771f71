"""Stores behind URLs: the whole way on fsspec's memory and on a server that speaks S3, and clear errors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from click.testing import CliRunner, Result
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import LocalStore

import eds_chunked as edc
from eds_chunked.cli import main
from eds_chunked.errors import EdsError, ParameterError, StoreError, StoreNotFoundError
from eds_chunked.store import drafts
from eds_chunked.store.backend import ObjectStore, delete_dir, is_remote, location_text, stored_bytes, zarr_store
from eds_chunked.workflow import results_folder, write_model
from tests.ripple_files import write_ripple

pytestmark = pytest.mark.filterwarnings("ignore::eds_chunked.grains.statistics.FewGrainsWarning")

SHAPE = (37, 43, 64)


def rock() -> Any:
    return edc.synthetic.rock(SHAPE, energy_scale=0.1, n_phases=2, grain_size=12, counts_per_pixel=200)


def call(*arguments: object, code: int = 0) -> Result:
    done = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert done.exit_code == code, done.stderr
    return done


def answer(*arguments: object) -> Any:
    return json.loads(call(*arguments, "--json").stdout)


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    yield f"memory://urls/{tmp_path.name}/rock.zarr"
    for draft in list(drafts._open_drafts.values()):
        draft.discard()
    delete_dir(f"memory://urls/{tmp_path.name}", "")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    counts = np.asarray(edc.convert(rock(), tmp_path_factory.mktemp("source") / "rock.zarr")["counts"])
    return write_ripple(tmp_path_factory.mktemp("file") / "rock.rpl", counts)


# ------------------------------------------------------------------------------------------------ the whole way
@pytest.mark.usefixtures("unrendered")
def test_the_whole_way_in_memory_gives_what_it_gives_on_a_disk(url: str, tmp_path: Path) -> None:
    def workflow(store: str) -> None:
        edc.convert(rock(), store)
        edc.calibrate(store, pixel_size=2.5)
        edc.save(edc.pca(edc.open(store), n_components=4), store)
        edc.save(edc.nmf(edc.open(store), n_components=2), store)
        edc.save(edc.segment_phases(edc.load(store, "nmf"), min_size=5), store)
        phases = edc.load(store, "phases")
        edc.save(edc.phase_spectra(edc.open(store), phases=phases), store)
        edc.save(edc.separate_grains(phases), store)

    disk = str(tmp_path / "rock.zarr")
    workflow(url)
    workflow(disk)
    assert edc.open(url).drop_attrs().equals(edc.open(disk).drop_attrs())
    for step in ("pca", "nmf", "phases", "spectra", "grains"):
        assert edc.load(url, step).drop_attrs().equals(edc.load(disk, step).drop_attrs()), step
    assert set(edc.open_tree(url).groups) == set(edc.open_tree(disk).groups)
    np.testing.assert_array_equal(edc.open(url)["counts"], np.asarray(edc.open(disk)["counts"]))
    page = edc.write_report(url, tmp_path / "report.html").read_text()
    assert page.count("<img") == edc.write_report(disk, tmp_path / "disk.html").read_text().count("<img") > 8
    assert edc.export(url, tmp_path / "rock.hspy").stat().st_size > 10_000
    assert write_model(url, f"{url}-model") == (37, 43, edc.load(url, "nmf").sizes["energy"])
    model = zarr.open_array(zarr_store(f"{url}-model", read_only=True), path="model", mode="r")
    np.testing.assert_allclose(model[:], edc.reconstruct(edc.load(disk, "nmf")).values, rtol=1e-6)
    # Results go into the store that the map came from, not through a scratch folder.
    assert edc.pca(edc.open(url), n_components=2).encoding["source"] == url


@pytest.mark.usefixtures("unrendered")
def test_every_verb_takes_a_url(url: str, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert answer("convert", source, url)["store"] == url
    answer("calibrate", url, "--energy-scale", 0.1, "--energy-offset", -0.47, "--pixel-size", 2)
    assert answer("pca", url, "-k", 4)["address"] == "pca/main.r1"
    assert answer("nmf", url, "-k", 2)["address"] == "nmf/k2.r1"
    for verb in ("phases", "spectra", "grains"):
        assert answer(verb, url)["address"] == f"{verb}/k2.r1"
    answer("phases", url)
    told = call("info", url).stdout
    assert "on disk" in told
    assert "stale" in told
    assert "eds-chunked grains" in call("sizes", url, code=2).stderr
    for verb in ("spectra", "grains"):
        answer(verb, url)
    assert answer("sizes", url)["address"] == "grains/k2.r2"
    cleaned = answer("clean", url)
    assert sorted(cleaned["superseded"]) == ["grains/k2.r1", "phases/k2.r1", "spectra/k2.r1"]
    assert [result["stale"] for result in answer("info", url)["results"]] == [None] * 5
    report = answer("report", url)["report"]
    # Beside a URL nothing can be written: the working folder it is.
    assert Path(report) == tmp_path / "rock-results" / "report.html"
    assert answer("model", url, "--write-model", f"{url}-model")["address"] == "model/k2.r1"
    answer("export", url, tmp_path / "rock.hspy")
    again = call("convert", source, url, code=2)
    assert "found a store, expected a new place" in again.stderr


@pytest.mark.usefixtures("unrendered")
def test_run_on_a_url_writes_its_files_here(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    summary = edc.run(rock(), url, n_components=4, n_phases=2)
    assert summary.store == url
    assert summary.folder == tmp_path / "rock-results"
    assert summary.report.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["rock-results"]


# --------------------------------------------------------------------------------------------------- file://
def test_a_file_url_is_a_path(tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, url = str(tmp_path / "rock.zarr"), f"file://{tmp_path}/rock.zarr"
    assert location_text(url) == location_text(f"{url}/") == path
    assert not is_remote(url)
    assert isinstance(zarr_store(url), LocalStore)
    call("convert", source, url)
    call("pca", url, "-k", "3")
    assert edc.open(url).encoding["source"] == path
    assert edc.load(url, "pca").equals(edc.load(path, "pca"))
    assert answer("info", url)["results"] == answer("info", path)["results"]
    assert results_folder(url) == tmp_path / "rock-results"
    # What was streamed below the path is found by the URL.
    draft = edc.pca(edc.open(path), n_components=2)
    monkeypatch.setattr(drafts.Draft, "copy", None)
    assert edc.save(draft, url) == "pca/main.r2"
    diameters = tmp_path / "sizes.txt"
    np.savetxt(diameters, np.linspace(1, 9, 40))
    assert answer("sizes", f"file://{diameters}")["n"] == 40


@pytest.mark.parametrize(
    ("given", "text"),
    [("s3://b/rock.zarr/", "s3://b/rock.zarr"), ("file:///", "/"), ("gs://b/r.zarr", "gs://b/r.zarr")],
)
def test_a_location_has_one_spelling(given: str, text: str) -> None:
    assert location_text(given) == text


def test_results_go_to_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert results_folder("s3://bucket/maps/rock.zarr") == tmp_path / "rock-results"
    assert results_folder("s3://bucket") == tmp_path / "bucket-results"


# ------------------------------------------------------------------------------------------------------ errors
def hide(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    """Let an import of ``package`` fail, and make fsspec forget that it had one."""
    monkeypatch.setitem(sys.modules, package, None)
    for protocol in ("s3", "gs", "gcs"):
        # fsspec.registry is a mapping that hides the module of that name.
        monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, protocol, raising=False)


@pytest.mark.parametrize(("protocol", "package"), [("s3", "s3fs"), ("gs", "gcsfs"), ("gcs", "gcsfs")])
def test_a_missing_driver_is_named(monkeypatch: pytest.MonkeyPatch, protocol: str, package: str) -> None:
    hide(monkeypatch, package)
    store = f"{protocol}://bucket/map.zarr"
    with pytest.raises(StoreError, match=rf"found no driver for {protocol}://.*Fix: pip install {package}$"):
        edc.open(store)
    for arguments in (["info", store], ["pca", store], ["clean", store], ["report", store]):
        told = call(*arguments, code=2).stderr
        assert told.startswith("error: ")
        assert told.endswith(f"Fix: pip install {package}\n")
        assert told.count("\n") == 1


def test_an_unknown_protocol_is_refused() -> None:
    with pytest.raises(ParameterError, match=r"protocol s4://.*Fix: write s3://, gs:// or file://"):
        edc.open("s4://bucket/map.zarr")
    assert "protocol s4://" in call("info", "s4://bucket/map.zarr", code=2).stderr


def test_where_there_is_no_store_it_says_so(url: str) -> None:
    with pytest.raises(StoreNotFoundError, match=f"store {url}: found nothing"):
        edc.open(url)


class DriverError(Exception):
    """Of a driver's own library, as botocore's are."""


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (PermissionError("Access Denied"), r"access refused \(Access Denied\).*check the credentials"),
        (OSError(5, "Internal\nError"), r"no way to it \(\[Errno 5\] Internal Error\)"),
        (DriverError("Unable to locate credentials"), "no way to it .Unable to locate credentials"),
        (TimeoutError(), "no way to it .TimeoutError"),
    ],
)
def test_what_a_driver_raises_is_told_clearly(
    url: str, monkeypatch: pytest.MonkeyPatch, error: Exception, message: str
) -> None:
    ds = edc.convert(rock(), url)

    async def refuse(*args: object, **kwargs: object) -> None:
        raise error

    driver = type(zarr_store(url).fs)  # type: ignore[attr-defined]
    for name in ("_cat_file", "_ls", "_exists", "_find"):
        monkeypatch.setattr(driver, name, refuse, raising=False)
    store = ObjectStore(_Refusing(zarr_store(url).fs, refuse), path=f"/{url.removeprefix('memory://')}")  # type: ignore[attr-defined]
    monkeypatch.setattr("eds_chunked.store.backend.zarr_store", lambda *args, **kwargs: store)
    with pytest.raises(StoreError, match=message):
        edc.open(url)
    assert ds.sizes["y"] == 37


class _Refusing:
    """An asynchronous file system all of whose ways are ``refuse``."""

    async_impl = asynchronous = True
    protocol = "memory"

    def __init__(self, fs: Any, refuse: Any) -> None:
        self._fs, self._refuse = fs, refuse

    def __getattr__(self, name: str) -> Any:
        return self._refuse


# -------------------------------------------------------------------------------------------- put if not there
def test_put_if_not_there_keeps_what_is_there(url: str) -> None:
    store, prototype = zarr_store(url), default_buffer_prototype()
    for value in (b"first", b"second"):
        sync(store.set_if_not_exists("a/b", prototype.buffer.from_bytes(value)))
    found = sync(store.get("a/b", prototype))
    assert found is not None
    assert found.to_bytes() == b"first"
    assert stored_bytes(url) == stored_bytes(url, "a") == 5


# ------------------------------------------------------------------------------------ a server that speaks S3
@pytest.fixture(scope="module")
def s3() -> Iterator[dict[str, str]]:
    """The environment in which s3:// goes to a local server with one bucket."""
    pytest.importorskip("s3fs", reason="s3fs is not installed: pip install s3fs")
    server_of = pytest.importorskip("moto.server", reason="moto is not installed: pip install moto[server]")
    server = server_of.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    environment = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    make = "import fsspec; fsspec.filesystem('s3').mkdir('maps')"
    subprocess.run([sys.executable, "-c", make], env=os.environ | environment, check=True)
    yield environment
    server.stop()


def program(environment: dict[str, str], *arguments: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from eds_chunked.cli import main; main()", *map(str, arguments)]
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == code, done.stderr
    return done


@pytest.mark.long
def test_the_whole_way_on_an_object_store(s3: dict[str, str], source: Path, tmp_path: Path) -> None:
    store = "s3://maps/rock.zarr"
    program(s3, "convert", source, store, "--quiet")
    for arguments in (["pca", store, "-k", 4], ["nmf", store, "-k", 2], ["phases", store], ["grains", store]):
        done = program(s3, *arguments, "--quiet")
        assert done.stderr == ""
    program(s3, "nmf", store, "-k", 2, "--quiet")
    said = json.loads(program(s3, "info", store, "--json").stdout)
    assert [(r["address"], r["stale"] is None) for r in said["results"]] == [
        ("pca/main.r1", True),
        ("nmf/k2.r1", True),
        ("nmf/k2.r2", True),
        ("phases/k2.r1", False),
        ("grains/k2.r1", False),
    ]
    program(s3, "report", store, tmp_path / "r.html", "--quiet")
    assert (tmp_path / "r.html").stat().st_size > 10_000


CLAIMS = """
import sys
from eds_chunked.store.drafts import Draft
print(*[Draft("s3://maps/claims.zarr", "nmf", "k2").number for _ in range(4)], flush=True)
"""


def test_processes_that_claim_at_once_get_different_numbers(s3: dict[str, str]) -> None:
    command = [sys.executable, "-c", CLAIMS]
    writers = [subprocess.Popen(command, env=os.environ | s3, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    numbers = [int(number) for writer in writers for number in writer.communicate(timeout=60)[0].split()]
    assert sorted(numbers) == list(range(1, 9))


@pytest.mark.parametrize(
    ("change", "store", "message"),
    [
        ({}, "s3://maps/none.zarr", "found nothing, expected an eds_chunked store"),
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_MAX_ATTEMPTS": "1"}, "s3://maps/rock.zarr", "no way to it"),
        ({"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, "s3://maps/rock.zarr", "no way to it"),
    ],
)
def test_what_a_server_refuses_is_one_line(
    s3: dict[str, str], change: dict[str, str], store: str, message: str
) -> None:
    told = program(s3 | {"HOME": "/nonexistent"} | change, "info", store, code=2).stderr
    assert message in told
    assert "Traceback" not in told


def test_a_bucket_that_is_not_there_is_told(s3: dict[str, str], source: Path) -> None:
    told = program(s3, "convert", source, "s3://none/rock.zarr", code=2).stderr
    assert "expected a bucket that exists" in told
    assert issubclass(StoreNotFoundError, EdsError)
