"""The steps, each a verb: ``pca``, ``nmf``, ``phases``, ``spectra``, ``grains``.

Each reads from the store what the step before saved, saves a new revision, and prints its address and a small table.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from eds_chunked import schema
from eds_chunked.cli import parameters
from eds_chunked.cli.output import Facts, Note, Output, Piece, Rows, number
from eds_chunked.errors import ParameterError

if TYPE_CHECKING:
    import xarray as xr

_noise = click.option("--noise", metavar="NAME", default="poisson", help="Scaling of the counts: poisson, or none.")


def _scaling(noise: str) -> str | None:
    return None if noise == "none" else noise


def _saved(output: Output, address: str) -> Facts:
    return Facts([("saved", address), ("took", output.effort())])


@click.command()
@click.argument("store", metavar="STORE", shell_complete=parameters.files)
@click.option(
    "-k",
    "--components",
    "n_components",
    type=click.IntRange(min=1),
    metavar="K",
    default=20,
    help="Components to keep.",
)
@click.option(
    "--solver",
    metavar="NAME",
    default="auto",
    help="gram (exact), randomized (several passes, for very many channels), incremental (scikit-learn's), or auto.",
)
@click.option("--centre", is_flag=True, help="Take the mean spectrum off first.")
@click.option(
    "--critical-variance",
    type=float,
    metavar="RATIO",
    help="Count the components that explain more than this share of the variance, and draw it in the scree figure.",
)
@parameters.options(
    _noise,
    parameters.energy,
    parameters.part_of_the_map,
    parameters.project_excluded,
    parameters.name,
    parameters.memory,
    parameters.scheduler,
)
@parameters.speaking
def pca(output: Output, store: str, name: str | None, noise: str, **given: Any) -> None:
    """Find principal components, and advise a number of phases.

    The counts are Poisson-scaled and not centred; the exact solver takes one pass to fit and one to project.

    \b
    Example:
      eds-chunked pca map.zarr -k 20 --energy 0.2:12
      eds-chunked pca map.zarr --mask grains.png --exclude-energy 1.70:1.78
    """
    from eds_chunked import workflow
    from eds_chunked.decomposition.advice import advise_components
    from eds_chunked.store.results import load

    with output.working():
        address = workflow.pca_step(store, name=name or "main", noise=_scaling(noise), **given)
    result = load(store, address)
    ratios = [float(ratio) for ratio in result[schema.EXPLAINED_VARIANCE_RATIO].values]
    advice = advise_components(result)
    counted = [advice.n_components, advice.elbow, advice.n_critical]
    first = ratios[: max([8, *(number + 2 for number in counted if number)])]
    noise_ratios = [float(r) for r in result[schema.NOISE_RATIO].values] if schema.NOISE_RATIO in result else []
    columns = ["component", "explained variance %", *(["over noise edge"] if noise_ratios else [])]
    rows = [
        [str(i + 1), f"{100 * ratio:.3f}", *([f"{noise_ratios[i]:.2f}"] if i < len(noise_ratios) else [])]
        for i, ratio in enumerate(first)
    ]
    pieces: list[Piece] = [Rows(columns, rows)]
    if len(first) < len(ratios):
        rest = len(ratios) - len(first)
        pieces[0] = Rows(columns, [*rows, [f"+ {rest} more", f"{100 * sum(ratios[len(first) :]):.3f}"]])
    pieces.append(Note(str(advice)))
    output.show(
        {
            "address": address,
            schema.EXPLAINED_VARIANCE_RATIO: ratios,
            "advised_components": advice.n_components,
            "borderline_components": advice.n_borderline,
            "over_noise_edge": [advice.last_ratio, advice.next_ratio],
            "noise_edge_refused": advice.refused or None,
            "elbow": advice.elbow,
            "critical_variance": advice.critical_variance,
            "components_above_critical": advice.n_critical,
            "seconds": output.seconds,
        },
        *pieces,
        _saved(output, address),
        brief=address,
    )


@click.command()
@click.argument("store", metavar="STORE", shell_complete=parameters.files)
@click.option(
    "-k",
    "--components",
    "n_components",
    type=click.IntRange(min=1),
    metavar="K",
    help="Number of components.",
    show_default="as the saved PCA advises",
)
@click.option(
    "--solver", metavar="NAME", default="sample", help="sample (random pixels), blockwise (all pixels), or minibatch."
)
@click.option(
    "--loss",
    metavar="NAME",
    help="mixture (likelihood of samples), poisson (likelihood), or frobenius (least squares).",
    show_default="the first that the solver and the values allow",
)
@click.option("--start", metavar="RESULT", help="Saved NMF or PCA to start from, such as pca or nmf/k4.")
@click.option(
    "--fixed-factors",
    metavar="RESULT",
    help="Fit loadings only, of the factors of a saved NMF: nmf/k4, or other.zarr:nmf/k4 of another store.",
)
@click.option("--restarts", type=int, metavar="N", default=1, help="Starts, of which the best is kept.")
@click.option("--max-epochs", type=int, metavar="N", default=20, help="Most times that sample or map are gone through.")
@click.option(
    "--early-stop/--no-early-stop", default=True, help="Stop before the noise is learnt, as counts held out tell."
)
@click.option("--fit-pixels", type=int, metavar="N", default=131072, help="Pixels of the sample.")
@click.option("--seed", type=int, metavar="N", default=0, help="Seed of the sample and the start.")
@parameters.options(
    _noise,
    parameters.energy,
    parameters.part_of_the_map,
    parameters.project_excluded,
    parameters.name,
    parameters.memory,
    parameters.scheduler,
)
@parameters.speaking
def nmf(output: Output, store: str, noise: str, **given: Any) -> None:
    """Factorise into non-negative spectra and maps, one a phase.

    \b
    Example:
      eds-chunked nmf map.zarr -k 4
      eds-chunked nmf map.zarr -k 4 --solver blockwise --loss poisson --name kl4
      eds-chunked nmf other.zarr --fixed-factors map.zarr:nmf/k4
    """
    from eds_chunked import workflow
    from eds_chunked.store.results import load

    with output.working():
        address = workflow.nmf_step(store, noise=_scaling(noise), **given)
    result = load(store, address)
    counts = result[schema.LOADINGS].sum((schema.Y, schema.X), dtype=float) * result[schema.FACTORS].sum(schema.ENERGY)
    total = float(counts.sum()) or 1.0
    shares = {
        int(c): float(value) / total for c, value in zip(result[schema.COMPONENT].values, counts.values, strict=True)
    }
    left = float(result[schema.OBJECTIVE][-1])
    output.show(
        {"address": address, "share_of_counts": shares, "unexplained": left, "seconds": output.seconds},
        Rows(["component", "counts %"], [[str(c), f"{100 * share:.2f}"] for c, share in shares.items()]),
        Facts([("unexplained", _unexplained(result)), *_saved(output, address).rows]),
        brief=address,
    )


def _unexplained(result: xr.Dataset) -> str:
    left, made_with = float(result[schema.OBJECTIVE][-1]), result.attrs[schema.PARAMETERS]
    if made_with["loss"] != "frobenius":
        return f"divergence of {left:.4g} a count"
    return f"{100 * left:.3g} % of the {'scaled ' if made_with['noise'] else ''}sum of squares"


_segmenting = parameters.options(
    click.option(
        "--threshold",
        type=parameters.thresholds,
        metavar="RULE|A,B,..",
        default="otsu",
        help="Threshold of the loadings, one for all or one a component: otsu, multiotsu (upper of three classes), "
        "triangle, or a number.",
    ),
    click.option(
        "--min-size",
        type=parameters.number_or_rule,
        metavar="PIXELS|AREAum2",
        help="Smallest object or hole that stays: pixels, or an area such as 50um2.",
        show_default="100, or a thousandth of a small map",
    ),
    click.option("--opening", type=int, default=0, metavar="N", help="Times that masks are opened: cuts thin bridges."),
    click.option("--closing", type=int, default=0, metavar="N", help="Times that masks are closed: heals thin cracks."),
    click.option(
        "--mixed-margin",
        type=float,
        metavar="SHARE",
        default=0.2,
        help="Margin under which a pixel of several masks is mixed.",
    ),
)
_SEGMENTING = ("threshold", "min_size", "opening", "closing", "mixed_margin")


@click.command()
@click.argument("store", metavar="STORE", shell_complete=parameters.files)
@_segmenting
@parameters.merges
@click.option(
    "--from",
    "parent",
    metavar="STEP/RUN",
    help="Result to build on; of a step or run the newest.",
    show_default="nmf; with --merge the last phases that are not merged",
)
@parameters.options(parameters.name, parameters.memory, parameters.scheduler)
@parameters.speaking
def phases(
    output: Output,
    store: str,
    parent: str | None,
    merges: dict[str, list[int]] | None,
    name: str | None,
    memory: str | None,
    **given: Any,
) -> None:
    """Make a mask a component, and the phase of every pixel.

    Masks by threshold may overlap; phases are exclusive, and the table closes to 100 % with what is unassigned.

    With --merge, phases that are saved already are named, and several that are one mineral become one; numbers are
    those of the table that was printed for them. That is a result of its own, such as phases/k4-merged, and what is
    made of it (spectra, grains, report) has the names.

    \b
    Example:
      eds-chunked phases map.zarr --from nmf/k4 --min-size 100
      eds-chunked phases map.zarr --threshold otsu,triangle,0.8,otsu --min-size 50um2
      eds-chunked phases map.zarr --merge feldspar=2,5 --merge quartz=1
    """
    from eds_chunked import workflow
    from eds_chunked.cli.describing import modal_rows
    from eds_chunked.phases.modal import modal_table
    from eds_chunked.store.results import load

    with output.working():
        if merges is None:
            address = workflow.phases_step(store, parent=parent or schema.NMF, name=name, memory=memory, **given)
        else:
            _refuse_segmenting()
            address = workflow.merge_step(store, merges=merges, parent=parent, name=name, memory=memory)
    result = load(store, address)
    table = modal_table(result)
    notes = [] if merges else _empty_phases(result)
    output.show(
        {"address": address, "modal": table, "seconds": output.seconds},
        modal_rows(table),
        *map(Note, notes),
        _saved(output, address),
        brief=address,
    )


def _refuse_segmenting() -> None:
    """Refuse options that make phases where phases are only named."""
    typed = click.core.ParameterSource.COMMANDLINE
    wrong = [name for name in _SEGMENTING if click.get_current_context().get_parameter_source(name) is typed]
    if wrong:
        option = f"--{wrong[0].replace('_', '-')}"
        raise ParameterError(
            "options of phases",
            found=f"--merge and {option}",
            expected=f"--merge without {option}: it takes phases as they were saved",
            fix=f"two calls, the first with {option}, then one with --merge",
        )


def _empty_phases(result: xr.Dataset) -> list[str]:
    """Say of each phase without a pixel why it has none."""
    fewest = result.attrs[schema.PARAMETERS]["min_size"]
    found = zip(*(result[name].values for name in (schema.PHASE, schema.N_PIXELS, schema.THRESHOLD)), strict=True)
    return [
        f"Phase {phase} has no pixel: nothing of {fewest} pixels or more reaches its threshold {threshold:.4g}."
        for phase, n_pixels, threshold in found
        if n_pixels == 0
    ]


@click.command()
@click.argument("store", metavar="STORE", shell_complete=parameters.files)
@click.option("--grains", "of_grains", is_flag=True, help="Sum the counts of each grain, not of each phase.")
@click.option(
    "--of",
    "source",
    type=click.Choice([schema.LABEL, schema.MASK]),
    metavar="label|mask",
    help="Exclusive phases, or masks by threshold, which may overlap.",
    show_default=schema.LABEL,
)
@click.option(
    "--from",
    "parent",
    metavar="STEP/RUN",
    help="Result to build on; of a step or run the newest.",
    show_default="phases; with --grains grains",
)
@parameters.options(parameters.name, parameters.memory, parameters.scheduler)
@parameters.speaking
def spectra(output: Output, store: str, of_grains: bool, source: str | None, **given: Any) -> None:
    """Sum the counts of each phase, or of each grain.

    All channels are summed, in one pass for any number of phases or grains. Spectra of grains are a table in the
    store, and are written while the map is read. Where the file states a live time, that of the pixels of each
    spectrum is told too.

    \b
    Example:
      eds-chunked spectra map.zarr --from phases/k4
      eds-chunked spectra map.zarr --grains
    """
    from eds_chunked import workflow
    from eds_chunked.store.results import load

    if of_grains and source is not None:
        raise ParameterError("--of", found=source, expected="it without --grains", fix="leave one of them out")
    with output.working():
        options = {} if source is None else {"source": source}
        address = workflow.spectra_step(store, of_grains=of_grains, **options, **given)
    result = load(store, address)
    shown = _of_grains(result) if of_grains else _of_phases(result)
    output.show(
        {"address": address, **shown[0], "seconds": output.seconds}, *shown[1], _saved(output, address), brief=address
    )


def _of_phases(result: xr.Dataset) -> tuple[dict[str, Any], list[Piece]]:
    names = {schema.N_PIXELS: schema.N_PIXELS, "counts": schema.TOTAL_COUNTS, schema.LIVE_TIMES: schema.LIVE_TIMES}
    columns = {key: result[name].values.tolist() for key, name in names.items() if name in result}
    table = [
        {schema.PHASE: int(phase), **{name: values[i] for name, values in columns.items()}}
        for i, phase in enumerate(result[schema.PHASE].values)
    ]
    timed = schema.LIVE_TIMES in columns
    rows = [
        [
            str(row[schema.PHASE]),
            f"{row[schema.N_PIXELS]:,}",
            f"{row['counts']:,}",
            _rate(row["counts"], row[schema.N_PIXELS]),
            *([_rate(row["counts"], row[schema.LIVE_TIMES])] if timed else []),
        ]
        for row in table
    ]
    heads = [schema.PHASE, "pixels", "counts", "counts a pixel", *(["counts a second"] if timed else [])]
    return {"spectra": table}, [Rows(heads, rows)]


def _rate(counts: float, by: float) -> str:
    return number(counts / by) if by else "-"


def _of_grains(result: xr.Dataset) -> tuple[dict[str, Any], list[Piece]]:
    table, pixels = result[schema.GRAIN_SPECTRUM], int(result[schema.N_PIXELS].sum())
    facts = {
        "grains": int(table.sizes[schema.GRAIN]),
        schema.N_PIXELS: pixels,
        "counts": result[schema.TOTAL_COUNTS].sum().item(),
        "bytes": int(table.nbytes),
    }
    lines = [
        ("grains", f"{facts['grains']:,}"),
        ("pixels", f"{pixels:,}"),
        ("counts", f"{facts['counts']:,}"),
        ("table", f"{table.sizes[schema.GRAIN]:,} x {table.sizes[schema.ENERGY]:,} {table.dtype}"),
    ]
    return facts, [Facts(lines)]


@click.command()
@click.argument("store", metavar="STORE", shell_complete=parameters.files)
@click.option(
    "--of",
    "source",
    metavar="label|mask",
    default="label",
    help="label: the exclusive phases, as in the modal table; mask: masks by threshold, which may overlap.",
)
@click.option(
    "--min-size",
    type=parameters.number_or_rule,
    metavar="PIXELS|AREAum2",
    help="Smallest grain that counts in statistics: pixels, or an area such as 50um2.",
    show_default="as the phases were made with",
)
@click.option(
    "--method", metavar="NAME", default="h-maxima", help="Where grains start: h-maxima, or practical (all peaks)."
)
@click.option("--h", type=float, default=1.0, metavar="PIXELS", help="Height of a summit, for h-maxima.")
@click.option("--folder", type=click.Path(file_okay=False), help="Write a table and diameters of each phase there.")
@click.option("--parquet", is_flag=True, help="With --folder: tables also as parquet.")
@parameters.options(parameters.came_from(schema.PHASES), parameters.name, parameters.memory, parameters.scheduler)
@parameters.speaking
def grains(output: Output, store: str, parent: str, folder: str | None, parquet: bool, **given: Any) -> None:
    """Separate the grains of every phase and measure them.

    \b
    Example:
      eds-chunked grains map.zarr --from phases/k4 --min-size 100
      eds-chunked grains map.zarr --of mask --method practical --folder tables --parquet
    """
    from eds_chunked import workflow
    from eds_chunked.cli.describing import size_pieces
    from eds_chunked.grains.files import check_parquet, write_grain_files
    from eds_chunked.grains.statistics import compare_phases
    from eds_chunked.store.results import load

    if parquet:
        if folder is None:
            raise click.UsageError("--parquet needs --folder, where tables go.")
        check_parquet()
    with output.working():
        address = workflow.grains_step(store, parent=parent, **given)
        saved = load(store, address)
        stem = Path(store.rstrip("/")).stem
        files = [] if folder is None else write_grain_files(saved, folder, stem=stem, parquet=parquet)
    table = compare_phases(saved)
    output.show(
        {"address": address, "grain_sizes": table, "files": list(map(str, files)), "seconds": output.seconds},
        *size_pieces(table),
        _saved(output, address),
        brief=address,
    )
