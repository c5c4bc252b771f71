"""The steps, each a verb: ``pca``, ``nmf``, ``phases``, ``spectra``, ``grains``.

Each reads from the store what the step before saved, saves a new revision, and prints its address and a small table.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from eds_chunked import schema
from eds_chunked.cli import parameters
from eds_chunked.cli.output import Facts, Note, Output, Piece, Rows, number

if TYPE_CHECKING:
    import xarray as xr

_noise = click.option("--noise", metavar="NAME", default="poisson", help="Scaling of the counts: poisson, or none.")


def _scaling(noise: str) -> str | None:
    return None if noise == "none" else noise


def _saved(output: Output, address: str) -> Facts:
    return Facts([("saved", address), ("took", output.effort())])


@click.command()
@click.argument("store", metavar="STORE")
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
@click.argument("store", metavar="STORE")
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
    help="poisson (likelihood), or frobenius (least squares).",
    show_default="poisson; frobenius for mini-batches, and for values that are no counts",
)
@click.option("--start", metavar="RESULT", help="Saved NMF or PCA to start from, such as pca or nmf/k4.")
@click.option(
    "--fixed-factors",
    metavar="RESULT",
    help="Fit loadings only, of the factors of a saved NMF: nmf/k4, or other.zarr:nmf/k4 of another store.",
)
@click.option("--restarts", type=int, metavar="N", default=1, help="Starts, of which the best is kept.")
@click.option("--max-epochs", type=int, metavar="N", default=10, help="Most times that sample or map are gone through.")
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
    if made_with["loss"] == "poisson":
        return f"divergence of {left:.4g} a count"
    return f"{100 * left:.3g} % of the {'scaled ' if made_with['noise'] else ''}sum of squares"


@click.command()
@click.argument("store", metavar="STORE")
@click.option(
    "--min-size",
    type=int,
    metavar="PIXELS",
    help="Pixels of the smallest object or hole.",
    show_default="100, or a thousandth of a small map",
)
@click.option("--opening", type=int, default=0, metavar="N", help="Times that masks are opened: cuts thin bridges.")
@click.option("--closing", type=int, default=0, metavar="N", help="Times that masks are closed: heals thin cracks.")
@click.option(
    "--threshold",
    type=parameters.thresholds,
    metavar="otsu|A,B,..",
    default="otsu",
    help="Threshold of the loadings, one a component.",
)
@click.option(
    "--mixed-margin",
    type=float,
    metavar="SHARE",
    default=0.2,
    help="Margin under which a pixel of several masks is mixed.",
)
@parameters.options(parameters.came_from(schema.NMF), parameters.name)
@parameters.speaking
def phases(output: Output, store: str, parent: str, **given: Any) -> None:
    """Make a mask a component, and the phase of every pixel.

    Masks by threshold may overlap; phases are exclusive, and the table closes to 100 % with what is unassigned.

    \b
    Example:
      eds-chunked phases map.zarr --from nmf/k4 --min-size 100
    """
    from eds_chunked import workflow
    from eds_chunked.cli.describing import modal_rows
    from eds_chunked.phases.modal import modal_table
    from eds_chunked.store.results import load

    with output.working():
        address = workflow.phases_step(store, parent=parent, **given)
    table = modal_table(load(store, address))
    output.show(
        {"address": address, "modal": table, "seconds": output.seconds},
        modal_rows(table),
        _saved(output, address),
        brief=address,
    )


@click.command()
@click.argument("store", metavar="STORE")
@click.option(
    "--of",
    "source",
    type=click.Choice([schema.LABEL, schema.MASK]),
    default=schema.LABEL,
    help="Exclusive phases, or masks by threshold, which may overlap.",
)
@parameters.options(parameters.came_from(schema.PHASES), parameters.name, parameters.memory)
@parameters.speaking
def spectra(output: Output, store: str, parent: str, **given: Any) -> None:
    """Sum the counts of each phase, over all channels.

    \b
    Example:
      eds-chunked spectra map.zarr --from phases/k4
    """
    from eds_chunked import workflow
    from eds_chunked.store.results import load

    with output.working():
        address = workflow.spectra_step(store, parent=parent, **given)
    result = load(store, address)
    totals = result[schema.SPECTRUM].sum(schema.ENERGY)
    table = [
        {schema.PHASE: int(phase), schema.N_PIXELS: int(pixels), "counts": int(counts)}
        for phase, pixels, counts in zip(
            result[schema.PHASE].values, result[schema.N_PIXELS].values, totals.values, strict=True
        )
    ]
    rows = [
        [str(row[schema.PHASE]), f"{row[schema.N_PIXELS]:,}", f"{row['counts']:,}",
         number(row["counts"] / row[schema.N_PIXELS]) if row[schema.N_PIXELS] else "-"]
        for row in table
    ]  # fmt: skip
    output.show(
        {"address": address, "spectra": table, "seconds": output.seconds},
        Rows([schema.PHASE, "pixels", "counts", "counts a pixel"], rows),
        _saved(output, address),
        brief=address,
    )


@click.command()
@click.argument("store", metavar="STORE")
@click.option(
    "--min-size",
    type=int,
    metavar="PIXELS",
    help="Pixels of the smallest grain that counts in statistics.",
    show_default="as the phases were made with",
)
@click.option(
    "--method", metavar="NAME", default="h-maxima", help="Where grains start: h-maxima, or practical (all peaks)."
)
@click.option("--h", type=float, default=1.0, metavar="PIXELS", help="Height of a summit, for h-maxima.")
@parameters.options(parameters.came_from(schema.PHASES), parameters.name)
@parameters.speaking
def grains(output: Output, store: str, parent: str, min_size: int | None, **given: Any) -> None:
    """Separate the grains of every phase and measure them.

    \b
    Example:
      eds-chunked grains map.zarr --from phases/k4 --min-size 100
    """
    from eds_chunked import workflow
    from eds_chunked.cli.describing import size_pieces
    from eds_chunked.grains.statistics import compare_phases
    from eds_chunked.store.results import load

    with output.working():
        address = workflow.grains_step(store, parent=parent, min_size=min_size, **given)
    table = compare_phases(load(store, address))
    output.show(
        {"address": address, "grain_sizes": table, "seconds": output.seconds},
        *size_pieces(table),
        _saved(output, address),
        brief=address,
    )
