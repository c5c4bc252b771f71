"""Lispix .rpl/.raw: a text file of sizes and types beside a bare string of numbers.

Format: D. S. Bright, Lispix documentation, NIST ("raw file format"); the calibration keys ``depth-scale``,
``width-units`` and so on are HyperSpy's.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from eds_chunked.errors import SourceError, SourceNotFoundError
from eds_chunked.readers.base import Band, Box, ElectronImage, MapHeader
from eds_chunked.readers.choice import choose
from eds_chunked.readers.flat import FlatCounts
from eds_chunked.readers.units import in_kev, in_um
from eds_chunked.readers.whole import counts_dtype
from eds_chunked.schema import SEM, TEM

Array = np.ndarray[Any, Any]

_TYPES = {"unsigned": "u", "signed": "i", "float": "f"}
_ORDERS = {"little-endian": "<", "big-endian": ">", "dont-care": "<"}
_LENGTHS = {"u": (1, 2, 4, 8), "i": (1, 2, 4, 8), "f": (4, 8)}

# The oldest Lispix files, and those of INCA, are Lisp lists: (WIDTH 200), (MLX::RECORD-BY :VECTOR).
_LISP = re.compile(r"\(\s*(?:MLX::)?([A-Za-z][\w-]*)[\s:]+([^()\s]*)\s*\)", re.IGNORECASE)

# No map has pixels of 2 mm: a larger "m" is a "um" whose micro sign was lost in a Latin-1 file.
_LARGEST_PIXEL_IN_METRES = 2e-3


class RippleReader:
    """Stream a .rpl/.raw pair, recorded by vector (y, x, energy) or by image (energy, y, x).

    Parameters
    ----------
    path
        Either of the two files; the other one is found beside it.
    pick
        Accepted as for every format; a pair holds one map, number 1.
    salvage
        Open a pair whose .raw is cut off, if it is recorded by vector: the whole rows in it can be read, and
        :meth:`bands` raises SourceError after the last of them.

    Raises
    ------
    SourceNotFoundError
        One of the two files is missing.
    SourceError
        Keys are missing or make no sense, it is a single image, or the .raw has not the size that the .rpl says.

    Notes
    -----
    A file without energy calibration gets scale 1 and offset 0, so that energies count channels, and
    ``energy_calibrated`` is False. ``depth-scale`` counts only with ``depth-units`` of eV or keV; where it is absent,
    ``ev-per-chan`` is taken. Where only one of the two pixel sizes is given, the pixel is taken as square.
    Values of more than one byte whose order is ``dont-care`` are taken as little-endian.
    """

    def __init__(self, path: str | Path, *, pick: str | int | None = None, salvage: bool = False) -> None:
        self._rpl, self._raw = _pair(Path(path))
        keys = _parse(self._rpl)
        check = _Keys(keys, self._rpl)
        height, width, depth = (check.size(key) for key in ("height", "width", "depth"))
        self._by_image = check.one_of("record-by", ("vector", "image", "dont-care")) == "image"
        if keys["record-by"] == "dont-care" or depth == 1:
            raise SourceError(
                str(self._rpl),
                found=f"record-by {keys['record-by']} with depth {depth}: a single image",
                expected="a spectrum image: record-by vector or image, and depth at least 2",
                fix="name the .rpl of the map, or set record-by and depth in it",
            )
        stored = check.dtype()
        self._counts = FlatCounts(
            self._raw,
            offset=check.whole("offset", default=0),
            shape=(height, width, depth),
            stored=stored,
            by_image=self._by_image,
            fail=self._fail_size,
        )
        if not salvage or self._raw.stat().st_size > self._counts.end:
            self._check_size()
        else:
            self._check_rest()
        self.header = _header(keys, check, source=str(self._rpl), shape=(height, width, depth), stored=stored)
        choose(str(self._rpl), maps=[(self.header.title or self._rpl.stem, self.header.shape)], pick=pick)

    def peak_bytes(self, rows: int, box: Box | None = None) -> int:
        """Bytes that a loop over ``bands(rows, box)`` holds at most."""
        return self._counts.peak_bytes(rows, box or Box.whole(self.header.shape))

    def bands(self, rows: int, box: Box | None = None) -> Iterator[Band]:
        """Yield the rows of a box (default: of the whole map); see :class:`eds_chunked.readers.flat.FlatCounts`."""
        return self._counts.bands(rows, box or Box.whole(self.header.shape))

    def images(self) -> Iterator[ElectronImage]:
        """Yield nothing: the format holds one map and no images."""
        return iter(())

    def _check_size(self) -> None:
        found = self._raw.stat().st_size
        if found != self._counts.end:
            self._fail_size(found, self._counts.end)

    def _fail_size(self, found: int, expected: int) -> NoReturn:
        raise SourceError(
            str(self._raw),
            found=f"{found} bytes",
            expected=f"{expected} bytes (offset + width x height x depth x data-length of {self._rpl.name})",
            fix=f"copy the file again, it is truncated; eds-chunked convert {self._rpl} STORE --salvage keeps its "
            "whole rows"
            if found < expected
            else f"correct {self._rpl.name}",
        )

    def _check_rest(self) -> None:
        """Check that something can be saved of a .raw that may be cut off."""
        found, expected = self._raw.stat().st_size, self._counts.end
        if found == expected:
            return
        if self._by_image:
            raise SourceError(
                str(self._raw),
                found=f"{found} of {expected} bytes, recorded by image: the last channels are missing in every row",
                expected="record-by vector, where the whole rows before the end can be saved",
                fix="copy the file again",
            )
        if not self._counts.whole_rows:
            raise SourceError(
                str(self._raw),
                found=f"{found} of {expected} bytes",
                expected=f"at least one whole row of {self._counts.row_bytes} bytes",
                fix="copy the file again",
            )


def _pair(path: Path) -> tuple[Path, Path]:
    """Return the .rpl and the .raw that belong together."""
    if not path.is_file():
        raise SourceNotFoundError(
            str(path), found="no such file", expected="an .rpl or .raw file", fix="check the path"
        )
    suffix = path.suffix.lower()
    wanted = ".raw" if suffix == ".rpl" else ".rpl"
    stem = path.stem.lower()
    beside = [p for p in path.parent.iterdir() if p.suffix.lower() == wanted and p.stem.lower() == stem and p.is_file()]
    if not beside:
        raise SourceNotFoundError(
            str(path),
            found=f"no {path.stem}{wanted} beside it",
            expected="the .rpl and the .raw file in one folder, with one name",
            fix=f"put {path.stem}{wanted} into {path.parent}",
        )
    # On a file system where A.raw and a.raw are two files, the same spelling wins.
    partner = min(beside, key=lambda p: (p.stem != path.stem, p.name))
    return (path, partner) if suffix == ".rpl" else (partner, path)


def _parse(path: Path) -> dict[str, str]:
    data = path.read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("latin-1")
    lines = [line.split(";", 1)[0].strip() for line in text.splitlines()]
    if any(line.startswith("(") for line in lines):
        return {key.lower(): value.split(":")[-1].lower() for key, value in _LISP.findall(" ".join(lines))}
    keys = {}
    for line in lines:
        # The format separates by a tabulator; some writers use blanks.
        key, _, value = line.partition("\t") if "\t" in line else line.partition(" ")
        if key:
            keys[key.strip().lower()] = value.strip()
    keys.pop("key", None)
    return keys


class _Keys:
    """The values of the .rpl file, each checked where it is asked for."""

    def __init__(self, keys: Mapping[str, str], path: Path) -> None:
        self._keys, self._path = keys, path

    def text(self, key: str) -> str:
        if key not in self._keys:
            raise self._error(key, found="no such key", expected="width, height, depth, data-length, data-type, ...")
        return self._keys[key]

    def one_of(self, key: str, values: tuple[str, ...]) -> str:
        value = self.text(key)
        if value not in values:
            raise self._error(key, found=repr(value), expected=" or ".join(values))
        return value

    def whole(self, key: str, *, default: int | None = None) -> int:
        value = str(default) if default is not None and key not in self._keys else self.text(key)
        if not re.fullmatch(r"\d+", value):
            raise self._error(key, found=repr(value), expected="a whole number, not negative")
        return int(value)

    def size(self, key: str) -> int:
        value = self.text(key)
        if not re.fullmatch(r"\d+", value) or int(value) == 0:
            raise self._error(key, found=repr(value), expected="a whole number above 0")
        return int(value)

    def number(self, key: str) -> float | None:
        value = self._keys.get(key, "")
        if value in ("", "None", "<undefined>"):
            return None
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise self._error(key, found=repr(value), expected="a number")
        return number

    def scale(self, key: str) -> float | None:
        # Writers put 0 where they know nothing.
        return abs(self.number(key) or 0.0) or None

    def dtype(self) -> np.dtype[Any]:
        kind = _TYPES[self.one_of("data-type", tuple(_TYPES))]
        length = int(self.one_of("data-length", tuple(map(str, _LENGTHS[kind]))))
        order = "<" if length == 1 else _ORDERS[self.one_of("byte-order", tuple(_ORDERS))]
        return np.dtype(f"{order}{kind}{length}")

    def _error(self, key: str, *, found: str, expected: str) -> SourceError:
        return SourceError(
            f"key {key!r} of {self._path}",
            found=found,
            expected=expected,
            fix=f"correct {self._path.name}, a text file",
        )


def _header(
    keys: Mapping[str, str], check: _Keys, *, source: str, shape: tuple[int, int, int], stored: np.dtype[Any]
) -> MapHeader:
    energy = _energy(keys, check)
    scale, offset = energy or (1.0, 0.0)
    return MapHeader(
        source=source,
        shape=shape,
        dtype=counts_dtype(stored, source=source),
        energy_scale=scale,
        energy_offset=offset,
        energy_calibrated=energy is not None,
        pixel_size=_pixel_size(keys, check),
        title=keys.get("title", ""),
        signal_type=TEM if "TEM" in keys.get("signal", "").upper() else SEM,
        beam_energy=check.scale("beam-energy"),
        live_time=check.scale("live-time"),
        metadata={"rpl": dict(keys)},
    )


def _energy(keys: Mapping[str, str], check: _Keys) -> tuple[float, float] | None:
    """Return scale and offset in keV, or None where the file does not tell."""
    scale, unit = check.number("depth-scale"), keys.get("depth-units", "")
    if scale is None:
        scale, unit = check.number("ev-per-chan"), "eV"
    if scale is None or scale <= 0:
        return None
    kev, origin = in_kev(scale, unit), in_kev(check.number("depth-origin") or 0.0, unit)
    return None if kev is None or origin is None else (kev, origin)


def _pixel_size(keys: Mapping[str, str], check: _Keys) -> tuple[float, float] | None:
    height, width = (_length(check.scale(f"{side}-scale"), keys.get(f"{side}-units")) for side in ("height", "width"))
    if height is None and width is None:
        return None
    return height or width or 0.0, width or height or 0.0


def _length(scale: float | None, unit: str | None) -> float | None:
    if scale is None:
        return None
    if unit == "m" and scale > _LARGEST_PIXEL_IN_METRES:
        unit = "um"
    return in_um(scale, unit)
