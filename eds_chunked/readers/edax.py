"""EDAX .spd maps (Genesis, TEAM): a short header, then all spectra, bare.

What calibrates a map stands in two files beside it: its sum spectrum, a .spc of the same name (energies, beam), and the
electron image that was mapped on, an .ipr (size of a pixel). Formats: EDAX, "SpcMap spd file format", "Spectrum V70"
and "Image IPR". The files are little-endian; of a header only the fields that are used are named here.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from eds_chunked.errors import SourceError
from eds_chunked.readers.base import Band, Box, ElectronImage, MapHeader
from eds_chunked.readers.choice import choose
from eds_chunked.readers.flat import FlatCounts
from eds_chunked.schema import PERIODIC_TABLE, SEM

_TAG = b"MAPSPECTRA_DATA\0"
_HEAD = struct.Struct("<16s3i5I120s")
_AGAIN = "copy the file from the microscope's computer again"

# Place and type of the fields of a .spc and an .ipr.
_SPC_FIELDS = {
    "evPerChan": (384, "<i"),
    "startEnergy": (448, "<f"),
    "liveTime": (456, "<f"),
    "tilt": (460, "<f"),
    "detReso": (472, "<f"),
    "azimuth": (508, "<f"),
    "elevation": (512, "<f"),
    "kV": (532, "<f"),
    "numElem": (638, "<h"),
    "at": (640, "<48H"),
}
_IPR_FIELDS = {"mppX": (64, "<f"), "mppY": (68, "<f")}


class EdaxReader:
    """Stream an EDAX .spd.

    Parameters
    ----------
    path
        The .spd file.
    pick
        Accepted as for every format; a file holds one map, number 1.
    salvage
        Open a file that is cut off: the whole rows in it can be read, and :meth:`bands` raises SourceError after the
        last of them.

    Raises
    ------
    SourceError
        It is no such file, it is cut off, or the .spc or .ipr beside it is.

    Notes
    -----
    Without a .spc the energies count channels and ``energy_calibrated`` is False; without an .ipr there is no pixel
    size. The .spc may state a wrong energy per channel, since it is that of the sum spectrum.
    """

    def __init__(self, path: str | Path, *, pick: str | int | None = None, salvage: bool = False) -> None:
        self._path = Path(path)
        with open(self._path, "rb") as file:
            head = file.read(_HEAD.size)
        if len(head) < _HEAD.size or not head.startswith(_TAG):
            raise SourceError(
                str(self._path),
                found=repr(head[: len(_TAG)]) if head else "an empty file",
                expected=f"{_TAG!r}, the beginning of an EDAX map",
                fix=_AGAIN,
            )
        _, version, n_spectra, width, height, n_channels, n_bytes, offset, n_frames, image = _HEAD.unpack(head)
        if min(width, height, n_channels) < 1 or n_bytes not in (1, 2, 4) or offset < 48:
            raise SourceError(
                f"header of {self._path}",
                found=f"{height} x {width} pixels x {n_channels} channels of {n_bytes} bytes from byte {offset} on",
                expected="at least one pixel and channel, of 1, 2 or 4 bytes, behind the header",
                fix=_AGAIN,
            )
        shape, stored = (height, width, n_channels), np.dtype(f"<u{n_bytes}")
        self._counts = FlatCounts(
            self._path, offset=offset, shape=shape, stored=stored, by_image=False, fail=self._fail_size
        )
        found = self._path.stat().st_size
        if found < self._counts.end and not (salvage and self._counts.whole_rows):
            self._fail_size(found, self._counts.end)
        name = re.split(r"[/\\]", image.split(b"\0", 1)[0].decode("latin-1"))[-1]
        self.header = _header(
            self._path,
            shape,
            stored,
            spd={"version": version, "nSpectra": n_spectra, "nFrames": n_frames, "fName": name},
            spc=_fields(_beside(self._path, f"{self._path.stem}.spc"), _SPC_FIELDS),
            ipr=_fields(_beside(self._path, f"{Path(name).stem or self._path.stem + '_Img'}.ipr"), _IPR_FIELDS),
        )
        choose(str(self._path), maps=[(self.header.title, shape)], pick=pick)

    def peak_bytes(self, rows: int, box: Box | None = None) -> int:
        """Bytes that a loop over ``bands(rows, box)`` holds at most."""
        return self._counts.peak_bytes(rows, box or Box.whole(self.header.shape))

    def bands(self, rows: int, box: Box | None = None) -> Iterator[Band]:
        """Yield the rows of a box (default: of the whole map); see :class:`eds_chunked.readers.flat.FlatCounts`."""
        return self._counts.bands(rows, box or Box.whole(self.header.shape))

    def images(self) -> Iterator[ElectronImage]:
        """Yield nothing: images are in files of their own."""
        return iter(())

    def _fail_size(self, found: int, expected: int) -> NoReturn:
        rows = self._counts.whole_rows
        keeps = f"; eds-chunked convert {self._path} STORE --salvage keeps its {rows} whole rows" if rows else ""
        raise SourceError(
            str(self._path),
            found=f"{found} bytes",
            expected=f"at least {expected} bytes, by the sizes in its header",
            fix=f"{_AGAIN}, it is truncated{keeps}",
        )


def _beside(path: Path, name: str) -> Path | None:
    """Return the file of this name in the folder of the map, however it is spelled, if there is one."""
    found = [p for p in path.parent.iterdir() if p.name.lower() == name.lower() and p.is_file()]
    # On a file system where A.spc and a.spc are two files, the same spelling wins.
    return min(found, key=lambda p: (p.name != name, p.name), default=None)


def _fields(path: Path | None, fields: dict[str, tuple[int, str]]) -> dict[str, Any]:
    """Return the fields of a .spc or .ipr: nothing where there is no file, None for a number that is not finite."""
    if path is None:
        return {}
    least = max(at + struct.calcsize(kind) for at, kind in fields.values())
    with open(path, "rb") as file:
        data = file.read(least)
    if len(data) < least:
        raise SourceError(
            str(path),
            found=f"{len(data)} bytes",
            expected=f"at least {least} bytes",
            fix=f"{_AGAIN}, or take it away and give the calibration by hand",
        )
    found: dict[str, Any] = {}
    for name, (at, kind) in fields.items():
        values = [v if math.isfinite(v) else None for v in struct.unpack_from(kind, data, at)]
        found[name] = values if len(values) > 1 else values[0]
    return found


def _header(
    path: Path,
    shape: tuple[int, int, int],
    stored: np.dtype[Any],
    *,
    spd: dict[str, Any],
    spc: dict[str, Any],
    ipr: dict[str, Any],
) -> MapHeader:
    ev, start = spc.get("evPerChan") or 0, spc.get("startEnergy")
    calibrated = ev > 0 and start is not None
    height, width = ipr.get("mppY") or 0.0, ipr.get("mppX") or 0.0
    numbers = spc.get("at", [])[: max(0, spc.get("numElem", 0))]
    elements = {PERIODIC_TABLE[z - 1] for z in numbers if 0 < z <= len(PERIODIC_TABLE)}
    return MapHeader(
        source=str(path),
        shape=shape,
        dtype=stored.newbyteorder("="),
        energy_scale=ev / 1000 if calibrated else 1.0,
        energy_offset=start if calibrated and start is not None else 0.0,
        energy_calibrated=calibrated,
        pixel_size=(height, width) if min(height, width) > 0 else None,
        title=path.stem,
        signal_type=SEM,
        beam_energy=_positive(spc.get("kV")),
        elements=tuple(sorted(elements)),
        live_time=_positive(spc.get("liveTime")),
        metadata={"spd": spd, "spc": spc, "ipr": ipr},
    )


def _positive(value: float | None) -> float | None:
    return value if value is not None and value > 0 else None
