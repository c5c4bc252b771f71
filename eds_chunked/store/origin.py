"""What a map is converted from: facts that tell one source from another, without reading all of it."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

from eds_chunked.readers.base import MapHeader

_SAMPLE = 2**20
_SAMPLED_FILES = 64
_DOCUMENTS = (".zarray", ".zattrs", "zarr.json")

PATH = "path"


def source_facts(header: MapHeader) -> dict[str, Any]:
    """Return what is known of a source, as JSON types.

    Of its header shape, dtype and title; of its files the size and a digest of the first and the last MiB. Two files of
    one size that differ only in between are taken for one. Of a folder the digest is of the names and sizes of all its
    files, of the documents of Zarr, and of the ends of 64 files that are spread over it.
    """
    path = Path(header.source)
    files = _files(path)
    facts: dict[str, Any] = {
        PATH: os.path.abspath(path) if files else header.source,
        "title": header.title,
        "shape": list(header.shape),
        "dtype": header.dtype.name,
    }
    if files:
        facts["size"] = sum(file.stat().st_size for file in files)
        content = hashlib.sha256()
        if path.is_dir():
            content.update("".join(f"{file.relative_to(path)} {file.stat().st_size}\n" for file in files).encode())
            files = _some_of_many(files)
        for file in files:
            content.update(_ends(file))
        facts["content"] = content.hexdigest()
    return facts


def differences(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Return in words what tells two sources apart; where they lie does not."""
    names = [name for name in {**then, **now} if name != PATH]
    differing = [name for name in names if then.get(name) != now.get(name)]
    if differing == ["content"]:
        return ["another content"]
    differing = [name for name in differing if name != "content"]
    return [f"{name} {_text(now.get(name))} in place of {_text(then.get(name))}" for name in differing]


def _text(value: Any) -> str:
    return " x ".join(map(str, value)) if isinstance(value, list) else repr(value)


def _files(path: Path) -> list[Path]:
    """Return the files that hold the map: one, the two of .rpl/.raw, or the many of a folder."""
    if path.is_dir():
        return sorted(file for file in path.rglob("*") if file.is_file())
    if not path.is_file():
        return []
    if path.suffix.lower() not in (".rpl", ".raw"):
        return [path]
    pair = (".rpl", ".raw")
    return sorted(file for file in path.parent.glob(f"{_escaped(path.stem)}.*") if file.suffix.lower() in pair)


def _some_of_many(files: list[Path]) -> list[Path]:
    """Return files of a folder to look into: by the ends of all, a folder of many would be read nearly whole."""
    step = max(1.0, (len(files) - 1) / (_SAMPLED_FILES - 1))
    spread = {round(i * step) for i in range(min(_SAMPLED_FILES, len(files)))}
    return [file for number, file in enumerate(files) if number in spread or file.name in _DOCUMENTS]


def _escaped(stem: str) -> str:
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in stem)


def _ends(file: Path) -> bytes:
    with file.open("rb") as opened:
        size = opened.seek(0, os.SEEK_END)
        opened.seek(0)
        first = opened.read(_SAMPLE)
        opened.seek(max(len(first), size - _SAMPLE))
        return first + opened.read(_SAMPLE)
