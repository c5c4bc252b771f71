"""``nmf`` on the command line: solvers, starts, spectra of another map, and the command that makes a result again."""

import json
import shlex

import numpy as np
import pytest
from click.testing import CliRunner

import eds_chunked as edc
from eds_chunked import schema
from eds_chunked.cli import main
from eds_chunked.store.results import newest, refresh_command
from tests.decomposition_maps import ArrayReader, made_counts


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    folder = tmp_path_factory.mktemp("nmf")
    paths = [str(folder / f"{name}.zarr") for name in ("map", "other")]
    for seed, path in enumerate(paths, start=51):
        edc.convert(ArrayReader(made_counts(seed=seed)), path)
    return paths


def nmf(store, *words):
    return CliRunner().invoke(main, ["nmf", store, *words])


def made(store, *words):
    done = nmf(store, *words, "--json")
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout)["address"]


def test_a_solver_and_a_loss_are_chosen(stores):
    address = made(stores[0], "-k", "3", "--solver", "blockwise", "--loss", "frobenius", "--no-early-stop",
                   "--max-epochs", "2", "--restarts", "2", "--name", "all3")  # fmt: skip
    found = edc.load(stores[0], address)
    kev = found[schema.ENERGY].values
    ds = edc.open(stores[0]).sel({schema.ENERGY: slice(kev[0], kev[-1])})
    expected = edc.nmf(ds, n_components=3, solver="blockwise", loss="frobenius", early_stop=False,
                       max_epochs=2, restarts=2)  # fmt: skip
    np.testing.assert_array_equal(found[schema.FACTORS], expected[schema.FACTORS])
    again = shlex.split(refresh_command(stores[0], newest(stores[0], address)))
    for words in (["--solver", "blockwise"], ["--loss", "frobenius"], ["--restarts", "2"], ["--no-early-stop"]):
        assert again[again.index(words[0]) : again.index(words[0]) + len(words)] == words
    assert CliRunner().invoke(main, again[1:]).exit_code == 0
    np.testing.assert_array_equal(edc.load(stores[0], "nmf/all3")[schema.FACTORS], found[schema.FACTORS])


def test_spectra_of_another_store_are_applied(stores):
    trained = edc.load(stores[0], made(stores[0], "-k", "3", "--name", "trained"))
    address = made(stores[1], "--fixed-factors", f"{stores[0]}:nmf/trained", "--name", "applied")
    applied = edc.load(stores[1], address)
    np.testing.assert_allclose(applied[schema.FACTORS], trained[schema.FACTORS], rtol=1e-12)
    # Where the spectra are from is not in this store: the user has to say it again.
    assert "--fixed-factors RESULT" in refresh_command(stores[1], newest(stores[1], address))


def test_a_saved_result_is_a_start(stores):
    address = made(stores[0], "-k", "3", "--name", "first")
    begun = made(stores[0], "--start", "nmf/first", "--name", "second", "--max-epochs", "1")
    assert f"--start {address.rsplit('.r', 1)[0]}" in refresh_command(stores[0], newest(stores[0], begun))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-k", "3", "--solver", "svd"], "solver: found 'svd', expected one of sample, blockwise, minibatch"),
        (["-k", "3", "--solver", "minibatch", "--loss", "poisson"], "loss: found 'poisson' with the solver"),
        (["-k", "3", "--start", "nmf/nothing"], "nmf/nothing"),
        (["--fixed-factors", "absent.zarr:nmf/k4"], "absent.zarr"),
        (["-k", "3", "--restarts", "0"], "restarts: found 0"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(stores, words, said):
    done = nmf(stores[0], *words)
    assert done.exit_code == 2
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
