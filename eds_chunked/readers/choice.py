"""One spectrum image of a file that may hold none, one or several."""

from __future__ import annotations

from collections.abc import Sequence

from eds_chunked.errors import ParameterError, SourceError


def choose(
    source: str,
    *,
    maps: Sequence[tuple[str, tuple[int, int, int]]],
    pick: str | int | None,
    others: Sequence[str] = (),
) -> int:
    """Return the index of the spectrum image to read.

    Parameters
    ----------
    source
        The file, for the messages.
    maps
        Name and shape (rows, columns, channels) of every spectrum image in it.
    pick
        Name or 1-based number (a number may come as text); None where the file must have exactly one.
    others
        What else the file holds, for the message where it holds no map.

    Raises
    ------
    SourceError
        No spectrum image, or several and no ``pick``.
    ParameterError
        ``pick`` names none of them.
    """
    if not maps:
        raise SourceError(
            source,
            found="no spectrum image" + (f", but {'; '.join(others)}" if others else ""),
            expected="counts over two spatial axes and one energy axis",
            fix="export the map itself (hypermap, data cube) from the microscope's software",
        )
    listed = ", ".join(f"{i} {name!r} {shape}" for i, (name, shape) in enumerate(maps, 1))
    if pick is None:
        if len(maps) == 1:
            return 0
        raise SourceError(
            source,
            found=f"{len(maps)} spectrum images (rows, columns, channels): {listed}",
            expected="one, or a choice",
            fix="add --map NUMBER, or pick=NUMBER in Python",
        )
    names = [name for name, _ in maps]
    if isinstance(pick, str) and names.count(pick) == 1:
        return names.index(pick)
    number = int(pick) if isinstance(pick, int) or pick.isdecimal() else 0
    if not 1 <= number <= len(maps):
        raise ParameterError(
            f"spectrum image of {source}",
            found=repr(pick),
            expected=f"the number or name of one of: {listed}",
            fix="--map NUMBER, or pick=NUMBER in Python",
        )
    return number - 1
