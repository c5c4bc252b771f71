"""Results in a store: saved as immutable revisions, found again by name, fresh or stale."""

from __future__ import annotations

import math
import re
import shlex
import uuid
from dataclasses import dataclass
from typing import Any

import xarray as xr
import zarr
from zarr.core.sync import sync

from eds_chunked import schema
from eds_chunked.errors import MissingResultError, ParameterError, StaleResultError
from eds_chunked.memory import Reads, Stored
from eds_chunked.store.backend import Location, exists, location_text, zarr_store
from eds_chunked.store.drafts import Draft, draft_of, open_result, revision_numbers
from eds_chunked.store.layout import group_document, revision_group
from eds_chunked.store.opening import check_store
from eds_chunked.store.provenance import check_calibrated, now, versions
from eds_chunked.store.run_log import note_result, recorded

_ADDRESS = re.compile(r"(?P<step>[a-z_]+)(/(?P<run>[a-z][a-z0-9_-]*?)(\.r(?P<number>[0-9]+))?)?")

DEFAULT_RUN = "main"


@dataclass(frozen=True)
class Revision:
    """A committed revision of a run."""

    step: str
    run: str
    number: int
    attrs: dict[str, Any]

    @property
    def address(self) -> str:
        """How it is called: ``nmf/k4.r2``."""
        return f"{self.step}/{self.run}.r{self.number}"


def revisions(store: Location) -> list[Revision]:
    """Return all committed revisions, in the order of the steps and then of time."""
    check_store(store)
    found = []
    for step in schema.STEPS:
        for run, numbers in revision_numbers(store, step).items():
            found += [revision for number in numbers if (revision := _committed(store, step, run, number))]
    return sorted(found, key=lambda r: (schema.STEPS.index(r.step), r.attrs[schema.CREATED], r.number))


def _committed(store: Location, step: str, run: str, number: int) -> Revision | None:
    group = revision_group(step, run, number)
    if not exists(store, group_document(group)):
        return None
    attrs = zarr.open_group(zarr_store(store, read_only=True), path=group, mode="r").attrs.asdict()
    return Revision(step, run, number, attrs)


def newest(store: Location, address: str) -> Revision:
    """Return the revision at ``nmf`` (the last one made), ``nmf/k4`` (the newest of a run) or ``nmf/k4.r2``."""
    match = _ADDRESS.fullmatch(address)
    if match is None or match["step"] not in schema.STEPS:
        raise ParameterError(
            "result",
            found=repr(address),
            expected=f"STEP, STEP/RUN or STEP/RUN.rN, STEP one of {' '.join(schema.STEPS)}",
            fix="eds-chunked info STORE lists what there is",
        )
    number = int(match["number"]) if match["number"] else None
    fitting = [
        revision
        for revision in revisions(store)
        if revision.step == match["step"] and match["run"] in (None, revision.run) and number in (None, revision.number)
    ]
    if not fitting:
        text = location_text(store)
        raise MissingResultError(
            f"result {address} in {text}",
            found=", ".join(r.address for r in revisions(store)) or "no results",
            expected=f"a saved {match['step']}",
            fix=_making(match["step"], text),
        )
    return fitting[-1]


def _making(step: str, store: str) -> str:
    """Return what makes a first result of a step."""
    if step == schema.DECOMPOSE:
        return _decompose_call(store)
    if step == schema.GRAIN_SPECTRA:
        return f"eds-chunked {schema.SPECTRA} {store} --grains"
    return f"eds-chunked {step} {store}"


def load(store: Location, address: str) -> xr.Dataset:
    """Open a saved result, lazily.

    Parameters
    ----------
    store
        Path or URL of the store.
    address
        ``"nmf"`` for the last one made, ``"nmf/k4"`` for the newest revision of a run, ``"nmf/k4.r2"`` for one.

    Raises
    ------
    MissingResultError
        There is no such result; the message lists what there is.
    """
    revision = newest(store, address)
    group = revision_group(revision.step, revision.run, revision.number)
    ds = open_result(zarr_store(store, read_only=True), group)
    ds.encoding |= {"source": location_text(store), "group": group}
    return ds


def reads_of(result: xr.Dataset, name: str, passes: int = 1) -> Reads:
    """Return what so many passes over a variable of a result read; of one that is not stored, its values."""

    def stored() -> Stored:
        variable = result[name].variable
        pieces = math.prod(map(len, variable.chunks)) if variable.chunks is not None else 1
        where, group = result.encoding.get("source"), result.encoding.get("group")
        if where is None or group is None:
            return Stored(pieces, variable.nbytes)
        found = sync(zarr_store(where, read_only=True).getsize_prefix(f"{group}/{name}/c/"))
        return Stored(pieces, found or variable.nbytes)

    return Reads(f"chunks of {name}", stored, passes)


def why_stale(store: Location, revision: Revision, all_revisions: list[Revision] | None = None) -> str | None:
    """Tell why a result no longer fits the map or its parent, or None if it is fresh."""
    known = revisions(store) if all_revisions is None else all_revisions
    attrs = _map_attributes(store)
    if schema.BEFORE_CALIBRATION in attrs:
        return "the map is being calibrated"
    if revision.attrs.get(schema.FINGERPRINT) != attrs[schema.FINGERPRINT]:
        return "the map was converted or calibrated again since"
    parent = revision.attrs.get(schema.PARENT)
    if parent is None:
        return "what it was made from was not saved before it" if schema.PARENT_ID in revision.attrs else None
    same_run = [r for r in known if parent.rsplit(".r", 1)[0] == f"{r.step}/{r.run}"]
    if not same_run or same_run[-1].address != parent:
        return f"its parent {parent} was made again since" if same_run else f"its parent {parent} is not in the store"
    reason = why_stale(store, same_run[-1], known)
    return reason and f"its parent {parent} is stale: {reason}"


def _map_attributes(store: Location) -> dict[str, Any]:
    return zarr.open_group(zarr_store(store, read_only=True), path=schema.MAP_GROUP, mode="r").attrs.asdict()


def _first_stale(store: Location, revision: Revision, known: list[Revision]) -> Revision:
    """Return what has to be made again first for a stale result to become fresh: itself, or one it descends from."""
    run = revision.attrs.get(schema.PARENT, "").rsplit(".r", 1)[0]
    parents = [r for r in known if f"{r.step}/{r.run}" == run]
    if parents and why_stale(store, parents[-1], known) is not None:
        return _first_stale(store, parents[-1], known)
    return revision


_FLAGS = {
    "n_components": "-k",
    "energy": "--energy",
    "noise": "--noise",
    "solver": "--solver",
    "loss": "--loss",
    "restarts": "--restarts",
    "max_epochs": "--max-epochs",
    "fit_pixels": "--fit-pixels",
    "seed": "--seed",
    "min_size": "--min-size",
    "min_area_um2": "--min-size",
    "threshold": "--threshold",
    "opening": "--opening",
    "closing": "--closing",
    "mixed_margin": "--mixed-margin",
    "source": "--of",
    "method": "--method",
    "h": "--h",
    "critical_variance": "--critical-variance",
    "n_clusters": "-k",
    "components": "--components",
}
"""The option of the command line for each parameter of a result."""


def refresh_command(store: Location, revision: Revision) -> str:
    """Return the command that makes a result again with its parameters, from the newest revision of its parent."""
    if schema.IMPORTED_FROM in revision.attrs.get(schema.PARAMETERS, {}):
        return _import_command(store, revision)
    if revision.step == schema.DECOMPOSE:
        said = revision.attrs.get(schema.PARAMETERS, {})
        return _decompose_call(location_text(store), str(said.get("estimator", "ESTIMATOR")), revision.run)
    parent = revision.attrs.get(schema.PARENT)
    if "merges" in revision.attrs.get(schema.PARAMETERS, {}) and parent is not None:
        return _merge_command(location_text(store), parent.rsplit(".r", 1)[0], revision)
    # Phases come by thresholds or by clustering: two verbs, one step.
    verb = "cluster" if "n_clusters" in revision.attrs.get(schema.PARAMETERS, {}) else revision.step
    words = ["eds-chunked", verb, location_text(store)]
    if revision.step == schema.GRAIN_SPECTRA:
        words[1:] = [schema.SPECTRA, location_text(store), "--grains"]
    if parent is not None:
        words += ["--from", parent.rsplit(".r", 1)[0]]
    for name, value in revision.attrs.get(schema.PARAMETERS, {}).items():
        if name == "min_size" and "min_area_um2" in revision.attrs[schema.PARAMETERS]:
            continue  # the pixels that the area was then
        if name in _FLAGS:
            words += [_FLAGS[name], _option(name, value)]
        elif revision.step in (schema.PCA, schema.NMF):
            words += _of_a_decomposition(store, name, value) or _part_of_the_map(revision, name, value)
    return " ".join([*words, "--name", revision.run])


def _decompose_call(store: str, estimator: str = "ESTIMATOR", run: str | None = None) -> str:
    """Return the call that makes a result of an estimator: an object of Python, so there is no command for it."""
    name = "" if run is None else f", name={run!r}"
    return f"eds_chunked.decompose(eds_chunked.open({store!r}), {estimator}{name}), then eds_chunked.save"


def _merge_command(store: str, parent: str, revision: Revision) -> str:
    """Return the command that merges and names phases again."""
    said = revision.attrs[schema.PARAMETERS]
    every = {**said["merges"], **{name: [number] for number, name in said["names"].items()}}
    words = ["eds-chunked", schema.PHASES, store, "--from", parent]
    for name, members in every.items():
        words += ["--merge", shlex.quote(f"{name}={','.join(map(str, members))}")]
    return " ".join([*words, "--name", revision.run])


def _of_a_decomposition(store: Location, name: str, value: Any) -> list[str]:
    """Return the options that are no parameter with a value, or whose value is another result."""
    if name in ("start", "fixed_factors"):
        known = [r.address.rsplit(".r", 1)[0] for r in revisions(store) if r.attrs.get(schema.RESULT_ID) == value]
        return [f"--{name.replace('_', '-')}", known[-1] if known else "RESULT"]
    if name == "early_stop" and not value:
        return ["--no-early-stop"]
    return ["--centre"] if name == "centre" and value else []


def _part_of_the_map(revision: Revision, name: str, value: Any) -> list[str]:
    """Return the options that leave out the same pixels and channels, and make the same bins."""
    if name == "exclude_energy":
        return [word for window in value for word in ("--exclude-energy", _option("energy", window))]
    if name == "pixel_mask":
        return ["--mask", revision.address]
    if name == schema.REBIN:
        return ["--rebin", _option(name, value)]
    return ["--project-excluded"] if name == "project_excluded" else []


def _import_command(store: Location, revision: Revision) -> str:
    parameters = revision.attrs[schema.PARAMETERS]
    words = ["eds-chunked", "import", location_text(store), shlex.quote(parameters[schema.IMPORTED_FROM])]
    words += ["--energy", _option("energy", parameters["energy"])]
    words += ["--bss"] if parameters["results"] == "bss" else []
    return " ".join([*words, "--name", revision.run])


def _option(name: str, value: Any) -> str:
    if isinstance(value, list | tuple):
        return (":" if name == "energy" else ",").join(
            f"{part:.6g}" if name == "energy" else str(part) for part in value
        )
    if name == "min_area_um2":
        return f"{value:g}um2"
    return "none" if value is None else str(value)


def load_fresh(store: Location, address: str) -> xr.Dataset:
    """Open a saved result for the step that builds on it; raise StaleResultError if it no longer fits the map."""
    revision = newest(store, address)
    known = revisions(store)
    reason = why_stale(store, revision, known)
    if reason is not None:
        text = location_text(store)
        check_calibrated(_map_attributes(store), text)
        raise StaleResultError(
            f"result {revision.address} in {text}",
            found=f"a stale one ({reason})",
            expected="one of the map as it is now",
            fix=refresh_command(store, _first_stale(store, revision, known)),
        )
    return load(store, revision.address)


@recorded("save")
def save(result: xr.Dataset, store: Location, *, name: str | None = None) -> str:
    """Save a result of :func:`pca`, :func:`nmf` and the steps after them as a new revision; computes what is lazy.

    Parameters
    ----------
    result
        What the step returned.
    store
        Path or URL of the store with the map.
    name
        Name of the run; the default is the one that the step gave (``main``, or ``k4`` for four NMF components).

    Returns
    -------
    The address of the new revision, such as ``"nmf/k4.r1"``. Earlier revisions stay.

    Raises
    ------
    StaleResultError
        The result was made from another map than the one in the store.
    """
    check_store(store)
    step = result.attrs.get(schema.STEP)
    if step not in schema.STEPS:
        raise ParameterError(
            "result",
            found=f"a Dataset of step {step!r}",
            expected="the result of a step",
            fix="save what pca, nmf, ... return",
        )
    _check_same_map(result, store)
    run = schema.check_run_name(name or result.attrs.get(schema.RUN) or DEFAULT_RUN)
    draft = draft_of(result, store)
    if draft is None or draft.run != run or draft.step != step:
        draft = Draft(store, step, run)
        try:
            draft.copy(result)
        except BaseException:
            draft.discard()
            raise
    attrs = {schema.RUN: run, schema.REVISION: draft.number, schema.CREATED: now(), schema.VERSIONS: versions()}
    saved = revisions(store)
    if any(r.attrs.get(schema.RESULT_ID) == result.attrs.get(schema.RESULT_ID) for r in saved):
        # Made again, or changed by hand: its children must not be taken for those of the earlier one.
        result.attrs[schema.RESULT_ID] = uuid.uuid4().hex
    parent = [r for r in saved if r.attrs.get(schema.RESULT_ID) == result.attrs.get(schema.PARENT_ID, "")]
    if parent:
        attrs[schema.PARENT] = parent[-1].address
    draft.commit(result.attrs | attrs)
    address = f"{step}/{run}.r{draft.number}"
    note_result(address, result.attrs.get(schema.PARAMETERS, {}))
    return address


def _check_same_map(result: xr.Dataset, store: Location) -> None:
    made_from = result.attrs.get(schema.FINGERPRINT)
    attrs = _map_attributes(store)
    check_calibrated(attrs, location_text(store))
    if made_from != attrs[schema.FINGERPRINT]:
        raise StaleResultError(
            f"{result.attrs[schema.STEP]} result",
            found="a result of another map, or of this one before it was calibrated",
            expected=f"a result of the map in {location_text(store)}",
            fix=f"run the step on eds_chunked.open({location_text(store)!r})",
        )
