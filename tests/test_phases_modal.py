"""The modal table closes to 100 % and hides nothing."""

import json
import math
import shlex
import shutil
from decimal import Decimal
from fractions import Fraction

import dask.array as da
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from click.testing import CliRunner
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from eds_chunked import schema
from eds_chunked.cli import main
from eds_chunked.decomposition.nonnegative import nmf
from eds_chunked.errors import ChunkLayoutError, ParameterError
from eds_chunked.grains.split import separate_grains
from eds_chunked.phases import modal
from eds_chunked.phases.contacts import boundary_bias
from eds_chunked.phases.modal import modal_table
from eds_chunked.phases.naming import merge_phases
from eds_chunked.phases.percent import closed_percent
from eds_chunked.phases.segment import segment_phases
from eds_chunked.store.conversion import convert
from eds_chunked.store.opening import open_map
from eds_chunked.store.results import load, load_fresh, newest, refresh_command, save
from tests.decomposition_maps import ArrayReader, assert_same_bits, ragged, rock_counts, small_rock


def made_phases(label, n_phases, *, size=(0.5, 0.25), units=schema.MICROMETRE):
    label = np.asarray(label, np.uint8)
    # Phase 1 has the whole map under its mask, the others nothing but their labels: masks overlap.
    mask = np.stack([(label == k) | (k == 1) for k in range(1, n_phases + 1)])
    return xr.Dataset(
        {
            schema.MASK: ((schema.PHASE, schema.Y, schema.X), mask),
            schema.LABEL: ((schema.Y, schema.X), label),
        },
        coords={
            schema.PHASE: np.arange(1, n_phases + 1),
            schema.Y: (schema.Y, np.arange(label.shape[0]) * size[0], {"units": units}),
            schema.X: (schema.X, np.arange(label.shape[1]) * size[1], {"units": units}),
        },
    )


def assert_closed(percent):
    """Whatever adds them up, and however: exactly 100."""
    values = percent.to_numpy()
    assert values.sum() == sum(values.tolist()) == math.fsum(values) == percent.sum() == 100.0
    assert np.cumsum(values)[-1] == np.cumsum(np.sort(values))[-1] == np.cumsum(values[::-1])[-1] == 100.0


LABEL = np.array([[1, 1, 1, 0, 255, 255, 3], [1, 3, 3, 0, 0, 255, 3]])


def test_every_number_by_hand():
    table = modal_table(made_phases(LABEL, 3))
    assert list(table.columns) == [
        *("phase", "n_pixels", "area_um2", "area_percent", "mask_percent"),
        *("area_percent_low", "area_percent_high"),
    ]
    assert table["phase"].tolist() == ["1", "2", "3", "unassigned", "mixed"]
    assert table["n_pixels"].tolist() == [4, 0, 4, 3, 3]
    assert table["area_um2"].tolist() == [0.5, 0.0, 0.5, 0.375, 0.375]
    np.testing.assert_allclose(table["area_percent"], np.array([4, 0, 4, 3, 3]) / 14 * 100)
    np.testing.assert_allclose(table["mask_percent"], [100, 0, 4 / 14 * 100, np.nan, np.nan])


@settings(max_examples=50, deadline=None)
@given(
    n_phases=st.integers(1, 254),
    seed=st.integers(0, 9999),
    shape=st.sampled_from([(1, 1), (7, 11), (31, 47), (1, 13)]),
)
def test_areas_always_close_to_100_percent(n_phases, seed, shape):
    values = [schema.UNASSIGNED, *range(1, n_phases + 1), schema.MIXED]
    label = np.random.default_rng(seed).choice(values, shape)
    table = modal_table(made_phases(label, n_phases))
    assert len(table) == n_phases + 2
    assert table["n_pixels"].sum() == label.size
    assert_closed(table["area_percent"])
    np.testing.assert_allclose(table["area_percent"], 100 * table["n_pixels"] / label.size, rtol=0, atol=2e-14)
    for number, row in zip([*values[1:-1], 0, 255], table["n_pixels"], strict=True):
        assert row == np.count_nonzero(label == number)


def test_a_map_without_pixel_size_says_so():
    table = modal_table(made_phases(LABEL, 3, size=(1, 1), units=schema.UNCALIBRATED))
    assert "area_um2" not in table
    assert table["area_px"].tolist() == table["n_pixels"].tolist()
    bare = made_phases(LABEL, 3).drop_vars([schema.Y, schema.X])
    assert modal_table(bare)["area_px"].tolist() == [4, 0, 4, 3, 3]


def test_a_selection_is_counted_anew():
    phases = made_phases(LABEL, 3)
    phases = phases.assign(
        {schema.LABEL: (phases[schema.LABEL].dims, da.from_array(phases[schema.LABEL].values, chunks=2))}
    )
    table = modal_table(phases.isel(x=slice(0, 3)))
    assert table["n_pixels"].tolist() == [4, 0, 2, 0, 0]
    assert table["area_percent"].sum() == pytest.approx(100, rel=1e-13)
    assert table["mask_percent"].tolist()[0] == 100


def test_labels_without_a_row_are_an_error():
    with pytest.raises(ParameterError, match=r"'label': found \[3\], expected 0, 1 to 2, or 255"):
        modal_table(made_phases(LABEL, 3).isel(phase=[0, 1]))
    with pytest.raises(ParameterError, match="no pixels"):
        modal_table(made_phases(LABEL, 3).isel(x=slice(0, 0)))
    with pytest.raises(ChunkLayoutError, match="mask"):
        modal_table(made_phases(LABEL, 3).drop_vars(schema.MASK))


# ---------------------------------------------------------------------------------------------- left out
def with_left_out(label, n_phases, left_out):
    phases = made_phases(label, n_phases)
    return phases.assign_coords({schema.ANALYSED_PIXEL: ((schema.Y, schema.X), ~left_out)})


def test_pixels_left_out_have_a_row_and_the_table_still_closes():
    left_out = np.zeros(LABEL.shape, bool)
    left_out[:, 3] = True  # both are without a phase
    left_out[0, 0] = True  # was given a phase all the same, on request
    table = modal_table(with_left_out(LABEL, 3, left_out))
    assert table["phase"].tolist() == ["1", "2", "3", "unassigned", "mixed", "left out"]
    assert table["n_pixels"].tolist() == [4, 0, 4, 1, 3, 2]
    assert table["area_percent"].sum() == pytest.approx(100, rel=1e-13)
    assert np.isnan(table["mask_percent"].iloc[-1])
    assert len(modal_table(with_left_out(LABEL, 3, np.zeros(LABEL.shape, bool)))) == 5


# ---------------------------------------------------------------------------------------------- intervals
def grains(rng, share, *, shape=(240, 300), radius=6):
    """Return a map of discs thrown at random until they cover ``share`` of the plane: a Boolean model."""
    margin = radius
    area = (shape[0] + 2 * margin) * (shape[1] + 2 * margin)
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    disc = y**2 + x**2 <= radius**2
    n = rng.poisson(-np.log(1 - share) * area / disc.sum())
    covered = np.zeros((shape[0] + 4 * radius, shape[1] + 4 * radius), bool)
    for row, column in zip(
        rng.integers(0, shape[0] + 2 * radius, n), rng.integers(0, shape[1] + 2 * radius, n), strict=True
    ):
        covered[row : row + 2 * radius + 1, column : column + 2 * radius + 1] |= disc
    return 1 + covered[2 * radius : -2 * radius, 2 * radius : -2 * radius]


def test_the_interval_says_how_it_came_about_and_follows_its_seed():
    label = np.random.default_rng(3).choice([0, 1, 2], (31, 47))
    table = modal_table(made_phases(label, 2), blocks=16)
    assert table.attrs["interval"] == "95 %, bootstrap of 15 blocks, 2000 samples, seed 0"
    ends = ["area_percent_low", "area_percent_high"]
    again, other = (modal_table(made_phases(label, 2), blocks=16, seed=seed) for seed in (0, 7))
    pd.testing.assert_frame_equal(again, table, check_exact=True)
    assert not np.array_equal(other[ends], table[ends])
    np.testing.assert_allclose(other[ends], table[ends], atol=0.5)
    few = modal_table(made_phases(label, 2), blocks=1)
    assert few.attrs["interval"] == "none: 1 blocks, 4 are needed"
    for seed in (-1, "a"):
        with pytest.raises(ParameterError, match="seed: found"):
            modal_table(made_phases(label, 2), seed=seed)


def test_the_interval_holds_the_share_of_the_rock():
    """Blocks of 48 x 60 pixels, discs of 13: nearly 95 %. As if pixels were independent it would be a few percent."""
    rng = np.random.default_rng(11)
    hits, widths = [], []
    for _ in range(100):
        row = modal_table(made_phases(grains(rng, 0.3), 2)).iloc[1]
        assert row["area_percent_low"] < row["area_percent"] < row["area_percent_high"]
        hits.append(row["area_percent_low"] <= 30 <= row["area_percent_high"])
        widths.append(row["area_percent_high"] - row["area_percent_low"])
    assert 0.87 <= np.mean(hits) <= 0.995
    as_if_independent = 2 * 1.96 * 100 * np.sqrt(0.3 * 0.7 / (240 * 300))
    assert np.mean(widths) > 5 * as_if_independent


@settings(max_examples=10, deadline=None)
@given(chunks=st.tuples(ragged(31), ragged(47)), blocks=st.sampled_from([1, 4, 64, 5000]))
def test_the_same_table_for_every_chunking_and_twice(chunks, blocks):
    label = np.random.default_rng(3).choice([0, 1, 2, 3, 255], (31, 47))
    phases = made_phases(label, 3)
    lazy = phases.assign({schema.LABEL: (phases[schema.LABEL].dims, da.from_array(label.astype(np.uint8), chunks))})
    expected = modal_table(phases, blocks=blocks)
    pd.testing.assert_frame_equal(modal_table(lazy, blocks=blocks), expected, check_exact=True)
    assert expected["area_percent_low"].isna().all() == (blocks == 1)


def test_blocks_are_square_on_the_section_and_cover_every_pixel_once():
    label = np.random.default_rng(3).choice([0, 1], (40, 40))
    # Pixels twice as high as wide: 8 blocks are 4 high and 2 wide.
    counts = modal._counts_of_blocks(made_phases(label, 1), 8, 2.0)
    assert counts.shape == (8, 257)
    assert counts.sum(axis=1).tolist() == [200] * 8
    assert counts[0, 1] == np.count_nonzero(label[:10, :20] == 1)
    assert counts[3, 1] == np.count_nonzero(label[10:20, 20:] == 1)


# ---------------------------------------------------------------------------------------------- weights
def test_weights_by_hand(tmp_path):
    phases = merge_phases(made_phases(LABEL, 3), names={3: "iron, native"})
    path = tmp_path / "densities.csv"
    path.write_text('\ufeffname,density_g_cm3,phase\nx,2.5, 1\ny,7.5,"iron, native"\n\nz,,2\n', encoding="utf-8")
    for densities in (path, str(path), {1: 2.5, "iron, native": 7.5}, {"1": 2.5, 3: 7.5}):
        table = modal_table(phases, densities=densities)
        assert table["weight_percent"].tolist()[:1] + table["weight_percent"].tolist()[2:3] == [25, 75]
        assert table["weight_percent"].isna().tolist() == [False, True, False, True, True]
        assert table["density_g_cm3"].tolist()[:1] == [2.5]
        assert table["weight_reason"].tolist() == ["", "no density", "", *["no phase, not weighed"] * 2]
    table = modal_table(phases, densities={1: 2.5, 3: 7.5, "mixed": 5})
    np.testing.assert_allclose(table["weight_percent"], [1000 / 55, np.nan, 3000 / 55, np.nan, 1500 / 55])


@settings(max_examples=50, deadline=None)
@given(
    parts=st.lists(st.integers(0, 10**9) | st.floats(0, 1e6, allow_subnormal=False), min_size=1, max_size=40),
    decimals=st.sampled_from([None, 0, 2, 4]),
)
def test_percent_closes(parts, decimals):
    assume(sum(parts) > 0)
    found = closed_percent(parts, decimals=decimals)
    whole = sum(map(Fraction, parts))
    if decimals is None:
        assert_closed(pd.Series(found))
        step = Fraction(1, 2**46)
    else:
        # As it is printed.
        assert sum(Decimal(f"{percent:.{decimals}f}") for percent in found) == 100
        step = Fraction(1, 10**decimals)
    for part, percent in zip(parts, found, strict=True):
        assert abs(Fraction(percent) - 100 * Fraction(part) / whole) <= step * (1 + Fraction(1, 10**6))
        assert part or not percent


def test_steps_that_are_missing_go_to_those_that_lost_most():
    assert closed_percent([1, 1, 1], decimals=2).tolist() == [33.34, 33.33, 33.33]
    assert closed_percent([1, 0, 5], decimals=0).tolist() == [17, 0, 83]
    assert closed_percent([2, 2, 3], decimals=1).tolist() == [28.6, 28.6, 42.8]
    assert closed_percent([0, 3]).tolist() == [0, 100]


def test_weights_close_as_areas_do():
    label = np.random.default_rng(3).choice([0, 1, 2, 3, 255], (31, 47))
    densities = {1: 2.6543, 2: 3.1, 3: 7.77, "mixed": 2.9}
    weights = modal_table(made_phases(label, 3), densities=densities)["weight_percent"].dropna()
    assert len(weights) == 4
    assert_closed(weights)
    mass = [np.count_nonzero(label == k) * d for k, d in zip((1, 2, 3, 255), densities.values(), strict=True)]
    np.testing.assert_allclose(weights, 100 * np.array(mass) / sum(mass), rtol=1e-13)


def test_a_map_of_one_label_and_one_without_phases():
    for label, names in (
        (np.zeros((5, 7)), ["unassigned"]),
        (np.full((5, 7), 2), ["2"]),
        (np.full((5, 7), 255), ["mixed"]),
    ):
        table = modal_table(made_phases(label, 3), densities={1: 2.6, 2: 3, 3: 4})
        assert table["phase"].tolist() == ["1", "2", "3", "unassigned", "mixed"]
        assert table["phase"][table["area_percent"] == 100].tolist() == names
        assert_closed(table["area_percent"])
        weight = table["weight_percent"].dropna().tolist()
        assert weight == ([0, 100, 0] if names == ["2"] else [])
        if not weight:
            assert set(table["weight_reason"]) == {"nothing to weigh", "no phase, not weighed"}


def test_a_missing_density_is_told_and_loses_nothing():
    table = modal_table(made_phases(LABEL, 3), densities={1: 2.65})
    assert table["weight_percent"].isna().all()
    assert table["weight_reason"].tolist()[:3] == ["no density of phase 3: total not known", "no density", "no density"]
    assert table["area_percent"].sum() == pytest.approx(100)


@pytest.mark.parametrize(
    ("densities", "match"),
    [
        ({4: 2}, "densities: found phase '4', expected each once: 1, 2, 3, unassigned, mixed"),
        ({"quartz": 2}, "found phase 'quartz'"),
        ({1: 2, "1": 3}, "found phase '1' twice"),
        ({1: 0}, "densities: phase '1': found 0, expected a density"),
        ({1: float("nan")}, "found nan"),
        ({1: "dense"}, "found 'dense'"),
        ("absent.csv", "absent.csv: found .*No such file"),
    ],
)
def test_bad_densities(densities, match):
    with pytest.raises(ParameterError, match=match):
        modal_table(made_phases(LABEL, 3), densities=densities)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("", r"found columns \[\]"),
        ("phase;density\n1;2", "found columns"),
        ("phase,density_g_cm3\n1\n", "row 2: found"),
    ],
)
def test_bad_files_of_densities(tmp_path, content, match):
    path = tmp_path / "densities.csv"
    path.write_text(content)
    with pytest.raises(ParameterError, match=match):
        modal_table(made_phases(LABEL, 3), densities=path)


def test_bad_blocks():
    with pytest.raises(ParameterError, match="blocks: found 0"):
        modal_table(made_phases(LABEL, 3), blocks=0)


# ---------------------------------------------------------------------------------------------- verbs
@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = str(tmp_path_factory.mktemp("modal") / "rock.zarr")
    convert(ArrayReader(rock_counts(small_rock((61, 67, 127)))), path)
    save(nmf(open_map(path), n_components=3, max_epochs=1), path)
    save(segment_phases(load(path, "nmf"), min_size=4), path)
    return path


def said(*arguments):
    done = CliRunner().invoke(main, [*arguments, "--json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_the_verb_modal(store, tmp_path):
    densities = tmp_path / "densities.csv"
    densities.write_text("phase,density_g_cm3\nfeldspar,2.6\n2,3.0\n")
    target = tmp_path / "modal.csv"
    asked = ["modal", store, "--merge", "feldspar=1,3", "--densities", str(densities), "--csv", str(target)]
    found = said(*asked)["modal"]
    assert [row["phase"] for row in found] == ["feldspar", "2", "unassigned", "mixed"]
    assert sum(row["weight_percent"] or 0 for row in found) == pytest.approx(100)
    pd.testing.assert_frame_equal(pd.read_csv(target, keep_default_na=False)[["phase"]], pd.DataFrame(found)[["phase"]])
    done = CliRunner().invoke(main, asked)
    assert done.exit_code == 0
    assert "weight %" in done.stdout
    assert "95 % interval" in done.stdout
    assert "bootstrap of 28 blocks, 2000 samples, seed 0" in " ".join(done.stdout.split())
    # Also what is printed closes, to the last decimal.
    printed = [line.split() for line in done.stdout.splitlines() if line.split()[:1] in (["feldspar"], ["2"])]
    printed += [line.split() for line in done.stdout.splitlines() if line.startswith(("unassigned ", "mixed "))]
    assert sum(Decimal(row[3]) for row in printed) == 100
    assert sum(Decimal(row[-1]) for row in printed if row[-1] != "-") == 100
    again = said(*asked, "--seed", "5", "--blocks", "9")
    assert again["interval"] == "95 %, bootstrap of 8 blocks, 2000 samples, seed 5"
    written = pd.read_csv(target)
    assert_closed(written["area_percent"])
    assert_closed(written["weight_percent"].dropna())
    assert "unassigned: no phase, not weighed." in done.stdout


def test_the_verb_association(store, tmp_path):
    target, picture = tmp_path / "association.csv", tmp_path / "association.png"
    asked = [
        "association",
        store,
        "--merge",
        "resin=2",
        "--free",
        "resin",
        "--csv",
        str(target),
        "--plot",
        str(picture),
    ]
    found = said(*asked)
    assert {row["neighbour"] for row in found["contacts"]} >= {"1", "resin", "3"}
    assert found["csv"] == [str(tmp_path / f"association{end}.csv") for end in ("", "_surfaces", "_inclusions")]
    for file, name in zip(found["csv"], ("contacts", "surfaces", "inclusions"), strict=True):
        written = pd.read_csv(file)
        assert len(written) == len(found[name])
        assert any(column.endswith(("_um", "_um2")) for column in written.columns)
    assert picture.stat().st_size > 10_000
    done = CliRunner().invoke(main, asked)
    assert done.exit_code == 0, done.output
    low, high = boundary_bias(0.5, 0.25)
    assert f"{100 * low:+.1f} % to {100 * high:+.1f} %" in done.stdout


def test_names_travel_to_grains_and_their_sizes(store, tmp_path):
    store = shutil.copytree(store, tmp_path / "rock.zarr").as_posix()
    merged = merge_phases(load(store, "phases/k3"), merges={"feldspar": [1, 3]}, names={2: "quartz"})
    save(merged, store)
    save(separate_grains(load(store, "phases/k3-merged"), min_size=2), store)
    target = tmp_path / "sizes.csv"
    found = said("sizes", store, "--from", "grains/k3-merged", "--csv", str(target))["grain_sizes"]
    assert [row["name"] for row in found] == ["feldspar", "quartz"]
    written = pd.read_csv(target, keep_default_na=False)
    assert written["name"].tolist() == ["feldspar", "quartz"]
    assert {"median_um", "geometric_mean_ci_low_um", "edge_rule", "size_rule", "reason"} <= set(written)
    assert all("under 2 pixels" in rule for rule in written["size_rule"])
    shown = CliRunner().invoke(main, ["sizes", store, "--from", "grains/k3-merged"])
    assert shown.exit_code == 0
    assert "feldspar" in shown.stdout
    assert "Fewer than 433 grains of phase" in shown.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["modal", "--merge", "feldspar"], "no name with phases such as feldspar=2,5"),
        (["modal", "--merge", "a=1", "--merge", "a=2"], "a name may be given once"),
        (["association", "--merge", "a=1,9"], "found [9], expected numbers of 1 to 3"),
        (["association", "--free", "resin"], "free: found ['resin']"),
    ],
)
def test_what_cannot_be_is_one_line(store, arguments, message):
    done = CliRunner().invoke(main, [arguments[0], store, *arguments[1:]])
    assert done.exit_code == 2
    assert len(done.stderr.splitlines()) == 1
    assert message in done.stderr


def test_merged_phases_are_a_result_of_their_own(store):
    merged = merge_phases(load(store, "phases/k3"), merges={"feldspar": [1, 3]}, names={2: "resin"})
    address = save(merged, store)
    assert address == "phases/k3-merged.r1"
    saved = load_fresh(store, "phases/k3-merged")
    assert_same_bits(saved.load(), merged)
    assert modal_table(saved)["phase"].tolist() == ["feldspar", "resin", "unassigned", "mixed"]
    command = refresh_command(store, newest(store, address))
    assert CliRunner().invoke(main, shlex.split(command)[1:]).exit_code == 0
    assert newest(store, "phases/k3-merged").number == 2
    assert_same_bits(load_fresh(store, "phases/k3-merged").load(), merged)
    assert load_fresh(store, "phases/k3")[schema.LABEL].max() > 2
