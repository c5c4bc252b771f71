"""Types and groups of options that several verbs share."""

from __future__ import annotations

import functools
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from eds_chunked import schema
from eds_chunked.cli.output import Facts, Output

Function = TypeVar("Function", bound=Callable[..., Any])
Verb = Callable[..., Any]


def energy_window(text: str) -> tuple[float, float]:
    """Read ``LO:HI`` in keV; either end may be left out."""
    low, colon, high = text.partition(":")
    try:
        window = float(low or "-inf"), float(high or "inf")
    except ValueError:
        colon = ""
    if not colon or not window[0] < window[1]:
        raise click.BadParameter(f"{text!r} is no window in keV such as 0.2:12")
    return window


def region(text: str) -> tuple[slice, slice]:
    """Read ``Y0:Y1,X0:X1`` in pixels; every number may be left out."""
    ends = [part.strip() for axis in text.split(",") for part in axis.split(":")]
    if [axis.count(":") for axis in text.split(",")] != [1, 1] or not all(end.isdecimal() or not end for end in ends):
        raise click.BadParameter(f"{text!r} is no region in pixels such as 0:512,100:612 (rows, columns)")
    y0, y1, x0, x1 = (int(end) if end else None for end in ends)
    return slice(y0, y1), slice(x0, x1)


def bins(text: str) -> tuple[int, int, int]:
    """Read ``N`` for N x N pixels, ``Y,X`` or ``Y,X,E`` for rows, columns and channels."""
    parts = [part.strip() for part in text.split(",")]
    if len(parts) > 3 or not all(part.isdecimal() and int(part) for part in parts):
        raise click.BadParameter(f"{text!r} is no binning such as 2, 2,3 or 2,2,4 (rows, columns, channels)")
    numbers = [int(part) for part in parts]
    return numbers[0], numbers[min(1, len(numbers) - 1)], numbers[2] if len(numbers) == 3 else 1


def pixel_size(text: str) -> tuple[float, float]:
    """Read a size in um, or ``DYxDX`` for pixels that are not square; both over 0."""
    height, times, width = text.lower().partition("x")
    try:
        size = float(height), float(width if times else height)
    except ValueError:
        size = 0.0, 0.0
    if not all(0 < side < float("inf") for side in size):
        raise click.BadParameter(f"{text!r} is no pixel size in um such as 2.5 or 2.5x3 (height x width)")
    return size


def map_shape(text: str) -> tuple[int, ...]:
    """Read ``ROWSxCOLUMNSxCHANNELS``."""
    parts = text.lower().split("x")
    if len(parts) != 3 or not all(part.isdecimal() for part in parts):
        raise click.BadParameter(f"{text!r} is no shape such as 192x256x1024")
    return tuple(map(int, parts))


def names(text: str) -> list[str]:
    """Read names between commas."""
    return [name for part in text.split(",") if (name := part.strip())]


def whole_numbers(text: str) -> list[int]:
    """Read whole numbers between commas."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise click.BadParameter(f"{text!r} is no list of whole numbers such as 1,3") from None


def merge(text: str) -> tuple[str, list[int]]:
    """Read a name and the whole numbers of what it is the name of: ``NAME=I,J``."""
    name, equals, members = text.rpartition("=")
    if not equals or not name.strip():
        raise click.BadParameter(f"{text!r} is no name with phases such as feldspar=2,5")
    return name.strip(), whole_numbers(members)


def number_or_rule(text: str) -> int | float | str:
    """Read a whole number, a number, or the name of a rule."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def thresholds(text: str) -> int | float | str | list[int | float | str]:
    """Read a number or the name of a rule for all components, or one a component between commas."""
    given = [number_or_rule(part.strip()) for part in text.split(",")]
    return given[0] if len(given) == 1 else given


def options(*decorators: Callable[[Verb], Verb]) -> Callable[[Verb], Verb]:
    """Join decorators into one, in the order in which ``--help`` shows them."""

    def decorate(verb: Verb) -> Verb:
        for decorator in reversed(decorators):
            verb = decorator(verb)
        return verb

    return decorate


def speaking(verb: Verb) -> Verb:
    """Give a verb ``--json``, ``--quiet`` and ``--log-level``, and as its first argument what it prints through.

    One that has ``--dry-run`` (see :data:`memory`) is called to tell its plan only.
    """

    @click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
    @click.option("-q", "--quiet", is_flag=True, help="No progress, no warnings, and of the result only where it is.")
    @click.option(
        "--log-level",
        type=click.Choice(["debug", "info", "warning", "error"]),
        metavar="LEVEL",
        default="warning",
        help="What stderr tells: debug, info, warning or error.",
    )
    @functools.wraps(verb)
    def speak(*args: Any, as_json: bool, quiet: bool, log_level: str, plan_only: bool = False, **given: Any) -> Any:
        with warnings.catch_warnings(), _log_to_stderr("error" if quiet else log_level):
            output = Output(as_json=as_json, quiet=quiet)
            if not plan_only:
                return verb(output, *args, **given)
            return _tell_plan(output, lambda: verb(output, *args, **given))

    return speak


def _tell_plan(output: Output, call: Callable[[], Any]) -> Any:
    """Print what a verb would do, up to the plan that it makes before it begins."""
    from eds_chunked.dry_run import dry_run_of, noted_plans

    with noted_plans(stop=True) as made:
        return call()  # There was nothing to do.
    planned = dry_run_of(made)
    pieces = [Facts(step.facts(), heading=step.what) for step in planned.steps]
    output.show(planned.to_dict(), *pieces, brief=planned.peak_bytes)
    return None


class _StderrHandler(logging.Handler):
    # A progress bar replaces sys.stderr while it is shown: the stream is looked up for every record.
    def emit(self, record: logging.LogRecord) -> None:
        click.echo(f"{record.levelname.lower()}: {schema.text(record.getMessage())}", err=True)


@contextmanager
def _log_to_stderr(level: str) -> Iterator[None]:
    log = logging.getLogger("eds_chunked")
    before = log.handlers, log.propagate, log.level
    log.handlers, log.propagate = [_StderrHandler()], False
    log.setLevel(level.upper())

    def show(message: Warning | str, *where: Any, **more: Any) -> None:
        log.warning(str(message))

    warnings.showwarning = show
    try:
        yield
    finally:
        log.handlers, log.propagate = before[:2]
        log.setLevel(before[2])


def files(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Let the shell complete names of files and folders, for arguments that may be URLs as well."""
    return [CompletionItem(incomplete, type="file")]


_MEMORY = (
    click.option(
        "--memory",
        metavar="SIZE",
        help="Bound on the memory of the whole process, such as 2GB.",
        show_default="half of what is free, at most 4GB",
    ),
    click.option(
        "--dry-run",
        "plan_only",
        is_flag=True,
        help="Print what it would read and write, and its peak memory; write nothing.",
    ),
)
memory = options(*_MEMORY)
"""Whoever has a budget has a plan, which ``--dry-run`` prints."""


def scheduler(verb: Verb) -> Verb:
    """Give a verb ``--scheduler``: what it computes, the workers of that cluster compute."""

    @click.option(
        "--scheduler",
        metavar="ADDRESS",
        help="Compute on the dask cluster of this scheduler, such as tcp://host:8786; --memory then is of each worker "
        "[default: 0.6 of its limit].",
    )
    @functools.wraps(verb)
    def connect(*args: Any, scheduler: str | None, **given: Any) -> Any:
        from eds_chunked.dask_cluster import connected

        with connected(scheduler):
            return verb(*args, **given)

    return connect


energy = click.option(
    "--energy", type=energy_window, metavar="LO:HI", help="Window to analyse, keV. [default: 0.2 to the beam energy]"
)
project_excluded = click.option("--project-excluded", is_flag=True, help="Give pixels that are left out loadings too.")
name = click.option("--name", metavar="RUN", help="Name of the run; a new revision if it exists.")


def _merges(context: click.Context, parameter: click.Parameter, given: tuple[tuple[str, list[int]], ...]) -> Any:
    if len({name for name, _ in given}) < len(given):
        raise click.BadParameter("a name may be given once, with all its phases: feldspar=2,5", context, parameter)
    return dict(given) or None


merges = click.option(
    "--merge",
    "merges",
    type=merge,
    multiple=True,
    callback=_merges,
    metavar="NAME=I,J",
    help="Take phases I and J as one and call it NAME; NAME=I only names it. May be given several times.",
)
overwrite = click.option("--overwrite", is_flag=True, help="Replace what is there.")
pick = click.option("--map", "pick", metavar="NAME|NUMBER", help="Spectrum image to take, for files with several.")


def came_from(step: str) -> Callable[[Verb], Verb]:
    """Give a verb ``--from``, the result that it builds on."""
    return click.option(
        "--from", "parent", metavar="STEP/RUN", default=step, help="Result to build on; of a step or run the newest."
    )


_CALIBRATION = (
    click.option(
        "--energy-scale", type=float, metavar="KEV", help="keV a channel (0.01 is 10 eV); of a bin where binned."
    ),
    click.option(
        "--energy-offset",
        type=float,
        metavar="KEV",
        help="Energy at the centre of the file's first channel, keV, also where only a part is stored.",
    ),
    click.option(
        "--zero-peak",
        type=click.Choice(["auto"]),
        metavar="auto",
        help="Set the offset so that the zero peak is at 0 keV.",
    ),
    click.option("--pixel-size", type=pixel_size, metavar="N|DYxDX", help="Pixel size, um (height x width)."),
    click.option("--beam-energy", type=float, metavar="KEV", help="Beam energy, keV."),
    click.option("--signal-type", type=click.Choice(["SEM", "TEM"]), metavar="SEM|TEM", help="Kind of microscope."),
    click.option("--elements", type=names, metavar="A,B,..", help="Elements of the sample, such as Al,Si,O."),
    click.option("--title", metavar="TEXT", help="Title of the map."),
)
_CALIBRATION_NAMES = (
    "energy_scale",
    "energy_offset",
    "zero_peak",
    "pixel_size",
    "beam_energy",
    "signal_type",
    "elements",
    "title",
)


def calibration(verb: Verb) -> Verb:
    """Give a verb the options of ``calibrate``, gathered in one argument ``calibration`` with those that were used."""

    @options(*_CALIBRATION)
    @functools.wraps(verb)
    def gather(*args: Any, **given: Any) -> Any:
        chosen = {key: value for key in _CALIBRATION_NAMES if (value := given.pop(key)) is not None}
        return verb(*args, calibration=chosen, **given)

    return gather


_SELECTING = (
    click.option(
        "--region", type=region, metavar="Y0:Y1,X0:X1", help="Rows and columns to store, in pixels of the file."
    ),
    click.option("--energy", type=energy_window, metavar="LO:HI", help="Window to store, keV."),
    click.option(
        "--rebin",
        type=bins,
        metavar="N|Y,X|Y,X,E",
        help="Add up blocks of N x N pixels, of Y x X, or of Y x X pixels and E channels; what does not fill a last "
        "block is left out.",
    ),
    click.option(
        "--energy-scale",
        type=float,
        metavar="KEV",
        help="keV a channel (0.01 is 10 eV), where the file has it wrong; taken before --energy.",
    ),
)
_SELECTING_NAMES = ("region", "energy", "rebin", "energy_scale")


def selecting(verb: Verb) -> Verb:
    """Give a verb the options of what is taken of a file, gathered in one argument ``selection``."""

    @options(*_SELECTING)
    @functools.wraps(verb)
    def gather(*args: Any, **given: Any) -> Any:
        return verb(*args, selection={key: given.pop(key) for key in _SELECTING_NAMES}, **given)

    return gather


_PART = (
    click.option(
        "--rebin", "bins", type=bins, metavar="N|Y,X|Y,X,E", help="Add up pixels and channels first, as convert does."
    ),
    click.option(
        "--exclude-energy",
        type=energy_window,
        multiple=True,
        metavar="LO:HI",
        help="Channels to leave out, keV; may be given several times.",
    ),
    click.option(
        "--min-counts",
        type=float,
        metavar="N",
        help="Leave out pixels of fewer counts, over all channels of the stored map.",
    ),
    click.option(
        "--mask",
        metavar="FILE",
        help="Pixels to analyse: an image or a .npy file of the size of the map, not zero where analysed; or a result "
        "such as pca/main, for the same pixels.",
    ),
)
_PART_NAMES = ("bins", "exclude_energy", "min_counts", "mask")


def part_of_the_map(verb: Verb) -> Verb:
    """Give a verb the options of what of a map is analysed, gathered in one argument ``part``."""

    @options(*_PART)
    @functools.wraps(verb)
    def gather(*args: Any, **given: Any) -> Any:
        from eds_chunked.workflow import Part

        return verb(*args, part=Part(**{key: given.pop(key) for key in _PART_NAMES}), **given)

    return gather


_STORING = (
    click.option(
        "--codec",
        type=click.Choice(["counts", "zstd", "lz4"]),
        metavar="NAME",
        help="How counts are packed: counts (small and fast, needs this package), zstd or lz4 (read by every Zarr).",
        show_default="counts",
    ),
    click.option(
        "--shards/--no-shards", default=None, help="16 tiles a file. [default: where there are over 10 000 tiles]"
    ),
    click.option("--salvage", is_flag=True, help="Keep the whole rows before the damage of a damaged file."),
    click.option("--resume", is_flag=True, help="Go on with a conversion that stopped."),
)
_STORING_NAMES = ("codec", "shards", "salvage", "resume")


def storing(verb: Verb) -> Verb:
    """Give a verb the options of how a map is stored, gathered in one argument ``storing``."""

    @options(*_STORING)
    @functools.wraps(verb)
    def gather(*args: Any, **given: Any) -> Any:
        return verb(*args, storing={key: given.pop(key) for key in _STORING_NAMES}, **given)

    return gather
