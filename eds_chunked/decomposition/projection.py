"""From spectra to maps: one pass that projects every pixel and streams the loadings to the store."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from eds_chunked.engine.blocks import Block, Lane
from eds_chunked.kernels.sparse import Csr
from eds_chunked.store.drafts import MapTarget

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class ProjectWork:
    """Writes the loadings of a lane and sums what the fit says of them; a pixel that is left out has none, NaN.

    ``fit`` turns counts into loadings (pixels, components) and a few numbers that add up over the map; a pixel without
    counts adds nothing to them.
    """

    target: MapTarget
    n_components: int
    fit: Callable[[Csr], tuple[Array, Array]]

    def __call__(self, lane: Lane, blocks: Iterator[Block]) -> Array:
        maps = np.zeros((self.n_components, *lane.shape), np.float32)
        sums = np.zeros(0)
        for block in blocks:
            loadings, its_sums = self.fit(block.counts)
            if block.used is not None:
                loadings = np.where(block.used[:, None], loadings, np.nan)
            maps[:, *block.within(lane)] = loadings.T.reshape(self.n_components, *block.shape)
            sums = its_sums + (sums if len(sums) else 0.0)
        self.target.write((slice(None), lane.ys, lane.xs), maps)
        return sums
