"""Summed spectra as counts a pixel, or a second of live time."""

from __future__ import annotations

from typing import Literal

import xarray as xr

from eds_chunked import schema
from eds_chunked.errors import ChunkLayoutError, MissingResultError, ParameterError

Per = Literal["pixel", "second"]

_DIVISORS = {"pixel": schema.N_PIXELS, "second": schema.LIVE_TIMES}


def mean_spectra(spectra: xr.Dataset, *, per: Per = "pixel") -> xr.DataArray:
    """Divide summed spectra by their pixels or their live time; lazy where they are.

    That is the sum of all counts by the sum of all pixels (seconds), not a mean of ratios, so that every count has
    the same weight.

    Parameters
    ----------
    spectra
        Result of :func:`eds_chunked.phase_spectra` or :func:`eds_chunked.grain_spectra`.
    per
        ``"pixel"``, or ``"second"`` for counts a second of live time, where that is known.

    Returns
    -------
    float64 (phase, energy) or (grain, energy), counts a pixel or a second; NaN where there is no pixel.

    Raises
    ------
    ParameterError
        Unknown ``per``.
    ChunkLayoutError
        There are no spectra.
    MissingResultError
        The live time of the pixels is not known.

    Notes
    -----
    Memory: as much as the spectra where they are in memory, else none.

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> spectra = xr.Dataset({"spectrum": (("phase", "energy"), [[6, 9], [0, 0]]), "n_pixels": ("phase", [3, 0])})
    >>> mean_spectra(spectra).values.tolist()
    [[2.0, 3.0], [nan, nan]]
    """
    if per not in _DIVISORS:
        raise ParameterError("per", found=repr(per), expected="'pixel' or 'second'", fix="per='pixel'")
    sums = summed_spectra(spectra)
    divisor = _DIVISORS[per]
    if divisor not in spectra:
        raise MissingResultError(
            f"counts a {per}",
            found=f"no {divisor!r} of the spectra",
            expected="the number of their pixels"
            if per == "pixel"
            else "a map whose file states its live time, stored whole, or one with a live_time (y, x)",
            fix="per='pixel'" if per == "second" else "pass what phase_spectra or grain_spectra returned",
        )
    by = spectra[divisor].astype(float)
    mean = sums / by.where(by > 0)
    return mean.rename(sums.name).assign_attrs(units=f"counts/{'s' if per == 'second' else per}")


def summed_spectra(spectra: xr.Dataset) -> xr.DataArray:
    """Return the sums (phase, energy) or (grain, energy) of a result."""
    if not hasattr(spectra, "data_vars"):
        schema.require(spectra)
    for name in (schema.SPECTRUM, schema.GRAIN_SPECTRUM):
        if name in spectra:
            schema.require(spectra, name)
            return spectra[name]
    raise ChunkLayoutError(
        "spectra",
        found=f"a Dataset with {sorted(map(str, spectra.variables))}",
        expected=f"{schema.SPECTRUM!r} or {schema.GRAIN_SPECTRUM!r}",
        fix="pass what phase_spectra or grain_spectra returned",
    )
