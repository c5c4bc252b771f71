"""While several blocks are in work, BLAS and OpenMP have one thread each."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import xarray as xr
from sklearn.decomposition import MiniBatchNMF
from threadpoolctl import threadpool_info, threadpool_limits

import eds_chunked as edc
from eds_chunked import memory
from eds_chunked.engine import lanes
from eds_chunked.in_order import in_order

SHAPE = (37, 41, 48)


@pytest.fixture(scope="module")
def ds(tmp_path_factory: pytest.TempPathFactory) -> xr.Dataset:
    rock = edc.synthetic.rock(SHAPE, counts_per_pixel=150, n_phases=2, grain_size=12, energy_scale=0.4)
    return edc.convert(rock, tmp_path_factory.mktemp("blas") / "map.zarr")


def pools(*, of: str = "") -> list[int]:
    return [int(pool["num_threads"]) for pool in threadpool_info() if of in ("", pool["user_api"])]


@pytest.fixture
def several_threads(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(memory, "n_cpus", lambda: 3)
    with threadpool_limits(2):
        if max(pools()) < 2:
            pytest.skip("no library with threads of its own")
        yield
        assert max(pools()) == 2, "the limit of the caller is put back"


STEPS: dict[str, Callable[[xr.Dataset], object]] = {
    "gram": lambda ds: edc.pca(ds, n_components=2, solver="gram"),
    "randomized": lambda ds: edc.pca(ds, n_components=2, solver="randomized"),
    "incremental": lambda ds: edc.pca(ds, n_components=2, solver="incremental"),
    "nmf": lambda ds: edc.nmf(ds, n_components=2, max_epochs=1),
    "blockwise": lambda ds: edc.nmf(ds, n_components=2, max_epochs=1, solver="blockwise"),
    "minibatch": lambda ds: edc.nmf(ds, n_components=2, max_epochs=1, solver="minibatch"),
    "stability": lambda ds: edc.component_stability(ds, n_components=[2], max_epochs=1),
    "decompose": lambda ds: edc.decompose(ds, MiniBatchNMF(2, random_state=0)),
    "residual": lambda ds: edc.residual(ds, edc.nmf(ds, n_components=2, max_epochs=1)),
}


@pytest.mark.parametrize("name", STEPS)
def test_in_every_lane_of_a_step(
    name: str, ds: xr.Dataset, several_threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    counted = lanes._LaneTask._counted

    def watched(self: lanes._LaneTask) -> Iterator[Any]:
        for block in counted(self):
            seen.extend(pools())
            yield block

    monkeypatch.setattr(lanes._LaneTask, "_counted", watched)
    STEPS[name](ds)
    assert seen
    assert set(seen) == {1}


def test_in_work_that_is_done_in_order(several_threads: None) -> None:
    assert {threads for seen in in_order(lambda _: pools(), range(5), workers=3) for threads in seen} == {1}


@pytest.mark.parametrize("method", ["kmeans", "gaussian"])
def test_in_the_blocks_that_are_clustered(
    method: str, ds: xr.Dataset, several_threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from eds_chunked.phases import clustering

    seen: list[int] = []
    features = clustering._features

    def watched(*given: Any) -> Any:
        seen.extend(pools(of="blas"))  # nothing there uses OpenMP
        return features(*given)

    monkeypatch.setattr(clustering, "_features", watched)
    result = edc.pca(ds, n_components=2, solver="gram")
    edc.cluster(result, n_clusters=2, components=[1, 2], method=method)  # type: ignore[arg-type]
    assert set(seen) == {1}
