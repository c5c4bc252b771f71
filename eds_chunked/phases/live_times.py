"""How long the detector was live on the pixels that a spectrum is the sum of."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from eds_chunked import schema
from eds_chunked.store.opening import is_ours, open_map

Array = np.ndarray[Any, Any]


def live_time_of_pixels(ds: xr.Dataset) -> Any:
    """Return the live time of the pixels of a map, s: (y, x), one number for all, or None where it is not known.

    Where a file states one live time it is that of the whole acquisition. Its pixels took equal shares of it as far as
    anyone can tell; of a store that holds a part of the acquisition nobody knows the share.
    """
    if schema.LIVE_TIMES in ds:
        schema.require(ds, schema.LIVE_TIMES)
        return ds[schema.LIVE_TIMES].data
    stated, home = ds.attrs.get(schema.LIVE_TIME), ds.encoding.get("source")
    if stated is None or home is None or not is_ours(home):
        return None
    whole = open_map(home)
    if whole.attrs[schema.FINGERPRINT] != ds.attrs.get(schema.FINGERPRINT) or _is_part(whole):
        return None
    rows, columns, _ = ds.attrs.get(schema.REBIN, (1, 1, 1))
    return float(stated) * int(rows) * int(columns) / (whole.sizes[schema.Y] * whole.sizes[schema.X])


def _is_part(ds: xr.Dataset) -> bool:
    """Tell whether a stored map lacks pixels of its acquisition: a region, rows of a damaged file, bins not full."""
    converted: dict[str, Any] = (ds.attrs.get(schema.HISTORY) or [{}])[0].get("parameters", {})
    bins_not_full = {"rows", "columns"} & set(converted.get(schema.LEFT_OUT, {}))
    return "region" in converted or schema.MISSING_ROWS in ds.attrs or bool(bins_not_full)
