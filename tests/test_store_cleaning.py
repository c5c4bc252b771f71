"""clean: what was made again goes, and what nobody will finish; the newest stays, and what it was made from."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from eds_chunked import schema
from eds_chunked.cli import main
from eds_chunked.errors import StoreNotFoundError
from eds_chunked.store import drafts
from eds_chunked.store.backend import exists, list_dir, zarr_store
from eds_chunked.store.cleaning import clean
from eds_chunked.store.conversion import convert
from eds_chunked.store.layout import CLAIMS
from eds_chunked.store.opening import open_map
from eds_chunked.store.results import load, revisions, save
from tests.failing_store import KilledError, failing_after
from tests.made_maps import MadeReader, made_counts, made_draft, made_result

COUNTS = made_counts((11, 7, 13))


@pytest.fixture(params=["disk", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    place = f"{tmp_path}/map.zarr" if request.param == "disk" else f"memory://clean/{tmp_path.name}/map.zarr"
    convert(MadeReader(COUNTS), place)
    yield place
    for draft in list(drafts._open_drafts.values()):
        draft.discard()


def child(parent: str, step: str, run: str = "k2", ds: Any = None) -> Any:
    attrs = {schema.STEP: step, schema.PARENT: parent, schema.RUN: run}
    return made_result(ds)[[schema.FACTORS]].assign_attrs(attrs)


def addresses(store: str) -> list[str]:
    return [revision.address for revision in revisions(store)]


def leave_unfinished(store: str, *, host: str = "", days: float = 0) -> str:
    """Leave a draft as a killed process of ``host`` does, begun ``days`` ago."""
    draft = drafts.Draft(store, schema.NMF, "k2")
    draft.copy(made_result(open_map(store)))
    draft._close()
    key = f"{CLAIMS}/nmf/k2.r{draft.number}"
    path = zarr_store(store)
    about = {"id": "x", "when": (datetime.now(UTC) - timedelta(days=days)).isoformat(), "host": host or _host()}
    drafts.sync(path.set(key, drafts.default_buffer_prototype().buffer.from_bytes(json.dumps(about).encode())))
    return f"nmf/k2.r{draft.number}"


def _host() -> str:
    return drafts.platform.node()


def test_earlier_revisions_go_and_the_newest_of_each_run_stays(store: str) -> None:
    ds = open_map(store)
    for value in (1, 2, 3):
        save(made_result(ds, value=value), store)
    save(made_result(ds, run="other"), store)
    assert clean(store, dry_run=True).superseded == ("nmf/k2.r1", "nmf/k2.r2")
    assert len(addresses(store)) == 4
    done = clean(store)
    assert (done.superseded, done.uncommitted, done.kept) == (("nmf/k2.r1", "nmf/k2.r2"), (), {})
    assert done.n_bytes > 1000
    assert addresses(store) == ["nmf/k2.r3", "nmf/other.r1"]
    assert [name for name in list_dir(store, "results/nmf") if name != "zarr.json"] == ["k2.r3", "other.r1"]
    assert load(store, "nmf/k2").drop_attrs().equals(made_result(ds, value=3).drop_attrs())
    # A number is not given twice.
    assert save(made_result(ds), store) == "nmf/k2.r4"
    assert clean(store).superseded == ("nmf/k2.r3",)
    assert clean(store) == type(done)((), (), {}, 0)


def test_what_the_newest_was_made_from_stays(store: str) -> None:
    ds = open_map(store)
    save(made_result(ds), store)
    save(child("nmf/k2.r1", schema.PHASES, ds=ds), store)
    save(child("phases/k2.r1", schema.GRAINS, ds=ds), store)
    for value in (2, 3):
        save(made_result(ds, value=value), store)
    save(child("nmf/k2.r3", schema.PHASES, ds=ds), store)
    done = clean(store)
    assert done.superseded == ("nmf/k2.r2",)
    assert done.kept == {
        "nmf/k2.r1": "phases/k2.r1 was made from it",
        "phases/k2.r1": "grains/k2.r1 was made from it",
    }
    # The grains made again, nothing needs the old ones.
    save(child("phases/k2.r2", schema.GRAINS, ds=ds), store)
    assert set(clean(store).superseded) == {"nmf/k2.r1", "phases/k2.r1", "grains/k2.r1"}
    assert addresses(store) == ["nmf/k2.r3", "phases/k2.r2", "grains/k2.r2"]


def test_what_was_never_finished_goes(store: str) -> None:
    save(made_result(open_map(store)), store)
    left = leave_unfinished(store, days=8)
    assert clean(store, dry_run=True).uncommitted == (left,)
    assert clean(store).uncommitted == (left,)
    assert not exists(store, f"results/{left}/factors/zarr.json")
    assert addresses(store) == ["nmf/k2.r1"]


def test_on_a_disk_what_a_process_of_this_machine_left_goes_at_once(store: str) -> None:
    left = leave_unfinished(store)
    done = clean(store)
    if store.startswith("memory"):
        assert (done.uncommitted, list(done.kept)) == ((), [left])
        assert "less than 7 days ago" in done.kept[left]
    else:
        assert (done.uncommitted, done.kept) == ((left,), {})


def test_what_another_machine_may_be_writing_stays(store: str) -> None:
    left = leave_unfinished(store, host="node17", days=6)
    assert clean(store).kept == {left: "claimed by node17 less than 7 days ago"}
    assert exists(store, f"results/{left}/factors/zarr.json")


@pytest.mark.parametrize(
    ("claim", "says"),
    [(None, "is gone"), (b"", "cannot be read"), (b"[]", "cannot be read"), (b"{}", "cannot be read")],
)
def test_what_has_no_readable_claim_stays(store: str, claim: bytes | None, says: str) -> None:
    left = leave_unfinished(store, days=100)
    key = f"{CLAIMS}/{left}"
    if claim is None:
        drafts.sync(zarr_store(store).delete(key))
    else:
        drafts.sync(zarr_store(store).set(key, drafts.default_buffer_prototype().buffer.from_bytes(claim)))
    assert clean(store).kept == {left: f"of unknown age: its claim {says}"}
    assert exists(store, f"results/{left}/factors/zarr.json")


def test_a_draft_that_is_open_stays_and_can_be_saved(store: str) -> None:
    draft = made_draft(open_map(store))
    assert list(clean(store).kept) == ["nmf/k2.r1"]
    assert save(draft, store) == "nmf/k2.r1"
    assert clean(store).kept == {}
    assert addresses(store) == ["nmf/k2.r1"]


WRITER = """
import sys
from eds_chunked.store.opening import open_map
from tests.made_maps import made_draft
draft = made_draft(open_map(sys.argv[1]))
print("writing", flush=True)
sys.stdin.readline()
"""


def test_what_another_process_is_writing_stays_until_it_is_killed(tmp_path: Path) -> None:
    store = str(tmp_path / "map.zarr")
    convert(MadeReader(COUNTS), store)
    command = [sys.executable, "-c", WRITER, store]
    root = Path(__file__).parents[1]
    with subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "writing\n"
        assert clean(store).kept == {"nmf/k2.r1": "being written"}
        assert exists(store, "results/nmf/k2.r1/loadings/zarr.json")
        writer.kill()
    assert clean(store).uncommitted == ("nmf/k2.r1",)
    assert not exists(store, "results/nmf/k2.r1/loadings/zarr.json")


def test_a_revision_that_is_finished_while_it_is_looked_at_stays(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    draft = made_draft(open_map(store))

    def finish(*args: object) -> None:
        save(draft, store)

    monkeypatch.setattr("eds_chunked.store.cleaning.why_open", finish)
    assert clean(store).uncommitted == ()
    assert addresses(store) == ["nmf/k2.r1"]


def test_broken_off_at_any_moment_it_can_be_done_again(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = "memory" if store.startswith("memory") else "disk"
    ds = open_map(store)
    for n_changes in range(4):
        for value in (1, 2, 3):
            save(made_result(ds, value=value)[[schema.FACTORS]], store)
        newest = addresses(store)[-1]
        with failing_after(monkeypatch, kind, n_changes), pytest.raises(KilledError):
            clean(store)
        assert addresses(store)[-1] == newest
        for revision in revisions(store):
            assert schema.FACTORS in load(store, revision.address)
    monkeypatch.setattr(drafts, "_LONGEST", timedelta(0))
    clean(store)
    assert addresses(store) == [newest]
    assert [name for name in list_dir(store, "results/nmf") if name != "zarr.json"] == [newest.removeprefix("nmf/")]


def test_the_verb_lists_and_then_removes(store: str) -> None:
    ds = open_map(store)
    for value in (1, 2):
        save(made_result(ds, value=value), store)

    def call(*arguments: str) -> str:
        done = CliRunner().invoke(main, ["clean", store, *arguments])
        assert done.exit_code == 0, done.stderr
        return done.stdout

    assert json.loads(call("--dry-run", "--json"))["superseded"] == ["nmf/k2.r1"]
    listed = call("--dry-run")
    assert "nmf/k2.r1" in listed
    assert "to be freed" in listed
    assert len(addresses(store)) == 2
    assert call("--quiet") == "nmf/k2.r1\n"
    assert addresses(store) == ["nmf/k2.r2"]
    assert call() == "Nothing to remove.\n"


def test_there_must_be_a_store(tmp_path: Path) -> None:
    with pytest.raises(StoreNotFoundError):
        clean(tmp_path / "none.zarr")
