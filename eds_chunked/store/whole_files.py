"""A file for other software that is there when it is whole, and not before."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from eds_chunked.errors import ParameterError, StoreExistsError
from eds_chunked.store.backend import room_at


@contextmanager
def written_whole(path: Path, *, overwrite: bool) -> Iterator[Path]:
    """Give a name beside ``path`` to write to; it is renamed when all went well, and removed otherwise.

    Raises
    ------
    ParameterError
        The folder does not exist.
    StoreExistsError
        ``path`` is a folder, or exists and ``overwrite`` is false.
    StoreFullError
        The disk is full.
    """
    _check_place(path, overwrite=overwrite)
    draft = path.with_name(f".{uuid.uuid4().hex}.part")
    try:
        with room_at(path):
            yield draft
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def _check_place(path: Path, *, overwrite: bool) -> None:
    if not path.parent.is_dir():
        raise ParameterError(
            f"export to {path}", found=f"no folder {path.parent}", expected="a folder that exists", fix="make it first"
        )
    if path.is_dir():
        raise StoreExistsError(f"export to {path}", found="a folder", expected="a new file", fix="choose another name")
    if path.exists() and not overwrite:
        raise StoreExistsError(
            f"export to {path}", found="a file", expected="a new file", fix="add --overwrite to replace it"
        )
