"""What the README tells a user to type works, on a small map.bcf that is made here.

Changed before it runs: the minimum size (the map is small), the store of the Python code, and the budget of calls
within this process, which is large by now. Figures of reports are made, but no pictures of them: those would take most
of the time, and are tested where the report is.
"""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from matplotlib.figure import Figure

from eds_chunked import figures
from eds_chunked.cli import main
from eds_chunked.synthetic import rock
from tests import bcf_files
from tests.dask_processes import DaskProcesses
from tests.ripple_files import write_ripple

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)
PYTHON = [text for kind, text in BLOCKS if kind == "python"]
COMMANDS = [
    line.split("#")[0].strip()
    for kind, text in BLOCKS
    if kind == ""
    for line in text.splitlines()
    if line.startswith("eds-chunked ")
]

pytestmark = [
    pytest.mark.filterwarnings("ignore::eds_chunked.grains.statistics.FewGrainsWarning"),
    pytest.mark.filterwarnings("ignore:.*file's sum spectrum.*"),
    # Here no conversion was stopped.
    pytest.mark.filterwarnings("ignore:.*nothing to resume"),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with map.bcf and map.rpl of one rock."""
    folder = tmp_path_factory.mktemp("readme")
    made = rock((78, 94, 512), counts_per_pixel=200, grain_size=8, energy_scale=0.04, energy_offset=-0.48)
    cube = np.zeros(made.header.shape, np.uint16)
    for band in made.bands(16):
        counts = band.counts
        rows = np.repeat(np.arange(counts.n_pixels), np.diff(counts.indptr))
        cube.reshape(-1, 512)[band.y0 * 94 + rows, counts.channel] = counts.value
    bcf_files.write(folder / "map.bcf", [cube], scale=0.04, offset=-0.48)
    write_ripple(folder / "map.rpl", cube, keys={"depth-scale": 0.04, "depth-origin": 0, "depth-units": "keV"})
    return folder


@pytest.fixture(autouse=True)
def _there(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)


PICTURE = figures.png(Figure(figsize=(0.1, 0.1)))
ALONE = f"""
from eds_chunked import figures
from eds_chunked.cli import main
figures.png = lambda figure: {PICTURE!r}
main()
"""


@pytest.fixture
def _small_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "png", lambda figure: PICTURE)


def test_the_readme_has_both() -> None:
    assert len(PYTHON) == 1
    assert len(COMMANDS) > 10


@pytest.fixture(scope="module")
def scheduler(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a cluster, as the README has the user start one."""
    cluster = DaskProcesses(tmp_path_factory.mktemp("dask"))
    try:
        cluster.start(1)
        yield cluster.address
    finally:
        cluster.stop()


@pytest.mark.usefixtures("_small_pictures")
def test_the_commands(place: Path, scheduler: str) -> None:
    for command in COMMANDS:
        command = command.replace("tcp://host:8786", scheduler)
        words = shlex.split(command)[1:]
        if "--min-size" in words:
            words[words.index("--min-size") + 1] = "3"  # 50 pixels are a lot on a map this small
        if "--memory" in words:
            # A budget is of a whole process, and this one has run many tests.
            alone = subprocess.run([sys.executable, "-c", ALONE, *words], capture_output=True, text=True)
            assert alone.returncode == 0, f"{command}\n{alone.stderr}"
            continue
        done = CliRunner().invoke(main, words)
        assert done.exit_code == 0, f"{command}\n{done.output}"
    for name in ("map-results/report.html", "sizes.png", "map.html", "map.hspy", "model.zarr/zarr.json"):
        assert (place / name).exists(), name


@pytest.mark.usefixtures("_small_pictures")
def test_the_python(place: Path) -> None:
    code = PYTHON[0].replace('"map.zarr", memory', '"again.zarr", memory').replace('"map.zarr"', '"again.zarr"')
    code = code.replace("min_size=100", "min_size=3").replace(', memory="1GB"', "")
    exec(compile(code, "README.md", "exec"), {})
    assert (place / "map.html").read_text().startswith("<!")
