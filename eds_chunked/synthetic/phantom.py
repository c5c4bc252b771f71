"""The synthetic rock: a reader whose counts are drawn, and the truth beside them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np

from eds_chunked.errors import ParameterError
from eds_chunked.kernels.poisson import alias_tables, draw_counts
from eds_chunked.kernels.sparse import Csr, channel_dtype, take_channels, take_pixels
from eds_chunked.readers.base import Band, Box, ElectronImage, MapHeader
from eds_chunked.synthetic import texture as tx
from eds_chunked.synthetic.minerals import MINERALS, RARE_MINERAL, Mineral, mineral_lines, mineral_spectrum, peak

Array = np.ndarray[Any, Any]

# Each phase covers this share of the area of the one before.
_SHARE_RATIO = 0.7
# The strobe (zero) peak does not depend on what is under the beam.
_ZERO_PEAK_SHARE = 0.05
# Above it an evenly distributed strobe would be negative somewhere.
_MOST_FLUCTUATION = 0.57
_RARE_GRAIN = 1
_IMAGE_ROWS = 64


class Rock:
    """A synthetic map as a :class:`~eds_chunked.readers.base.Reader`, with its truth. Made by :func:`rock`.

    Attributes
    ----------
    header
        Shape, calibration and metadata, as of a file.
    phase_names
        Minerals, phases 1..n in order; the one-pixel mineral, if any, is the last.
    spectra
        (phases, channels) expected counts of a pure pixel.
    shares
        (phases,) area shares with which the phases are drawn, 0 for the one-pixel mineral.
    lines
        Per phase the names of its X-ray lines within the energy range (``"Fe_Ka"``).
    rare_pixel
        (row, column) of the one-pixel mineral, or None.
    """

    def __init__(
        self,
        *,
        header: MapHeader,
        minerals: Sequence[Mineral],
        spectra: Array,
        shares: Array,
        lines: tuple[tuple[str, ...], ...],
        rare_pixel: tuple[int, int] | None,
        banded: bool,
        grain_size: float,
        blur: float,
        strobe: Array,
        strobe_fluctuation: float,
        seed: int,
    ) -> None:
        self.header = header
        self.phase_names = tuple(mineral.name for mineral in minerals)
        self.spectra = spectra
        self.shares = shares
        self.lines = lines
        self.rare_pixel = rare_pixel
        self._brightness = np.array([mineral.mean_atomic_number() for mineral in minerals])
        self._banded = banded
        self._grain_size = grain_size
        self._seed = seed
        self._strobe_fluctuation = strobe_fluctuation
        # A strobe that fluctuates is drawn as one more spectrum, beside the phases.
        drawn = np.concatenate([spectra - strobe, strobe[None]]) if strobe_fluctuation else spectra
        self._totals = drawn.sum(axis=1)
        self._cut, self._alias = alias_tables(drawn)
        # Expected number of non-zero channels of a pure pixel, at most of one, and at most of a mixed one.
        self._occupied = -np.expm1(-drawn).sum(axis=1)
        brightest = spectra + np.sqrt(3) * strobe_fluctuation * strobe
        self._occupied_pure = float(-np.expm1(-brightest).sum(axis=1).max())
        self._occupied_mixed = float(-np.expm1(-brightest.max(axis=0)).sum())
        reach = int(np.ceil(3 * blur))
        taps = np.exp(-0.5 * (np.arange(-reach, reach + 1) / blur) ** 2) if reach else np.ones(1)
        self._taps = taps / taps.sum()

    # ------------------------------------------------------------------------------------------- the truth
    def _phase(self, y: Array, x: Array) -> Array:
        shares = self.shares[self.shares > 0]
        if self._banded:
            phase = tx.band_phase(y, ny=self.header.shape[0], shares=shares)
            return np.broadcast_to(phase[:, None], (len(y), len(x)))
        cells = tx.voronoi_cells(y, x, size=self._grain_size, seed=self._seed)
        return tx.grain_phase(*cells, shares=shares, seed=self._seed)

    def _rare_in(self, y0: int, y1: int) -> bool:
        return self.rare_pixel is not None and y0 <= self.rare_pixel[0] < y1

    def mixture(self, y0: int, y1: int) -> Array:
        """Return the shares of the phases in the pixels of rows ``y0:y1``, float64 (rows, columns, phases).

        ``mixture @ spectra`` are the expected counts (of a fluctuating strobe the mean ones). Without blur one share
        is 1. The one-pixel mineral stays pure.
        """
        y0, y1 = self._check_rows(y0, y1)
        reach = len(self._taps) // 2
        phase = self._phase(np.arange(y0 - reach, y1 + reach), np.arange(-reach, self.header.shape[1] + reach))
        mixture = tx.blurred_shares(phase, n_phases=len(self.spectra), taps=self._taps)
        if self.rare_pixel is not None and self._rare_in(y0, y1):
            mixture[self.rare_pixel[0] - y0, self.rare_pixel[1]] = np.eye(len(self.spectra))[-1]
        return mixture

    def labels(self, y0: int, y1: int) -> Array:
        """Return the phase with the largest share in the pixels of rows ``y0:y1``, uint8 (rows, columns), from 1."""
        largest: Array = self.mixture(y0, y1).argmax(axis=2)
        return (largest + 1).astype(np.uint8)

    def grains(self, y0: int, y1: int) -> Array:
        """Return the grain at the centre of the pixels of rows ``y0:y1``, int64 (rows, columns), positive.

        Neighbouring grains may be of the same phase. Numbers are the same for every choice of rows. A banded rock has
        one grain a band.
        """
        y0, y1 = self._check_rows(y0, y1)
        y, x = np.arange(y0, y1), np.arange(self.header.shape[1])
        if self._banded:
            # The number after the one-pixel mineral's is the first band.
            grains = self._phase(y, x).astype(np.int64) + _RARE_GRAIN + 1
        else:
            grains = tx.grain_number(*tx.voronoi_cells(y, x, size=self._grain_size, seed=self._seed))
        if self.rare_pixel is not None and self._rare_in(y0, y1):
            grains[self.rare_pixel[0] - y0, self.rare_pixel[1]] = _RARE_GRAIN
        return grains

    def _check_rows(self, y0: int, y1: int) -> tuple[int, int]:
        ny = self.header.shape[0]
        if not 0 <= y0 < y1 <= ny:
            raise ParameterError("rows", found=f"{y0}:{y1}", expected=f"rows within 0:{ny}", fix=f"ask for 0:{ny}")
        return y0, y1

    # ------------------------------------------------------------------------------------------ the reader
    def _capacity(self, expected: float) -> int:
        # Non-zero values are independent, so their number strays from the expected by its root at most.
        return int(expected + 8 * np.sqrt(expected)) + self.header.shape[2]

    def peak_bytes(self, rows: int, box: Box | None = None) -> int:
        """Bytes that reading bands of ``rows`` rows holds at most: the new band, the one before, and the texture."""
        ny, nx, n_channels = self.header.shape
        rows = min(rows, ny)
        most = self._capacity(rows * nx * (self._occupied_pure if len(self._taps) == 1 else self._occupied_mixed))
        band = most * (channel_dtype(n_channels).itemsize + self.header.dtype.itemsize) + 8 * rows * nx
        reach = len(self._taps) - 1
        texture = (rows + reach) * (nx + reach) * (48 + 16 * len(self.spectra))
        return 2 * band + texture + self._cut.nbytes + self._alias.nbytes + 2**20

    def bands(self, rows: int, box: Box | None = None) -> Iterator[Band]:
        """Yield the rows of a box in order, ``rows`` at a time, as CSR; a count depends on its pixel alone.

        Whole rows are drawn, since a pixel's counts come as one draw, and what is outside the box is dropped.
        """
        if rows < 1:
            raise ParameterError("rows", found=rows, expected="at least 1", fix="rows=64")
        ys, xs, channels = box or Box.whole(self.header.shape)
        for y0 in range(ys.start, ys.stop, rows):
            band = self._band(y0, min(y0 + rows, ys.stop))
            yield band if box is None else Band(y0, band.rows, self._within_box(band, xs, channels))

    def _within_box(self, band: Band, xs: slice, channels: slice) -> Csr:
        assert isinstance(band.counts, Csr)
        pixels = np.arange(band.rows)[:, None] * self.header.shape[1] + np.arange(xs.start, xs.stop)
        return take_channels(take_pixels(band.counts, pixels.ravel()), channels)

    def _band(self, y0: int, y1: int) -> Band:
        _, nx, n_channels = self.header.shape
        mixture = self.mixture(y0, y1).reshape(-1, len(self.spectra))
        pure = mixture.max(axis=1) > 0.999
        if self._strobe_fluctuation:
            mixture = np.concatenate([mixture, self._strobe(y0, y1).reshape(-1, 1)], axis=1)
        expected = mixture[pure].sum(axis=0) @ self._occupied + np.count_nonzero(~pure) * self._occupied_mixed
        indptr, channel, value = draw_counts(
            mixture,
            y0=y0,
            nx=nx,
            seed=self._seed,
            totals=self._totals,
            cut=self._cut,
            alias=self._alias,
            capacity=self._capacity(float(expected)),
            channel_dtype=channel_dtype(n_channels),
            value_dtype=self.header.dtype,
        )
        return Band(y0, y1 - y0, Csr(indptr, channel, value, n_channels))

    def _strobe(self, y0: int, y1: int) -> Array:
        """Return the strobe of the pixels of rows ``y0:y1`` over its mean (rows, columns): uniform about 1."""
        y, x = np.arange(y0, y1)[:, None], np.arange(self.header.shape[1])
        deviation = np.sqrt(12) * (tx.pixel_fraction(y, x, seed=self._seed) - 0.5)
        return np.asarray(1 + self._strobe_fluctuation * deviation)

    def images(self) -> Iterator[ElectronImage]:
        """Yield a backscattered-electron image of the map's size: the mean atomic number, without noise."""
        ny, nx, _ = self.header.shape
        pixels = np.empty((ny, nx), np.uint8)
        for y0 in range(0, ny, _IMAGE_ROWS):
            y1 = min(y0 + _IMAGE_ROWS, ny)
            pixels[y0:y1] = np.round(self.mixture(y0, y1) @ self._brightness * (255 / 30))
        yield ElectronImage("BSE", pixels, self.header.pixel_size)


def _within(name: str, found: float, least: float, most: float, *, fix: str) -> None:
    if not least <= found <= most:
        raise ParameterError(name, found=found, expected=f"a number from {least:g} to {most:g}", fix=fix)


def _above_zero(name: str, found: float, *, fix: str) -> None:
    if not (np.isfinite(found) and found > 0):
        raise ParameterError(name, found=found, expected="a number above 0", fix=fix)


def _counts_dtype(spectra: Array) -> np.dtype[Any]:
    """Return the smallest dtype that ten standard deviations above the highest expectation fit in.

    A larger count has a chance below 1e-20 a value, and the drawing stops at the dtype's maximum.
    """
    highest = float(spectra.max())
    return np.min_scalar_type(int(highest + 10 * np.sqrt(highest) + 30))


def rock(
    shape: tuple[int, int, int],
    *,
    counts_per_pixel: float = 100.0,
    n_phases: int = 4,
    grain_size: float = 40.0,
    texture: Literal["grains", "banded"] = "grains",
    blur: float = 0.0,
    brightness: tuple[float, float] | None = None,
    shares: Sequence[float] | None = None,
    one_pixel_mineral: bool = False,
    zero_peak: bool = True,
    strobe_fluctuation: float = 0.0,
    pixel_size: tuple[float, float] = (1.0, 1.0),
    energy_scale: float = 0.01,
    energy_offset: float = -0.47,
    beam_energy: float = 20.0,
    seed: int = 0,
) -> Rock:
    """Describe a synthetic rock; its counts are drawn when they are read.

    A row is a function of the parameters and its number only, so it is the same in every band, and the first rows and
    columns of a larger rock of grains are those of a smaller one.

    Memory: the band that is being read and the one before it, whatever the map's size; images() makes one byte a pixel.

    Parameters
    ----------
    shape
        (rows, columns, channels), any positive sizes.
    counts_per_pixel
        Expected counts of a pixel at brightness 1, strobe peak included.
    n_phases
        Minerals, 1..8, from the most abundant: quartz, albite, K-feldspar, biotite, ilmenite, apatite, calcite, pyrite.
    grain_size
        Side (pixels) of the square that a grain fills on average. The banded texture has no grains and ignores it.
    texture
        ``"grains"``: Voronoi cells, the phase drawn per cell. ``"banded"``: one horizontal band a phase, which a method
        that depends on the order of its blocks gets wrong.
    blur
        Standard deviation (pixels) of the Gaussian that mixes neighbouring phases; 0 keeps every pixel pure.
    brightness
        Lowest and highest relative X-ray yield, in equal steps from the first phase to the last; None: 1 for all.
    shares
        Relative areas of the phases, one a phase; None: each has 0.7 times the area of the one before.
    one_pixel_mineral
        Put one pixel of chromite somewhere, as phase ``n_phases + 1``, at brightness 1.
    zero_peak
        Add the strobe peak of the detector at 0 keV, 5 % of ``counts_per_pixel`` whatever the phase.
    strobe_fluctuation
        Relative standard deviation of the expected strobe from pixel to pixel (evenly distributed), 0 to 0.57. It is a
        source of variance of its own, as one more phase would be.
    pixel_size
        Pixel height and width, um.
    energy_scale, energy_offset
        keV per channel, and the centre of channel 0.
    beam_energy
        keV.
    seed
        Any integer from 0 to 2**64 - 1.

    Returns
    -------
    Rock
        A Reader with the truth: labels, grains, mixtures, spectra.

    Raises
    ------
    ParameterError
        If a value is out of its range, or no X-rays fall into the energy range.

    Examples
    --------
    >>> granite = rock((7, 11, 61), energy_scale=0.2, counts_per_pixel=30)
    >>> band = next(granite.bands(3))
    >>> band.y0, band.rows, band.counts.n_pixels
    (0, 3, 33)
    >>> granite.labels(0, 7).shape
    (7, 11)
    """
    if len(shape) != 3 or any(int(n) != n or n < 1 for n in shape):
        raise ParameterError(
            "shape",
            found=tuple(shape),
            expected="three positive sizes (rows, columns, channels)",
            fix="(300, 400, 2048)",
        )
    _within("counts_per_pixel", counts_per_pixel, 0, 1e9, fix="counts_per_pixel=100")
    if n_phases not in range(1, len(MINERALS) + 1):
        raise ParameterError(
            "n_phases", found=n_phases, expected=f"1 to {len(MINERALS)}, the minerals known", fix="n_phases=4"
        )
    _within("grain_size", grain_size, 1, 1e6, fix="grain_size=40")
    if texture not in ("grains", "banded"):
        raise ParameterError("texture", found=repr(texture), expected="'grains' or 'banded'", fix="texture='grains'")
    _within("blur", blur, 0, 1e3, fix="blur=0")
    if brightness is not None and not 0 < brightness[0] <= brightness[1] < np.inf:
        raise ParameterError(
            "brightness", found=brightness, expected="0 < lowest <= highest", fix="brightness=(0.5, 2.2)"
        )
    if shares is not None and not (len(shares) == n_phases and all(0 < share < np.inf for share in shares)):
        raise ParameterError(
            "shares", found=list(shares), expected=f"{n_phases} numbers above 0, one a phase", fix="shares=None"
        )
    _within("strobe_fluctuation", strobe_fluctuation, 0, _MOST_FLUCTUATION, fix="strobe_fluctuation=0.3")
    for axis, size in zip(("pixel height", "pixel width"), pixel_size, strict=True):
        _above_zero(axis, size, fix="pixel_size=(1.0, 1.0)")
    _above_zero("energy_scale", energy_scale, fix="energy_scale=0.01")
    _above_zero("beam_energy", beam_energy, fix="beam_energy=20")
    if not 0 <= seed < 2**64:
        raise ParameterError("seed", found=seed, expected="0 to 2**64 - 1", fix="seed=0")

    ny, nx, n_channels = (int(n) for n in shape)
    minerals = [*MINERALS[:n_phases], *([RARE_MINERAL] if one_pixel_mineral else [])]
    areas = np.zeros(len(minerals))
    areas[:n_phases] = _SHARE_RATIO ** np.arange(n_phases) if shares is None else shares
    areas /= areas.sum()

    edges = energy_offset + energy_scale * (np.arange(n_channels + 1) - 0.5)
    shapes = np.array([mineral_spectrum(mineral, edges=edges, beam_energy=beam_energy) for mineral in minerals])
    if not shapes.any(axis=1).all():
        raise ParameterError(
            "energy range",
            found=f"{edges[0]:g} to {edges[-1]:g} keV",
            expected=f"a range that meets 0.05 to {beam_energy:g} keV, where the X-rays are",
            fix="change energy_offset, energy_scale or the channels of shape",
        )
    strobe = _ZERO_PEAK_SHARE * peak(0.0, edges) if zero_peak else np.zeros(n_channels)
    yields = np.ones(len(minerals))
    if brightness is not None:
        yields[:n_phases] = np.linspace(*brightness, n_phases)
    spectra = counts_per_pixel * (strobe + (1 - strobe.sum()) * yields[:, None] * shapes)

    parameters = {
        "counts_per_pixel": counts_per_pixel,
        "n_phases": n_phases,
        "grain_size": grain_size,
        "texture": texture,
        "blur": blur,
        "brightness": None if brightness is None else list(brightness),
        "shares": None if shares is None else list(shares),
        "one_pixel_mineral": one_pixel_mineral,
        "zero_peak": zero_peak,
        "strobe_fluctuation": strobe_fluctuation,
        "seed": seed,
    }
    header = MapHeader(
        source="synthetic rock",
        shape=(ny, nx, n_channels),
        dtype=_counts_dtype(spectra + np.sqrt(3) * strobe_fluctuation * counts_per_pixel * strobe),
        energy_scale=energy_scale,
        energy_offset=energy_offset,
        pixel_size=(float(pixel_size[0]), float(pixel_size[1])),
        title=f"Synthetic rock ({', '.join(mineral.name for mineral in minerals)})",
        beam_energy=beam_energy,
        elements=tuple(sorted({symbol for mineral in minerals for symbol in mineral.formula})),
        metadata={"synthetic": parameters},
    )
    return Rock(
        header=header,
        minerals=minerals,
        spectra=spectra,
        shares=areas,
        lines=tuple(
            tuple(
                name
                for name, (energy, _) in mineral_lines(mineral, beam_energy=beam_energy).items()
                if edges[0] <= energy <= edges[-1]
            )
            for mineral in minerals
        ),
        rare_pixel=tx.random_pixel(seed, ny, nx) if one_pixel_mineral else None,
        banded=texture == "banded",
        grain_size=grain_size,
        blur=blur,
        strobe=counts_per_pixel * strobe,
        strobe_fluctuation=strobe_fluctuation,
        seed=seed,
    )
