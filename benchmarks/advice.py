"""How often is the number of components right, by which rule?

    python -m benchmarks advice [--quick] [--seeds 5] [--stability-seeds 2]

Synthetic rocks of 3, 5 and 8 phases. A rule is right if it names the number of sources of variance: the phases, and one
more where a strobe peak that fluctuates from pixel to pixel is in the window. Critical ratios are the same for all
rocks, as a user would have them. Split halves are asked for the right number, one less and two more, and name the last
before the first that is not stable. Takes about five minutes on one processor; --quick a few seconds.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np
import xarray as xr

import eds_chunked as edc
from benchmarks.machine import machine
from eds_chunked import schema
from eds_chunked.kernels.sparse import to_dense

PHASES = (3, 5, 8)
DOSES = (20.0, 100.0, 400.0)
CRITICAL = (0.002, 0.003, 0.005)
LOWEST_ENERGY = 0.2
RARE_SHARE = 0.001
STROBE_FLUCTUATION = 0.3
SHAPE, QUICK_SHAPE = (128, 160, 512), (64, 80, 256)
FIRST_SEED = 100
"""Those before it were looked at when the limits of the rules were set."""
COMPONENTS = 20
EDGE, ELBOW, STABILITY = "noise edge", "elbow", "split halves"


@dataclass(frozen=True)
class Rocks:
    """A kind of rock: what is special about it, and whether the strobe is analysed and varies by itself."""

    special: Callable[[int], dict[str, Any]]
    with_strobe: bool = True
    strobe_varies: bool = False

    def n_sources(self, n_phases: int) -> int:
        """Return the number of sources of variance, which a rule should name."""
        return n_phases + (self.with_strobe and self.strobe_varies)


def _rare(n_phases: int) -> dict[str, Any]:
    # Small grains, so that a thousandth of the pixels is a few of them.
    others = 0.7 ** np.arange(n_phases - 1)
    return {"shares": [*(others / others.sum() * (1 - RARE_SHARE)), RARE_SHARE], "grain_size": 2.0}


KINDS: dict[str, Rocks] = {
    "even": Rocks(lambda n_phases: {}),
    "uneven 0.5 : 2.2": Rocks(lambda n_phases: {"brightness": (0.5, 2.2)}),
    "strobe varies, in the window": Rocks(
        lambda n_phases: {"strobe_fluctuation": STROBE_FLUCTUATION}, strobe_varies=True
    ),
    "strobe varies, from 0.2 keV": Rocks(
        lambda n_phases: {"strobe_fluctuation": STROBE_FLUCTUATION}, with_strobe=False, strobe_varies=True
    ),
    "a phase of 0.1 %": Rocks(_rare),
}


@dataclass(frozen=True)
class Verdict:
    """What the rules named on one rock, where ``right`` is right; ``first_noise`` is its eigenvalue over the edge."""

    kind: str
    dose: float
    right: int
    named: dict[str, int | None]
    first_noise: float


def map_of(rock: edc.synthetic.Rock) -> xr.Dataset:
    """Return the map of a rock, in memory."""
    height, width, n_channels = rock.header.shape
    counts = np.concatenate([to_dense(band.counts) for band in rock.bands(64)]).reshape(height, width, n_channels)
    energy = rock.header.energy_offset + rock.header.energy_scale * np.arange(n_channels)
    return xr.Dataset(
        {schema.COUNTS: (schema.VARIABLES[schema.COUNTS].dims, counts)},
        coords={schema.ENERGY: (schema.ENERGY, energy, {"units": schema.KEV})},
    )


def judge(kind: str, n_phases: int, dose: float, seed: int, *, shape: Sequence[int], with_stability: bool) -> Verdict:
    """Ask all rules about one rock."""
    rocks = KINDS[kind]
    given = {"grain_size": 6.0, "energy_scale": 12.47 / shape[2], "seed": seed} | rocks.special(n_phases)
    ds = map_of(edc.synthetic.rock(tuple(shape), counts_per_pixel=dose, n_phases=n_phases, **given))
    if not rocks.with_strobe:
        ds = ds.sel({schema.ENERGY: slice(LOWEST_ENERGY, None)})
    pca = edc.pca(ds, n_components=COMPONENTS)
    right = rocks.n_sources(n_phases)
    advice = edc.advise_components(pca)
    named = {EDGE: advice.n_components, ELBOW: advice.elbow}
    for ratio in CRITICAL:
        named[_critical_name(ratio)] = edc.advise_components(pca, critical_variance=ratio).n_critical
    if with_stability:
        table = edc.component_stability(ds, n_components=range(max(2, right - 1), right + 3))
        stable = table.loc[table["stable"].cummin(), "n_components"]
        named[STABILITY] = int(stable.max()) if len(stable) else None
    return Verdict(kind, dose, right, named, float(pca[schema.NOISE_RATIO][right]))


def _critical_name(ratio: float) -> str:
    return f"over {100 * ratio:g} %"


def table(verdicts: Iterable[Verdict]) -> str:
    """Return a Markdown table: a row a kind of rock and dose, a column a rule, how often it was right."""
    verdicts = list(verdicts)
    rules = [EDGE, ELBOW, *map(_critical_name, CRITICAL), STABILITY]
    lines = [
        f"| rock | counts/pixel | {' | '.join(rules)} | first noise eigenvalue / edge |",
        f"|---|---:|{'---:|' * len(rules)}---:|",
    ]
    for kind, dose in dict.fromkeys((one.kind, one.dose) for one in verdicts):
        own = [one for one in verdicts if (one.kind, one.dose) == (kind, dose)]
        cells = [_score(own, rule) for rule in rules]
        noise = [one.first_noise for one in own]
        lines.append(f"| {kind} | {dose:g} | {' | '.join(cells)} | {min(noise):.3f} to {max(noise):.3f} |")
    return "\n".join(lines)


def _score(verdicts: Sequence[Verdict], rule: str) -> str:
    asked = [one for one in verdicts if rule in one.named]
    return f"{sum(one.named[rule] == one.right for one in asked)}/{len(asked)}" if asked else "-"


def main(arguments: Sequence[str] | None = None) -> None:
    """Judge the rocks and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks advice", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small rocks of two doses, one seed")
    parser.add_argument("--seeds", type=int, default=5, help="rocks of each kind, number of phases and dose")
    parser.add_argument("--stability-seeds", type=int, default=2, help="of these so many are split in halves too")
    given = parser.parse_args(arguments)
    shape, seeds, doses, phases = SHAPE, given.seeds, DOSES, PHASES
    if given.quick:
        shape, seeds, doses, phases = QUICK_SHAPE, 1, DOSES[1:], PHASES[:1]
    began = perf_counter()
    verdicts = []
    for kind in KINDS:
        for dose in doses:
            for n_phases in phases:
                for seed in range(seeds):
                    split = seed < given.stability_seeds
                    one = judge(kind, n_phases, dose, FIRST_SEED + seed, shape=shape, with_stability=split)
                    verdicts.append(one)
                    print(f"{kind}, {dose:g}, {n_phases} phases, seed {seed}: {one.named}", file=sys.stderr)
    print(f"{shape[0]} x {shape[1]} pixels, {shape[2]} channels, {', '.join(map(str, phases))} phases, {seeds} seeds.")
    print(f"{perf_counter() - began:.0f} s; {machine()['processor']}.\n")
    print(table(verdicts))


if __name__ == "__main__":
    main()
