"""Open a microscope file: a header that describes the map, and its counts in row bands.

A new format needs one file in this folder with a class that fulfils :class:`eds_chunked.readers.base.Reader`, and one
line in each of the two functions below.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NoReturn

from eds_chunked.errors import ParameterError, SourceError, SourceNotFoundError
from eds_chunked.readers.base import Band, Box, ElectronImage, MapHeader, Reader

__all__ = ["Band", "Box", "ElectronImage", "MapHeader", "Reader", "describe", "open_source"]

_HDF5 = b"\x89HDF\r\n\x1a\n"
_BRUKER = b"AAMVHFSS"

_Format = Literal["bruker", "ripple", "edax", "hspy", "zspy", "rosetta"]


def open_source(
    path: str | Path, *, pick: str | int | None = None, salvage: bool = False, memory: str | int | None = None
) -> Reader:
    """Open a spectrum image for reading in row bands.

    The format is chosen by what the file begins with, then by its suffix. Bruker .bcf, Lispix .rpl/.raw, EDAX .spd and
    HyperSpy's .hspy and .zspy are streamed; everything else goes through RosettaSciIO.

    Parameters
    ----------
    path
        The file; of an .rpl/.raw pair either one.
    pick
        Name or 1-based number of the spectrum image, where the file has several.
    salvage
        Open a .bcf, a .spd, or an .rpl/.raw pair recorded by vector, that is damaged or cut off: the bands of the
        reader end with SourceError after the last whole row before the damage.
    memory
        Budget of the whole process, such as ``"8GB"``: for formats that must be loaded to know what is in them, and for
        those whose chunks hold many rows.

    Returns
    -------
    Reader
        Its ``header`` is known, its counts are not read yet, except by the formats whose library reads all at once.

    Raises
    ------
    SourceNotFoundError
        No such file.
    SourceError
        A folder, an unknown format, a damaged file, no spectrum image in it, or several and no ``pick``.
    ParameterError
        ``pick`` names none of the spectrum images, or ``salvage`` is asked of a format that cannot be salvaged.
    MemoryBudgetError
        The file must be loaded to know what is in it, and that may take more than ``memory``.
    """
    path, kind = _recognise(path)
    if kind == "bruker":
        from eds_chunked.readers.bruker import BrukerReader

        return BrukerReader(path, pick=pick, salvage=salvage)
    if kind == "ripple":
        from eds_chunked.readers.ripple import RippleReader

        return RippleReader(path, pick=pick, salvage=salvage)
    if kind == "edax":
        from eds_chunked.readers.edax import EdaxReader

        return EdaxReader(path, pick=pick, salvage=salvage)
    if salvage:
        _refuse_salvage(path)
    if kind == "hspy":
        from eds_chunked.readers.hspy import HspyReader

        return HspyReader(path, pick=pick, memory=memory)
    if kind == "zspy":
        from eds_chunked.readers.zspy import ZspyReader

        return ZspyReader(path, pick=pick, memory=memory)
    from eds_chunked.readers.rosetta import RosettaReader

    return RosettaReader(path, pick=pick, memory=memory)


def describe(path: str | Path, *, salvage: bool = False) -> tuple[MapHeader, ...]:
    """Describe all spectrum images of a file, in the order of their numbers, at least one.

    No counts are read, except by the formats whose library reads all at once.

    Parameters
    ----------
    path
        The file.
    salvage
        Describe also a damaged file, where :func:`open_source` can salvage it.

    Raises
    ------
    SourceNotFoundError
        No such file.
    SourceError
        A folder, an unknown format, a damaged file, or no spectrum image in it.
    ParameterError
        ``salvage`` is asked of a format that cannot be salvaged.
    """
    path, kind = _recognise(path)
    if kind == "bruker":
        from eds_chunked.readers import bruker

        return bruker.describe(path, salvage=salvage)
    if kind in ("ripple", "edax"):
        return (open_source(path, salvage=salvage).header,)
    if salvage:
        _refuse_salvage(path)
    if kind == "hspy":
        from eds_chunked.readers import hspy

        return hspy.describe(path)
    if kind == "zspy":
        from eds_chunked.readers import zspy

        return zspy.describe(path)
    from eds_chunked.readers import rosetta

    return rosetta.describe(path)


def _refuse_salvage(path: Path) -> NoReturn:
    raise ParameterError(
        f"salvage of {path}",
        found=f"a {path.suffix or 'nameless'} file",
        expected="a .bcf, a .spd, or an .rpl/.raw pair recorded by vector: only their rows come in order",
        fix="leave out --salvage, or salvage=True in Python",
    )


def _recognise(path: str | Path) -> tuple[Path, _Format]:
    path = Path(path)
    suffix = path.suffix.lower()
    if not path.exists():
        raise SourceNotFoundError(
            str(path), found="no such file", expected="a microscope file", fix="check the path and its spelling"
        )
    if path.is_dir():
        if suffix == ".zspy":
            return path, "zspy"
        raise SourceError(str(path), found="a folder", expected="a file", fix="name the file of the map inside it")
    with open(path, "rb") as file:
        head = file.read(8)
    if head == _BRUKER or suffix == ".bcf":
        return path, "bruker"
    if suffix in (".rpl", ".raw"):
        return path, "ripple"
    if suffix == ".spd":
        return path, "edax"
    if suffix in (".hspy", ".zspy"):
        return path, "hspy" if suffix == ".hspy" else "zspy"
    if head == _HDF5:
        from eds_chunked.readers.hspy import is_hspy

        if is_hspy(path):
            return path, "hspy"
    from eds_chunked.readers.rosetta import suffixes

    if suffix not in suffixes():
        raise SourceError(
            str(path),
            found=f"an unknown format ({suffix or 'no suffix'})",
            expected=f"one of .bcf .rpl .raw .spd .hspy .zspy, or through RosettaSciIO {' '.join(suffixes())}",
            fix="export the map as .rpl/.raw or .hspy",
        )
    return path, "rosetta"
