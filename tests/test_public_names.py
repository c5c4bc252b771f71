"""The public names: there, documented, light to import, and not the names of modules."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import eds_chunked as edc

PACKAGE = Path(edc.__file__).parent
MODULE_NAMES = {path.stem for path in PACKAGE.glob("*.py")} | {path.name for path in PACKAGE.iterdir() if path.is_dir()}
FUNCTIONS = sorted(name for name in edc.__all__ if name not in MODULE_NAMES)


def test_the_names_of_the_design_are_there() -> None:
    wanted = """convert open load save open_tree calibrate pca nmf advise_components segment_phases phase_spectra
    reconstruct separate_grains grain_size_statistics write_report export run"""
    assert set(wanted.split()) <= set(FUNCTIONS)


def test_no_module_has_the_name_of_a_function() -> None:
    # With lazy imports the second access would give the module.
    every_module = {path.stem for path in PACKAGE.rglob("*.py")}
    assert every_module.isdisjoint(set(FUNCTIONS) - {"export"}), every_module & set(FUNCTIONS)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_documented(name: str) -> None:
    thing = getattr(edc, name)
    assert inspect.getdoc(thing)
    if inspect.isclass(thing):
        return
    document = inspect.getdoc(thing) or ""
    for parameter in inspect.signature(thing).parameters.values():
        if parameter.kind is not parameter.VAR_KEYWORD and len(inspect.signature(thing).parameters) > 1:
            assert parameter.name in document, f"{name} does not document {parameter.name}"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_only_the_data_is_positional(name: str) -> None:
    thing = getattr(edc, name)
    if inspect.isclass(thing):
        return
    positional = [p.name for p in inspect.signature(thing).parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert len(positional) <= 2


@pytest.mark.parametrize("statement", ["import eds_chunked", "from eds_chunked.cli import main"])
def test_import_is_light(statement: str) -> None:
    heavy = ["numpy", "xarray", "dask", "zarr", "numba", "sklearn", "skimage", "matplotlib", "distributed", "hyperspy"]
    program = f"{statement}\nimport sys\nprint([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ast.literal_eval(done.stdout) == []


def test_accessor_is_there_after_the_first_call() -> None:
    program = "import eds_chunked as edc, xarray as xr; edc.open; print(hasattr(xr.Dataset, 'eds'))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"
