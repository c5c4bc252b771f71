"""The words: every variable, dimension, step and attribute that is stored or returned, named once.

Nothing else in the package spells these names. ``attributes(name)`` gives the text that is stored beside a variable,
so that an opened store explains itself.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from eds_chunked.errors import ChunkLayoutError, ParameterError

if TYPE_CHECKING:
    import xarray as xr

# ----------------------------------------------------------------------------------------------- dimensions
Y = "y"
X = "x"
ENERGY = "energy"
COMPONENT = "component"
RANK = "rank"
ITERATION = "iteration"
PHASE = "phase"
GRAIN = "grain"
YX = "yx"

# ------------------------------------------------------------------------------------------------ variables


@dataclass(frozen=True)
class Variable:
    """What a stored variable is: its dimensions, the kind of its dtype (NumPy's letter), units and meaning."""

    name: str
    dims: tuple[str, ...]
    kind: str
    units: str
    doc: str


VARIABLES: dict[str, Variable] = {}


def _variable(name: str, dims: tuple[str, ...], kind: str, units: str, doc: str) -> str:
    VARIABLES[name] = Variable(name, dims, kind, units, doc)
    return name


COUNTS = _variable("counts", (Y, X, ENERGY), "u", "counts", "X-ray counts")
SUM_SPECTRUM = _variable("sum_spectrum", (ENERGY,), "u", "counts", "exact sum of the counts of all pixels")
MAX_SPECTRUM = _variable("max_spectrum", (ENERGY,), "u", "counts", "maximum-pixel spectrum: largest count of any pixel")
MAX_SPECTRUM_PIXEL = _variable(
    "max_spectrum_pixel", (ENERGY, YX), "i", "pixel", "row and column of the first pixel that owns the maximum; -1 if 0"
)
TOTAL_COUNTS = _variable("total_counts", (Y, X), "u", "counts", "counts of a pixel over all channels")
LIVE_TIMES = _variable("live_time", (Y, X), "f", "s", "live time of a pixel, for maps that have it of each")

# Coordinates of a map of which a part is left out, and of what was made from it.
ANALYSED_PIXEL = _variable("analysed_pixel", (Y, X), "b", "1", "pixels that are analysed; the others are left out")
ANALYSED_CHANNEL = _variable("analysed_channel", (ENERGY,), "b", "1", "channels that are analysed")

FACTORS = _variable("factors", (COMPONENT, ENERGY), "f", "counts", "component spectra")
LOADINGS = _variable("loadings", (COMPONENT, Y, X), "f", "1", "component maps")
EXPLAINED_VARIANCE = _variable("explained_variance", (COMPONENT,), "f", "1", "S^2/N of the analysed (scaled) matrix")
EXPLAINED_VARIANCE_RATIO = _variable(
    "explained_variance_ratio", (COMPONENT,), "f", "1", "share of the true total variance, not of the kept part"
)
EIGENVALUES = _variable("eigenvalues", (RANK,), "f", "1", "eigenvalues, falling: all of them with the exact solver")
NOISE_RATIO = _variable(
    "noise_ratio", (RANK,), "f", "1", "eigenvalue over the largest that counting noise alone can give; > 1 is signal"
)
MEAN_SPECTRUM = _variable("mean_spectrum", (ENERGY,), "f", "counts", "what a centred PCA took off, over mean_loading")
MEAN_LOADING = _variable(
    "mean_loading", (Y, X), "f", "1", "mean_loading x mean_spectrum + loadings . factors is the model of a centred PCA"
)
MEAN_VARIANCE = _variable("mean_variance", (), "f", "1", "S^2/N of what a centred PCA took off; in no total and ratio")
OBJECTIVE = _variable(
    "objective",
    (ITERATION,),
    "f",
    "1",
    "what the loss leaves unexplained, a share of the sum of squares or a divergence a count; last of the whole map",
)
HELD_OUT = _variable(
    "held_out", (ITERATION,), "f", "1", "divergence a count of counts held out of the fit; last of the chosen factors"
)

MODEL = _variable("model", (Y, X, ENERGY), "f", "counts", "low-rank model: loadings . factors")
RESIDUAL = _variable("residual", (Y, X), "f", "counts", "counts of a pixel minus those of the model, over all channels")
RESIDUAL_SPECTRUM = _variable(
    "residual_spectrum", (ENERGY,), "f", "counts", "counts of a channel minus those of the model, over all pixels"
)
CHI_SQUARE = _variable(
    "chi_square", (Y, X), "f", "1", "Pearson chi-square of the model, a channel that it has: 1 is counting noise alone"
)
CHI_SQUARE_SPECTRUM = _variable(
    "chi_square_spectrum", (ENERGY,), "f", "1", "Pearson chi-square of the model, a pixel where it has the channel"
)

MASK = _variable("mask", (PHASE, Y, X), "b", "1", "pixels of a phase by threshold; masks may overlap")
LABEL = _variable("label", (Y, X), "u", "1", "exclusive phase: 0 unassigned, 1..n phase, 255 mixed")
MARGIN = _variable("margin", (Y, X), "f", "1", "best share of counts minus the second best")
THRESHOLD = _variable("threshold", (PHASE,), "f", "1", "loading at and above which a pixel is in the mask")
N_PIXELS = _variable("n_pixels", (PHASE,), "i", "pixel", "pixels of the phase")
AREA_FRACTION = _variable(
    "area_fraction", (PHASE,), "f", "1", "share of the map's pixels; masks may add up to more than 1"
)
SPECTRUM = _variable("spectrum", (PHASE, ENERGY), "u", "counts", "exact sum of the counts of the phase's pixels")

GRAIN_LABEL = _variable("grain_label", (Y, X), "i", "1", "grain number, 0 where there is no grain")
GRAIN_SPECTRUM = _variable(
    "grain_spectrum", (GRAIN, ENERGY), "u", "counts", "exact sum of the counts of the grain's pixels"
)

# What is known of a phase's spectrum beside N_PIXELS; a pixel of the map and a grain have it by the same name.
PHASE_COLUMNS: dict[str, Variable] = {
    TOTAL_COUNTS: Variable(TOTAL_COUNTS, (PHASE,), "u", "counts", "counts of the phase over all channels"),
    LIVE_TIMES: Variable(LIVE_TIMES, (PHASE,), "f", "s", "live time of the phase's pixels together"),
}

# The grain table: columns over GRAIN in a Dataset, and of the DataFrame and the CSV file. They have a registry of their
# own, since a phase and a grain both have N_PIXELS.
GRAIN_COLUMNS: dict[str, Variable] = {}


def _column(name: str, kind: str, units: str, doc: str) -> str:
    GRAIN_COLUMNS[name] = Variable(name, (GRAIN,), kind, units, doc)
    return name


AREA = "area"
ECD = "ecd"
PERIMETER = "perimeter"
MAJOR = "major"
MINOR = "minor"
CENTROID_X = "centroid_x"
CENTROID_Y = "centroid_y"

IMAGE = _variable("image", (Y, X), "u", "1", "electron image that came with the map")

UNASSIGNED = 0
MIXED = 255
LEFT_OUT_LABEL = MIXED + 1
"""Number of the pixels that were left out of the analysis and have no phase; labels are one byte, this is not."""
UNASSIGNED_ROW = "unassigned"
MIXED_ROW = "mixed"
LEFT_OUT_ROW = "left out"

# -------------------------------------------------------------------------------- steps and store addresses
PCA = "pca"
NMF = "nmf"
PHASES = "phases"
SPECTRA = "spectra"
GRAINS = "grains"
GRAIN_SPECTRA = "grain_spectra"
DECOMPOSE = "decompose"
RUN_STEPS = (PCA, NMF, PHASES, SPECTRA, GRAINS)
"""What ``run`` makes, in its order."""
STEPS = (PCA, NMF, DECOMPOSE, MODEL, PHASES, SPECTRA, GRAINS, GRAIN_SPECTRA)
"""What can be saved, in the order of the work."""

MAP_GROUP = "map"
IMAGES_GROUP = "images"
RESULTS_GROUP = "results"

_RUN_NAME = re.compile(r"[a-z][a-z0-9_-]*")


def check_run_name(name: str) -> str:
    """Return ``name`` if it can name a run (it becomes part of a path in the store), else raise ParameterError."""
    if not _RUN_NAME.fullmatch(name):
        raise ParameterError(
            "run name",
            found=repr(name),
            expected="a lower-case letter, then lower-case letters, digits, _ or -",
            fix="choose a name such as k4 or low-dose",
        )
    return name


# ----------------------------------------------------------------------------------------------- attributes
TITLE = "title"
SIGNAL_TYPE = "signal_type"
BEAM_ENERGY = "beam_energy_kev"
ELEMENTS = "elements"
LIVE_TIME = "live_time_s"
REAL_TIME = "real_time_s"
PIXEL_SIZE = "pixel_size"
CHANNEL_ORIGIN = "channel_origin"
CHANNELS_BINNED = "channels_binned"
REBIN = "rebin"
SOURCE_METADATA = "source_metadata"
HISTORY = "history"
MISSING_ROWS = "missing_rows"
LEFT_OUT = "left_out"
FINGERPRINT = "map_fingerprint"
BEFORE_CALIBRATION = "axes_before_calibration"
STEP = "step"
RUN = "run"
REVISION = "revision"
CREATED = "created"
VERSIONS = "versions"
WALL_TIME = "wall_time_s"
PARENT = "parent"
RESULT_ID = "result_id"
PARENT_ID = "parent_id"
PARAMETERS = "parameters"
IMPORTED_FROM = "imported_from"
N_PHASES = "n_phases"
PHASE_NAMES = "phase_names"

SEM = "EDS_SEM"
TEM = "EDS_TEM"

_SYMBOLS = (
    "H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br Kr Rb Sr Y Zr "
    "Nb Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb Lu Hf Ta W Re Os Ir "
    "Pt Au Hg Tl Pb Bi Po At Rn Fr Ra Ac Th Pa U Np Pu Am Cm Bk Cf Es Fm Md No Lr Rf Db Sg Bh Hs Mt Ds Rg Cn Nh Fl "
    "Mc Lv Ts Og "
)
PERIODIC_TABLE = tuple(_SYMBOLS.split())
"""Symbols of the elements by atomic number, from 1 on."""

MICROMETRE = "um"
UNCALIBRATED = "pixel"
KEV = "keV"
CHANNEL = "channel"


def measured(quantity: str, unit: str) -> str:
    """Return the name of the grain column of ``quantity``, unit included: ``ecd_um``, ``area_um2``, ``ecd_px``."""
    suffix = unit if unit != UNCALIBRATED else "px"
    return f"{quantity}_{suffix}" + ("2" if quantity == AREA and unit != UNCALIBRATED else "")


# In the order of the table. The first ten have the names that ImageJ and GrainSizeTools read, without a unit in them.
GRAIN_AREA = _column("Area", "f", "um2", "apparent area: pixels times the area of a pixel")
CIRC = _column("Circ", "f", "1", "circularity 4 pi area / perimeter^2, at most 1, with the perimeter of ImageJ")
FERET = _column("Feret", "f", "um", "longest distance between two corners of pixels")
FERET_X = _column("FeretX", "f", "um", "x of the left end of that distance, in the coordinates of the map")
FERET_Y = _column("FeretY", "f", "um", "y of the left end of that distance, in the coordinates of the map")
FERET_ANGLE = _column("FeretAngle", "f", "degree", "angle of that distance to the rows, 0 to 180, anticlockwise")
MIN_FERET = _column("MinFeret", "f", "um", "smallest width between two parallel lines")
AR = _column("AR", "f", "1", "major over minor axis of the ellipse with the second moments of the pixels' areas")
ROUND = _column("Round", "f", "1", "4 area / (pi major^2) with that ellipse scaled to the grain's area; 1 / AR")
SOLIDITY = _column("Solidity", "f", "1", "area over the area of the convex hull of the pixels' corners")
IMAGEJ_COLUMNS = tuple(GRAIN_COLUMNS)
GRAIN_ID = _column("grain_id", "i", "1", "number of the grain in grain_label")
_column(PHASE, "i", "1", "phase of the grain, 1..n")


def _measures(*quantities: tuple[str, str]) -> None:
    for quantity, doc in quantities:
        for unit in (MICROMETRE, UNCALIBRATED):
            _column(measured(quantity, unit), "f", unit, doc)


_measures(
    (ECD, "apparent diameter: of the circle of equal area, 2 sqrt(area / pi)"),
    (PERIMETER, "length of the boundary, holes included, by Crofton's formula in four directions"),
    (MAJOR, "major axis of the ellipse with the second moments of the pixel centres"),
    (MINOR, "minor axis of the ellipse with the second moments of the pixel centres"),
)
_column(N_PIXELS, "i", "pixel", "pixels of the grain")
_measures((CENTROID_X, "mean of the pixels' x"), (CENTROID_Y, "mean of the pixels' y"))
TOUCHES_EDGE = _column("touches_edge", "b", "1", "a pixel of the grain lies in an outermost row or column of the map")
N_NEIGHBOURS = _column("n_neighbours", "i", "1", "grains that share a pixel side with the grain")
_column(TOTAL_COUNTS, "u", "counts", "counts of the grain over all channels; NaN where the map was not given")
_column(LIVE_TIMES, "f", "s", "live time of the grain's pixels together")
REASON = _column("reason", "u", "1", "why a grain has no measures, by number; 0 where it has")


def attributes(name: str) -> dict[str, str]:
    """Attributes stored with variable ``name``: its meaning and units."""
    spec = VARIABLES[name]
    return {"long_name": spec.doc, "units": spec.units}


def column_attributes(name: str) -> dict[str, str]:
    """Attributes stored with column ``name`` of the grain table: its meaning and units."""
    spec = GRAIN_COLUMNS[name]
    return {"long_name": spec.doc, "units": spec.units}


def require(ds: xr.Dataset, *names: str) -> None:
    """Check that ``ds`` has the variables ``names`` with their dimensions; raise ChunkLayoutError if not."""
    if not hasattr(ds, "data_vars"):
        raise ChunkLayoutError(
            "data",
            found=type(ds).__name__,
            expected="an xarray Dataset",
            fix="pass the Dataset, not one variable of it",
        )
    for name in names:
        expected = VARIABLES[name].dims
        if name not in ds:
            raise ChunkLayoutError(
                f"variable {name!r}",
                found=f"a Dataset with {sorted(map(str, ds.variables))}",
                expected=f"{name!r} with dimensions {expected}",
                fix="pass the Dataset that the step before returned, or eds_chunked.open(store)",
            )
        found = tuple(map(str, ds[name].dims))
        if found != expected:
            raise ChunkLayoutError(
                f"variable {name!r}",
                found=f"dimensions {found}",
                expected=f"{expected}",
                fix=f"ds.transpose({', '.join(map(repr, expected))}, ...), and keep every dimension when you index",
            )


def pixel_size(ds: xr.Dataset) -> tuple[float, float, str]:
    """Pixel height, pixel width and their unit (``um``, or ``pixel`` for a map without calibration).

    Read from the coordinates, so that a rebinned or strided selection is right; a map of one row or one column
    takes the stored size.
    """
    stored = ds.attrs.get(PIXEL_SIZE, (1.0, 1.0))
    sizes = [
        float(ds[axis][-1] - ds[axis][0]) / (ds.sizes[axis] - 1)
        if axis in ds.coords and ds.sizes[axis] > 1
        else float(size)
        for axis, size in zip((Y, X), stored, strict=True)
    ]
    unit = str(ds[Y].attrs.get("units", UNCALIBRATED)) if Y in ds.coords else UNCALIBRATED
    return abs(sizes[0]), abs(sizes[1]), unit


UNPRINTABLE = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters but the end of a line, marks that turn the direction of writing, and halves of characters."""


def printable(value: str) -> str:
    """Return text in which nothing moves the cursor, colours, rings or turns the direction of a terminal."""
    return UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", value)


_BEGINS_A_FORMULA = ("=", "+", "-", "@")


def name_text(value: Any) -> str:
    """Return a name as text on one line that no spreadsheet takes for a formula when it stands in a cell of a table."""
    name = text(value)
    return f"'{name}" if name.startswith(_BEGINS_A_FORMULA) else name


def phase_name(attrs: Mapping[str, Any], number: int, otherwise: str | None = None) -> str:
    """Return the name that a result with ``attrs`` has for a phase, else ``otherwise``, else its number."""
    given = attrs.get(PHASE_NAMES, {}).get(str(number))
    return name_text(given) if given is not None else otherwise or str(number)


def text(value: Any) -> str:
    """Return a metadata value as printable text on one line, for tables and titles."""
    return printable(" ".join(str(value).split()))
