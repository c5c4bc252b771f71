"""What the formats that RosettaSciIO can only load whole will take, told before anything is loaded.

Velox .emd and JEOL .pts are lists of X-rays in the order of time, over many frames: their library makes the dense map
of them in memory. Phenom .elid is one bzip2 stream of numbers of varying length, whose sizes stand between the counts.
"""

from __future__ import annotations

import bz2
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from eds_chunked import memory as machine
from eds_chunked.errors import MemoryBudgetError, SourceError
from eds_chunked.readers.signal import Signal

EXPORT = "export the map as .rpl/.raw from the microscope's software, which is read in rows"


class Unread(NamedTuple):
    """In the place of an array that is not loaded yet."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]


@dataclass(frozen=True)
class Ahead:
    """A file that is not loaded yet: its maps without their counts, and what loading them takes.

    ``beside`` bytes are held while it is loaded, beside the counts themselves; ``options`` go to RosettaSciIO.
    """

    signals: tuple[Signal, ...]
    beside: int
    options: Mapping[str, Any] = field(default_factory=dict)


def look_ahead(path: Path, *, memory: str | int | None = None) -> Ahead | None:
    """Return what is known of a file before it is loaded, or None where RosettaSciIO opens it without loading.

    Parameters
    ----------
    path
        The file.
    memory
        Budget of the whole process, for what must be loaded now.

    Raises
    ------
    MemoryBudgetError
        Not even the sizes can be known without loading it, and that may take more than the budget.
    SourceError
        The file is damaged, or points at other files.
    """
    look = _LOOKS.get(path.suffix.lower())
    return None if look is None else look(path, machine.resolve_limit(memory))


# ---------------------------------------------------------------------------------------------------------- Velox
def _velox(path: Path, limit: int) -> Ahead | None:
    import h5py

    if not h5py.is_hdf5(path):
        return None  # RosettaSciIO says what is wrong with it.
    try:
        with h5py.File(path, "r") as file:
            if "Version" not in file or _json(file["Version"][0]).get("format") not in ("Velox", "DevelopersKit"):
                return None  # of the Berkeley kind, which is read chunk by chunk
            streams = list(file.get("Data/SpectrumStream", {}).values())
            images = list(file.get("Data/Image", {}).values())
            if not streams or not images:
                raise SourceError(
                    str(path),
                    found="no stream of spectra" if not streams else "no image, which would tell the size of the map",
                    expected="a Velox spectrum image that was not pruned",
                    fix="save it again from Velox with its spectrum stream",
                )
            settings = _json(streams[0]["AcquisitionSettings"][0])
            shape = (*map(int, images[-1]["Data"].shape[:-1]), int(settings["bincount"]))
            stated = _json(bytes(streams[0]["Metadata"][:, 0].tolist()))
            # A stream is read at once and searched for the ends of its pixels; images are read before.
            beside = 3 * max(stream["Data"].size for stream in streams)
            beside += sum(math.prod(image["Data"].shape[:-1]) * image["Data"].dtype.itemsize for image in images)
            dtype = np.dtype(settings["StreamEncoding"])
    except (OSError, KeyError, ValueError, TypeError, IndexError, AttributeError) as error:
        raise SourceError(
            str(path),
            found=f"what is no EMD file of Velox ({type(error).__name__}: {error})",
            expected="an undamaged .emd",
            fix="copy the file again, or export the map as .rpl/.raw or .hspy",
        ) from error
    signal = Signal("EDS", Unread(shape, dtype), _velox_axes(stated), _velox_metadata(stated), stated)
    return Ahead((signal,), beside, {"lazy": False})


def _json(text: bytes | str) -> Any:
    return json.loads(text.rstrip(b"\0").decode() if isinstance(text, bytes) else text)


def _velox_axes(stated: Mapping[str, Any]) -> list[dict[str, Any]]:
    binary = stated.get("BinaryResult", {})
    size, unit = binary.get("PixelSize", {}), binary.get("PixelUnitX", "")
    detectors = [
        detector
        for detector in stated.get("Detectors", {}).values()
        if "Dispersion" in detector and str(binary.get("Detector", "?")) in detector.get("DetectorName", "")
    ]
    energy: dict[str, Any] = {"name": "Energy", "navigate": False}
    if detectors:
        energy |= {"scale": float(detectors[0]["Dispersion"]), "offset": float(detectors[0]["OffsetEnergy"])}
        energy["units"] = "eV"
    return [
        {"name": "y", "scale": float(size.get("height", 0.0)), "offset": 0.0, "units": unit, "navigate": True},
        {"name": "x", "scale": float(size.get("width", 0.0)), "offset": 0.0, "units": unit, "navigate": True},
        energy,
    ]


def _velox_metadata(stated: Mapping[str, Any]) -> dict[str, Any]:
    microscope: dict[str, Any] = {}
    if "AccelerationVoltage" in stated.get("Optics", {}):
        microscope["beam_energy"] = float(stated["Optics"]["AccelerationVoltage"]) / 1e3
    return {
        "General": {"title": "EDS"},
        "Signal": {"signal_type": "EDS_TEM"},
        "Acquisition_instrument": {"TEM": microscope},
    }


# ----------------------------------------------------------------------------------------------------------- JEOL
_JEOL_CHANNELS = 4096


def _pts(path: Path, limit: int) -> Ahead:
    from rsciio.jeol import file_reader

    size = path.stat().st_size
    _check_room(path, size, limit)
    try:
        # One frame with all channels in one: the axes and metadata of the whole map for the memory of an image.
        signals = file_reader(
            str(path), rebin_energy=_JEOL_CHANNELS, frame_list=[0], SI_dtype=np.uint32, only_valid_data=False
        )
        if not signals:
            raise ValueError("no JEOL point file")
    except Exception as error:  # its parsing raises whatever it meets
        raise SourceError(
            str(path),
            found=f"JEOL: {type(error).__name__}: {error}",
            expected="an undamaged .pts of JEOL Analysis Station",
            fix=f"copy the file again, or {EXPORT}",
        ) from error
    found = []
    for signal in signals:
        axes = [dict(axis) for axis in signal["axes"]]
        height, width, merged = signal["data"].shape
        axes[2] |= {"scale": axes[2]["scale"] * merged / _JEOL_CHANNELS, "size": _JEOL_CHANNELS}
        # One byte a count, which is what the library makes unasked, is too small for a long measurement.
        unread = Unread((height, width, _JEOL_CHANNELS), np.dtype(np.uint16))
        name = str(signal["metadata"].get("General", {}).get("title", ""))
        found.append(Signal(name, unread, axes, signal["metadata"], signal["original_metadata"]))
        size += 4 * height * width
    return Ahead(tuple(found), size, {"lazy": False, "SI_dtype": np.uint16})


def _asw(path: Path, limit: int) -> Ahead:
    raise SourceError(
        str(path),
        found="a JEOL project, which points at the files of all its maps",
        expected="the file of one map",
        fix="name the .pts file of the map, in the folders beside it",
    )


# --------------------------------------------------------------------------------------------------------- Phenom
def _elid(path: Path, limit: int) -> None:
    """Check that loading the file cannot take more than is there: its numbers are kept in four bytes each."""
    room = limit - machine.resident()
    inside = 0
    try:
        # Read as it is decompressed and dropped again, up to the size that is too much.
        with bz2.open(path) as stream:
            while 4 * inside <= room and (n := len(stream.read(1 << 20))):
                inside += n
    except (OSError, EOFError) as error:
        raise SourceError(
            str(path),
            found=f"what is no whole bzip2 stream ({error})",
            expected="an .elid of Element Identification 3.8 or later",
            fix="copy the file again",
        ) from error
    _check_room(path, 4 * inside, limit)


def _check_room(path: Path, n_bytes: int, limit: int) -> None:
    room = limit - machine.resident()
    if n_bytes > room:
        raise MemoryBudgetError(
            f"memory to open {path}",
            found=f"a format that is loaded whole, taking {machine.format_size(n_bytes)} or more",
            expected=f"at most {machine.format_size(room)}, what a budget of {machine.format_size(limit)} leaves",
            fix=f"convert with a larger --memory, or {EXPORT}",
        )


_LOOKS: dict[str, Callable[[Path, int], Ahead | None]] = {
    ".emd": _velox,
    ".pts": _pts,
    ".asw": _asw,
    ".elid": _elid,
}
