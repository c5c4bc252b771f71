"""Imports go down only, those inside functions included."""

import ast
from pathlib import Path

import pytest

import eds_chunked

PACKAGE = Path(eds_chunked.__file__).parent

# From the ground up. A module may import from its own floor and from those below.
FLOORS = [
    {"errors", "schema", "memory", "dry_run", "progress", "in_order", "xray_table", "dask_cluster"},
    {"kernels", "figures"},
    {"readers", "synthetic"},
    {"store"},
    {"engine"},
    {"decomposition", "phases", "grains"},
    {"report", "interchange"},
    {"workflow"},
    {"accessor", "explorer", "xarray_engine", "cli", "__init__"},
]
HEAVY = {"dask", "zarr", "xarray", "distributed", "matplotlib", "sklearn", "skimage", "hyperspy", "exspy"}


def floor(part: str) -> int:
    return next(level for level, parts in enumerate(FLOORS) if part in parts)


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path, *, everywhere: bool = True) -> set[str]:
    tree = ast.parse(path.read_text())
    body = ast.walk(tree) if everywhere else tree.body
    found = set()
    for node in body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


MODULES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down(path: Path) -> None:
    own = floor(part_of(path))
    for name in imports(path):
        parts = name.split(".")
        if parts[0] != "eds_chunked" or len(parts) < 2:
            continue
        known = [level for level, members in enumerate(FLOORS) if parts[1] in members]
        assert known, f"{name} is on no floor"
        assert known[0] <= own, f"{path.name} imports {name} from a floor above"


@pytest.mark.parametrize("path", sorted((PACKAGE / "kernels").rglob("*.py")), ids=lambda path: path.name)
def test_kernels_know_plain_arrays_only(path: Path) -> None:
    assert {name.split(".")[0] for name in imports(path)}.isdisjoint(HEAVY)


@pytest.mark.parametrize(
    "name", ["errors", "schema", "memory", "dry_run", "progress", "in_order", "xray_table", "dask_cluster"]
)
def test_words_import_nothing_heavy(name: str) -> None:
    found = {module.split(".")[0] for module in imports(PACKAGE / f"{name}.py", everywhere=False)}
    assert found.isdisjoint(HEAVY | {"numba"})
