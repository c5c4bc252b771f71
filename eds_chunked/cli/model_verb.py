"""What a decomposition leaves of the counts: ``model``."""

from __future__ import annotations

from typing import Any

import click

from eds_chunked import schema
from eds_chunked.cli import parameters
from eds_chunked.cli.output import Facts, Output, Rows, number

_FAR_OFF = 2.0
"""Chi-square above which a pixel is counted as one that the model does not fit."""
_CHANNELS = 5


@click.command()
@click.argument("store", metavar="STORE", shell_complete=parameters.files)
@click.option(
    "--components", type=parameters.whole_numbers, metavar="I,J,..", help="Components to use.", show_default="all"
)
@click.option(
    "--write-model",
    "target",
    metavar="MODEL.zarr",
    help="Also write the model itself, the denoised map: as large as the map in 4 bytes a value.",
)
@parameters.options(parameters.came_from(schema.NMF), parameters.name, parameters.memory, parameters.scheduler)
@parameters.speaking
def model(output: Output, store: str, target: str | None, name: str | None, **given: Any) -> None:
    """Compare the map with the low-rank model of an NMF or PCA.

    Saves the residual and Pearson's chi-square of every pixel, which shows where a phase is missing, and of every
    channel, which shows its lines. Where the model is right and the rest is counting noise, chi-square is 1.

    \b
    Example:
      eds-chunked model map.zarr --from nmf/k4
      eds-chunked model map.zarr --from nmf/k4 --components 1,3 --write-model model.zarr
    """
    from eds_chunked import workflow
    from eds_chunked.store.results import load

    with output.working():
        shape = None if target is None else workflow.write_model(store, target, **given)
        address = workflow.model_step(store, name=name, **given)
    result = load(store, address)
    squares, spectrum = result[schema.CHI_SQUARE], result[schema.CHI_SQUARE_SPECTRUM]
    mean, far_off = float(squares.mean(dtype=float)), float((squares > _FAR_OFF).mean())
    worst = spectrum.fillna(0).argsort().values[::-1][:_CHANNELS]
    channels = [
        {
            schema.ENERGY: float(result[schema.ENERGY][channel]),
            schema.CHI_SQUARE: float(spectrum[channel]),
            schema.RESIDUAL: float(result[schema.RESIDUAL_SPECTRUM][channel]),
        }
        for channel in worst
    ]
    unit = result[schema.ENERGY].attrs.get("units", schema.CHANNEL)
    output.show(
        {
            "address": address,
            "mean_chi_square": mean,
            "share_over_2": far_off,
            "largest_channels": channels,
            "model": target,
            "shape": None if shape is None else list(shape),
            "seconds": output.seconds,
        },
        Rows(
            [f"{schema.ENERGY}, {unit}", "chi-square", "residual, counts"],
            [
                [number(one[schema.ENERGY]), number(one[schema.CHI_SQUARE]), f"{round(one[schema.RESIDUAL]):,}"]
                for one in channels
            ],
            heading="Channels farthest from the model",
        ),
        Facts(
            [
                (
                    "chi-square",
                    f"{mean:.3g} in the mean of the pixels, over {_FAR_OFF:g} in {100 * far_off:.3g} % of them",
                ),
                ("model", f"{' x '.join(map(str, shape))} in {target}" if shape is not None else ""),
                ("saved", address),
                ("took", output.effort()),
            ]
        ),
        brief=address,
    )
