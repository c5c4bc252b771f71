"""The notebooks run from top to bottom as they are, warn of nothing but few grains, and are stored without outputs."""

import os
import re
import sys
from pathlib import Path

import ipykernel.kernelspec
import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
SECONDS = 200


def test_there_are_notebooks():
    assert NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebook_is_stored_without_outputs(path):
    for cell in nbformat.read(path, as_version=4).cells:
        assert not cell.get("outputs"), f"cell {cell.id} has outputs"
        assert cell.get("execution_count") is None, f"cell {cell.id} has a number"


@pytest.fixture
def python3(tmp_path, monkeypatch):
    """A kernel of this very interpreter, whatever other ``python3`` or start-up files this machine has."""
    ipykernel.kernelspec.write_kernel_spec(str(tmp_path / "jupyter" / "kernels" / "python3"))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    # As in an environment that is active: the notebooks call eds-chunked.
    monkeypatch.setenv("PATH", os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    return "python3"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebook_runs(path, python3, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(
        notebook, timeout=SECONDS, kernel_name=python3, resources={"metadata": {"path": str(folder)}}
    ).execute()

    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert "command not found" not in "".join(output.text for output in outputs if output.get("name") == "stdout")
    # stderr is red in a notebook: a student should meet it only where there is something to know.
    said = "".join(output.text for output in outputs if output.get("name") == "stderr")
    assert set(re.findall(r"\b(\w+Warning|\w+Error): ", said)) <= {"FewGrainsWarning"}, said
