"""The whole way in one verb: ``run`` on a file, ``demo`` on a synthetic rock."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from eds_chunked import schema
from eds_chunked.cli import parameters
from eds_chunked.cli.output import Facts, Note, Output, Piece, Rows, duration

if TYPE_CHECKING:
    from eds_chunked.workflow import RunSummary


@click.command()
@click.argument("source", metavar="SOURCE", shell_complete=parameters.files)
@click.argument("store", metavar="STORE", shell_complete=parameters.files)
@click.option(
    "--phases",
    "n_phases",
    type=click.IntRange(min=1),
    metavar="K",
    help="Number of phases.",
    show_default="as the PCA advises",
)
@click.option(
    "--components",
    "n_components",
    type=click.IntRange(min=1),
    metavar="N",
    default=20,
    help="Principal components to keep.",
)
@click.option(
    "--min-size",
    type=parameters.number_or_rule,
    metavar="PIXELS|AREAum2",
    help="Smallest object that stays: pixels, or an area such as 50um2.",
    show_default="100, or a thousandth of a small map",
)
@click.option(
    "--folder",
    type=click.Path(file_okay=False),
    metavar="FOLDER",
    help="Where pictures and tables go.",
    show_default="STORE-results",
)
@parameters.options(
    parameters.merges,
    parameters.energy,
    parameters.pick,
    parameters.overwrite,
    parameters.memory,
    parameters.scheduler,
    parameters.calibration,
)
@parameters.speaking
def run(
    output: Output,
    source: str,
    store: str,
    folder: str | None,
    pick: str | None,
    calibration: dict[str, Any],
    **given: Any,
) -> None:
    """Take a file to phases, phase spectra and grain sizes.

    Convert, calibrate, PCA, number of components, NMF, phases, spectra, grains, figures, report. Everything is saved
    in the store, so that each step can be run again alone with other parameters.

    \b
    Example:
      eds-chunked run map.bcf map.zarr
      eds-chunked run map.rpl map.zarr --memory 1GB --phases 4 --pixel-size 2.5 --zero-peak auto
      eds-chunked run map.bcf again.zarr --phases 5 --min-size 50um2 --merge feldspar=2,5
    """
    from eds_chunked.readers import open_source

    # Before the imports that take seconds: a wrong path is told at once.
    reader = open_source(source, pick=pick, memory=given["memory"])
    from eds_chunked import workflow
    from eds_chunked.dask_cluster import active_client

    chosen: dict[str, Any] = {"folder": folder, "pick": pick, "calibration": calibration or None, **given}
    with output.working():
        # A worker opens the file itself.
        summary = workflow.run(reader if active_client() is None else source, store, **chosen)
    result, pieces = _tell(summary)
    output.show(result, *pieces, _files(summary, output), brief=summary.report)


def _tell(summary: RunSummary) -> tuple[dict[str, Any], list[Piece]]:
    """Return a summary as JSON types and as what people read."""
    from eds_chunked.cli.describing import map_facts, map_lines, modal_rows, size_pieces
    from eds_chunked.store.opening import open_map

    facts = map_facts(open_map(summary.store))
    addresses = {address.split("/")[0]: address for address in summary.addresses}
    result = {
        "store": summary.store,
        "report": summary.report,
        "folder": summary.folder,
        "files": list(summary.files),
        "map": facts,
        "results": addresses,
        "seconds": summary.seconds,
        "advised_components": summary.advice.n_components if summary.advice else None,
        "modal": summary.modal,
        "grain_sizes": summary.grain_sizes,
        "peak_bytes": summary.peak_bytes,
    }
    steps = [[name, duration(seconds), addresses.get(name, "")] for name, seconds in summary.seconds.items()]
    pieces: list[Piece] = [
        map_lines(facts, "Map"),
        Rows(["step", "time", "result"], steps, "Steps", words=("result",)),
        *([Note(str(summary.advice))] if summary.advice else []),
        modal_rows(summary.modal, "Phases (exclusive)"),
        *size_pieces(summary.grain_sizes),
    ]
    return result, pieces


def _files(summary: RunSummary, output: Output) -> Facts:
    n_pictures = sum(file.suffix == ".png" for file in summary.files)
    return Facts(
        [
            ("took", output.effort()),
            ("store", _near(summary.store)),
            ("results", f"{_near(summary.folder)} ({n_pictures} pictures, {len(summary.files) - n_pictures} tables)"),
            ("report", _near(summary.report)),
        ]
    )


def _near(path: str | Path) -> str:
    """Return a path as seen from here where that is shorter."""
    text = str(path)
    if "://" in text or not Path(text).is_relative_to(Path.cwd()):
        return text
    return str(Path(text).relative_to(Path.cwd()))


@click.command()
@click.argument("folder", metavar="[FOLDER]", default="demo-output", shell_complete=parameters.files)
@click.option(
    "--shape", type=parameters.map_shape, metavar="YxXxCHANNELS", default="192x256x1024", help="Size of the map."
)
@click.option("--counts", type=float, metavar="N", default=100.0, help="Mean counts a pixel.")
@click.option("--phases", type=int, metavar="K", default=4, help="Minerals in the rock, 1 to 8.")
@click.option("--seed", type=int, metavar="N", default=0, help="Another seed is another rock.")
@parameters.options(parameters.overwrite, parameters.memory)
@parameters.speaking
def demo(
    output: Output,
    folder: str,
    shape: tuple[int, int, int],
    counts: float,
    phases: int,
    seed: int,
    overwrite: bool,
    memory: str | None,
) -> None:
    """Take a synthetic rock the same way, and compare with truth.

    The number of phases is not told, PCA finds it. About a minute on two cores.

    \b
    Example:
      eds-chunked demo
      eds-chunked demo my-rock --phases 6 --counts 40
    """
    from eds_chunked import workflow
    from eds_chunked.cli.truth import compare_with_truth
    from eds_chunked.store.results import load
    from eds_chunked.synthetic import rock

    true = rock(shape, counts_per_pixel=counts, n_phases=phases, seed=seed)
    place = Path(folder)
    with output.working():
        summary = workflow.run(true, place / "rock.zarr", folder=place / "results", overwrite=overwrite, memory=memory)
    addresses = {address.split("/")[0]: address for address in summary.addresses}
    agreement = compare_with_truth(
        true,
        nmf=load(summary.store, addresses[schema.NMF]),
        phases=load(summary.store, addresses[schema.PHASES]),
    )
    columns = ["mineral", "found as\nphase", "cosine of\nspectra", "true\narea %", "found\narea %", "pixels\nright %"]
    rows = [
        [
            mineral.mineral,
            str(mineral.phase or "-"),
            f"{mineral.cosine:.4f}",
            *(f"{share:.2f}" for share in (mineral.true_percent, mineral.found_percent, mineral.right_percent)),
        ]
        for mineral in agreement.minerals
    ]
    right = (
        f"{agreement.accuracy_percent:.2f} % of all pixels have the right phase, "
        f"{agreement.accuracy_of_labelled_percent:.2f} % of those that have one."
    )
    result, pieces = _tell(summary)
    output.show(
        {
            **result,
            "truth": {
                "minerals": [vars(mineral) for mineral in agreement.minerals],
                "accuracy_percent": agreement.accuracy_percent,
                "accuracy_of_labelled_percent": agreement.accuracy_of_labelled_percent,
            },
        },
        *pieces,
        Rows(columns, rows, "Found against true"),
        Note(right),
        _files(summary, output),
        brief=summary.report,
    )
