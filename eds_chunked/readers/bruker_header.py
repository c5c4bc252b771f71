"""The XML header of a Bruker .bcf file: calibration, microscope, elements, electron images.

The header is parsed block by block as it is inflated. Its base64 images (nearly all of its bytes) are dropped on the
way, or, when they are asked for, decoded one at a time. Numbers may have decimal commas, whatever the rest of the file
does. Only the energy calibration and the number of channels are needed; everything else may be missing.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from xml.etree.ElementTree import Element, ParseError, TreeBuilder

import numpy as np
from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import DefusedXMLParser

from eds_chunked.readers.base import ElectronImage
from eds_chunked.readers.bruker_container import Container
from eds_chunked.schema import SEM, TEM

Array = np.ndarray[Any, Any]

HEADER = "EDSDatabase/HeaderData"

_MOST_BYTES = 1 << 30
_FED_AT_ONCE = 1 << 18
# Headers of the vendor have some thousand elements and far less than a megabyte of text apart from images.
_MOST_KEPT = 64 << 20
_ELEMENT_BYTES, _ATTRIBUTE_BYTES = 256, 128
_LARGEST_IMAGE = 1 << 28
_LONGEST_TAG = 1 << 20
_DEEPEST = 100
_MOST_CHANNELS = 1 << 16
_MOST_LINES = 1 << 16
_LARGEST = 1 << 62
# A transmission microscope is told from a scanning one by its voltage only.
_HIGHEST_SEM_KV = 30.0
_MN_KA_KEV = 5.895
_FWHM = 2.0 * math.sqrt(2.0 * math.log(2.0))
_SYMBOL = re.compile(r"[A-Z][a-z]?")
_FIX = "save the map again in Esprit"


@dataclass(frozen=True)
class Spectrum:
    """Sum spectrum of one map: its counts by channel and its calibration (keV)."""

    counts: Array = field(repr=False, compare=False)
    scale: float
    offset: float
    beam_energy: float | None
    live_time: float | None
    metadata: dict[str, Any]


@dataclass(frozen=True)
class Header:
    """What the XML says of all maps of the file; sizes are (height, width), pixel sizes um."""

    title: str
    spectra: dict[int, Spectrum]
    size: tuple[int, int] | None
    pixel_size: tuple[float, float] | None
    beam_energy: float | None
    real_time: float | None
    signal_type: str
    elements: tuple[str, ...]
    metadata: dict[str, Any] = field(default_factory=dict)


class _Target:
    """Parser target that builds the tree without the text of images, or (``keep``) yields electron images whole.

    Electron images are the map's own, which has no name, and those of the container "OverviewImages"; other image
    nodes hold counters and times of pixels. What is kept is counted as it comes, so that neither millions of elements
    nor endless text fill the memory; an image has no more text than its size makes.
    """

    def __init__(self, *, keep: bool) -> None:
        self._keep, self._builder, self._skip = keep, TreeBuilder(), False
        self._open: list[dict[str, str]] = []
        self._wanted = self._pixels = False
        self._kept = 0
        # Of the image that is open: its depth, its sizes as far as they are known, and the text that it and its plane
        # may still have.
        self._depth = self._room = self._plane_room = 0
        self._sizes: dict[str, int] = {}
        # Calls of the parser so far.
        self.events = 0
        self.images: list[tuple[Element, bool]] = []
        self.root = Element("none")

    def start(self, tag: str, attributes: dict[str, str]) -> Element:
        self.events += 1
        self._open.append(attributes)
        if len(self._open) > _DEEPEST:
            raise ParseError(f"elements nested more than {_DEEPEST} deep")
        self._count(_ELEMENT_BYTES + sys.getsizeof(tag))
        for name, value in attributes.items():
            self._count(_ATTRIBUTE_BYTES + sys.getsizeof(name) + sys.getsizeof(value))
        if attributes.get("Type") == "TRTImageData":
            self._wanted = self._keep and (self._is_map_image() or self._is_overview())
            self._depth, self._sizes, self._room = len(self._open), {}, _base64_length({})
        self._pixels = tag == "Data" and self._wanted
        self._skip = tag == "Data" and not self._wanted
        if self._pixels:
            self._plane_room = _base64_length(self._sizes)
        return self._builder.start(tag, attributes)

    def _count(self, n_bytes: int) -> None:
        self._kept += n_bytes
        if self._kept > _MOST_KEPT:
            raise ParseError(f"more than {_MOST_KEPT >> 20} MiB of elements and text apart from images")

    def _is_map_image(self) -> bool:
        return len(self._open) == 3 and "Name" not in self._open[-1]

    def _is_overview(self) -> bool:
        return any(attributes.get("Name") == "OverviewImages" for attributes in self._open)

    def end(self, tag: str) -> Element:
        self.events += 1
        self._skip = self._pixels = False
        element = self._builder.end(tag)
        if tag in ("Height", "Width", "ItemSize") and len(self._open) == self._depth + 1:
            self._sizes.setdefault(tag, _whole_number(element.text) or 0)
        if self._wanted and self._open[-1].get("Type") == "TRTImageData":
            self.images.append((element, self._is_map_image()))
            self._wanted = False
        self._open.pop()
        return element

    def data(self, text: str) -> None:
        self.events += 1
        if self._pixels:
            text = "".join(text.split())
            self._room, self._plane_room = self._room - len(text), self._plane_room - len(text)
            if min(self._room, self._plane_room) < 0:
                raise ParseError(f"an image with more data than its sizes {self._sizes} allow")
            self._builder.data(text)
        elif not self._skip:
            # Pieces are joined at the end of their element.
            self._count(2 * sys.getsizeof(text))
            self._builder.data(text)

    def close(self) -> Element:
        return self._builder.close()


def _base64_length(sizes: dict[str, int]) -> int:
    """Characters that an image of these sizes takes; where they are not known, those of the largest image."""
    n_bytes = math.prod(sizes.values()) if len(sizes) == 3 else _LARGEST_IMAGE
    return 4 * -(-min(n_bytes, _LARGEST_IMAGE) // 3)


def _parse(container: Container, target: _Target) -> Iterator[tuple[Element, bool]]:
    """Yield the images that the target keeps as they are complete, with True for the map's own."""
    parser = DefusedXMLParser(target=target, forbid_dtd=True)
    size = unheard = 0
    for piece in _pieces(container):
        size += len(piece)
        if size > _MOST_BYTES:
            container.fail(HEADER, found=f"more than {_MOST_BYTES} bytes", expected="a smaller header")
        events = target.events
        with _broken_xml(container):
            parser.feed(piece)
            # The parser holds a tag or a comment until it ends.
            unheard = unheard + len(piece) if target.events == events else 0
            if unheard > _LONGEST_TAG:
                raise ParseError(f"a tag or comment of more than {_LONGEST_TAG} bytes")
        while target.images:
            image, of_map = target.images.pop(0)
            yield image, of_map
            image.clear()
    with _broken_xml(container):
        target.root = parser.close()


def _pieces(container: Container) -> Iterator[bytes]:
    for block in container.blocks(HEADER):
        for start in range(0, len(block), _FED_AT_ONCE):
            yield bytes(block[start : start + _FED_AT_ONCE])


@contextmanager
def _broken_xml(container: Container) -> Iterator[None]:
    try:
        yield
    except (ParseError, DefusedXmlException, ValueError, LookupError) as error:
        container.fail(HEADER, found=f"broken XML ({error})", expected="a well-formed XML document", fix=_FIX)


def read_header(container: Container) -> Header:
    """Read the header without its images.

    Raises
    ------
    SourceError
        The container has none, it is not XML, or a sum spectrum lacks its calibration or its channels.
    """
    _require_header(container)
    target = _Target(keep=False)
    for _ in _parse(container, target):
        pass
    database = target.root.find("ClassInstance[@Type='TRTSpectrumDatabase']")
    if database is None:
        container.fail(HEADER, found=f"a <{target.root.tag}>", expected="a TRTSpectrumDatabase", fix=_FIX)
    microscope = _instance(database, "TRTSEMData")
    stage = _instance(database, "TRTSEMStageData")
    scan = _instance(database, "TRTDSPConfiguration")
    image = next((i for i in _instances(database, "TRTImageData") if "Name" not in i.attrib), None)
    spectra = {
        int(node.tag[len("SpectrumData") :]): _read_spectrum(container, node)
        for node in database
        if re.fullmatch(r"SpectrumData\d{1,6}", node.tag)
    }
    voltage = _positive(_number(microscope, "HV"))
    if voltage is None:
        voltage = next((s.beam_energy for s in spectra.values() if s.beam_energy), None)
    size = (_whole(image, "Height"), _whole(image, "Width"))
    steps = (_positive(_number(microscope, "DY")), _positive(_number(microscope, "DX")))
    elements = {
        region.get("Name", "")
        for region in database.iter("ClassInstance")
        if region.get("Type") == "TRTSpectrumRegion" and _SYMBOL.fullmatch(region.get("Name", ""))
    }
    return Header(
        title=database.get("Name", "").strip(),
        spectra=spectra,
        size=None if size[0] is None or size[1] is None else (size[0], size[1]),
        pixel_size=None if steps[0] is None or steps[1] is None else (steps[0], steps[1]),
        beam_energy=voltage,
        real_time=_real_time(database, scan, size[1]),
        signal_type=TEM if voltage is not None and voltage > _HIGHEST_SEM_KV else SEM,
        elements=tuple(sorted(elements)),
        metadata=_present(
            {
                "date": _text(database, "Header/Date"),
                "time": _text(database, "Header/Time"),
                "file_version": _number(database, "Header/FileVersion"),
                "magnification": _number(microscope, "Mag"),
                "working_distance_mm": _number(microscope, "WD"),
                "stage_x_um": _number(stage, "X"),
                "stage_y_um": _number(stage, "Y"),
                "stage_z_um": _number(stage, "Z"),
                "stage_rotation_deg": _number(stage, "Rotation"),
                "stage_tilt_deg": _number(stage, "Tilt"),
                "detector_count": _number(database, "DetectorCount"),
            }
        ),
    )


def read_images(container: Container, pixel_size: tuple[float, float] | None) -> Iterator[ElectronImage]:
    """Yield the electron images, decoding one plane at a time; ``pixel_size`` is that of the map's own image."""
    _require_header(container)
    names: dict[str, int] = {}
    for node, of_map in _parse(container, _Target(keep=True)):
        height, width, item = (_whole(node, key) for key in ("Height", "Width", "ItemSize"))
        for plane in node:
            text = plane.findtext("Data")
            if not re.fullmatch(r"Plane\d+", plane.tag) or text is None:
                continue
            name = _text(plane, "Description") or ("image" if of_map else "overview")
            names[name] = names.get(name, 0) + 1
            if names[name] > 1:
                name = f"{name} {names[name]}"
            where = f"{HEADER}, image {name!r}"
            if not height or not width or item not in (1, 2, 4):
                container.fail(where, found=f"{height} x {width} of {item} bytes", expected="rows x columns of 1, 2, 4")
            try:
                raw = base64.b64decode(text, validate=False)
            except (binascii.Error, ValueError) as error:
                container.fail(where, found=f"broken base64 ({error})", expected="an image", fix=_FIX)
            if len(raw) != height * width * item:
                container.fail(where, found=f"{len(raw)} bytes", expected=f"{height} x {width} x {item}", fix=_FIX)
            pixels = np.frombuffer(raw, f"<u{item}").reshape(height, width)
            yield ElectronImage(name, pixels, pixel_size if of_map else None)


# ---------------------------------------------------------------------------------------------------- the nodes
def _require_header(container: Container) -> None:
    if HEADER not in container.files:
        container.fail(
            "directory",
            found=f"no {HEADER}, but {', '.join(sorted(container.files)[:5]) or 'nothing'}",
            expected="an EDS map",
            fix="give a .bcf with an EDS map (this may be an EBSD-only or a particle file)",
        )


def _read_spectrum(container: Container, node: Element) -> Spectrum:
    where = f"{HEADER}, sum spectrum {node.tag}"
    spectrum = _instance(node, "TRTSpectrum")
    head = _instance(spectrum, "TRTSpectrumHeader")
    text = "" if spectrum is None else (spectrum.findtext("Channels") or "").strip().strip(",")
    n_channels = 0 if spectrum is None else text.count(",") + 1
    if n_channels > _MOST_CHANNELS:
        container.fail(where, found=f"{n_channels} channels", expected=f"1 to {_MOST_CHANNELS}", fix=_FIX)
    try:
        # A guide to what a band will hold, so a nonsensical number may become a large one.
        channels = [min(max(int(count), 0), _LARGEST) for count in text.split(",")] if n_channels else []
    except ValueError as error:
        container.fail(where, found=f"Channels with {str(error)[-60:]}", expected="a list of counts", fix=_FIX)
    if not channels:
        container.fail(where, found="0 channels", expected=f"1 to {_MOST_CHANNELS}", fix=_FIX)
    scale, offset = _number(head, "CalibLin"), _number(head, "CalibAbs")
    if scale is None or offset is None or scale <= 0:
        container.fail(
            where,
            found=f"CalibLin {_text(head, 'CalibLin')}, CalibAbs {_text(head, 'CalibAbs')}",
            expected="keV per channel > 0 and keV of channel 0",
            fix=_FIX,
        )
    details = None if spectrum is None else spectrum.find("TRTHeaderedClass")
    hardware = _instance(details, "TRTSpectrumHardwareHeader")
    detector = _instance(details, "TRTDetectorHeader")
    geometry = _instance(details, "TRTESMAHeader")
    live_ms = _positive(_number(hardware, "LifeTime"))
    noise, gain = _number(head, "SigmaAbs"), _number(head, "SigmaLin")
    variance = None if noise is None or gain is None else noise + gain * _MN_KA_KEV
    return Spectrum(
        counts=np.array(channels, np.float64),
        scale=scale,
        offset=offset,
        beam_energy=_positive(_number(geometry, "PrimaryEnergy")),
        live_time=None if live_ms is None else live_ms / 1000.0,
        metadata=_present(
            {
                "detector_type": _text(detector, "Type"),
                "detector_serial": _text(detector, "Serial"),
                "detector_thickness_mm": _number(detector, "DetectorThickness"),
                "window_type": _text(detector, "WindowType"),
                "elevation_angle_deg": _number(geometry, "ElevationAngle"),
                "azimuth_angle_deg": _number(geometry, "AzimutAngle"),
                "amplification_ev": _number(hardware, "Amplification"),
                "shaping_time": _number(hardware, "ShapingTime"),
                "energy_resolution_mn_ka_ev": (
                    None if variance is None or variance <= 0 else round(1000.0 * _FWHM * math.sqrt(variance), 2)
                ),
                "header_total_counts": sum(channels),
            }
        ),
    )


def _real_time(database: Element, scan: Element | None, width: int | None) -> float | None:
    """Seconds that the beam dwelt on the map: frames summed over lines x pixels of a line x dwell time of a pixel."""
    factors = [_number(scan, key) for key in ("LineAverage", "PixelAverage", "PixelTime")]
    counter = _text(database, "LineCounter") or ""
    if counter.count(",") > _MOST_LINES:
        return None
    try:
        frames = float(sum(int(n) for n in counter.split(",")))
    except (ValueError, OverflowError):
        return None
    if width is None or any(factor is None for factor in factors):
        return None
    seconds = frames * width * math.prod(factor for factor in factors if factor is not None) * 1e-6
    return _positive(seconds)


def _instances(node: Element | None, kind: str) -> list[Element]:
    return [] if node is None else [child for child in node.findall("ClassInstance") if child.get("Type") == kind]


def _instance(node: Element | None, kind: str) -> Element | None:
    return next(iter(_instances(node, kind)), None)


def _text(node: Element | None, path: str) -> str | None:
    found = None if node is None else node.findtext(path)
    return found.strip() if found and found.strip() else None


def _number(node: Element | None, path: str) -> float | None:
    return _finite(_text(node, path))


def _finite(text: str | None) -> float | None:
    """A finite number, with a decimal point or comma; None where there is none."""
    try:
        value = float((text or "").replace(",", "."))
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _whole(node: Element | None, path: str) -> int | None:
    return _whole_number(_text(node, path))


def _whole_number(text: str | None) -> int | None:
    value = _finite(text)
    return int(value) if value is not None and 0 <= value < 1 << 31 and value == int(value) else None


def _positive(value: float | None) -> float | None:
    return value if value is not None and 0 < value < math.inf else None


def _present(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}
