"""The benchmark of elements runs on a rock, knows what is there, and counts right what is found."""

import numpy as np
import pytest

from benchmarks import elements
from benchmarks.element_rocks import Instrument, Mineral, clearest_lines, expected, mixed
from benchmarks.element_sets import DEVELOPMENT

QUARTZ = Mineral("quartz", {"Si": 1, "O": 2})
HALITE = Mineral("halite", {"Na": 1, "Cl": 1})


def test_a_rock_is_looked_at():
    sets = {"held out": [("salt", (QUARTZ, HALITE))]}
    found = list(elements.outcomes(sets, doses=[3e4], instruments={"as stated": Instrument(offset=0.005)}))
    assert [one.mineral for one in found] == ["quartz", "halite"]
    assert found[0].clear == found[0].found == ["O", "Si"]
    assert found[1].found == ["Cl", "Na"]
    assert not any(one.false for one in found)
    text = elements.report(found)
    assert "| 30000 | 2 | 4 | 1.000 | 4 | 1.000 | 0 | 0 | 0.000 | 0 |" in text
    assert "held out, false: none." in text


def test_oxygen_of_heavy_oxides_is_found_and_no_nitrogen_beside_it():
    # M lines of Ce set the axis; the M edge of Sn lies beside the K edge of O.
    names = ("cerianite", "romarchite")
    oxides = [mineral for _, rock in DEVELOPMENT for mineral in rock if mineral.name in names]
    found = list(elements.outcomes({"development": [("oxides", oxides)]}, doses=[3e5]))
    assert [one.mineral for one in found] == list(names)
    assert all({"C", "O"} <= set(one.found) for one in found)
    assert not any("N" in one.false for one in found)


def test_counts_and_peaks_are_where_they_should_be():
    at = Instrument(offset=0.01, escape=0.0, pile_up=0.0, tail=0.0, strobe=0.0)
    drawn = expected(QUARTZ, 1e5, at)
    assert drawn.total.sum() == pytest.approx(1e5, rel=0.01)
    # The axis reads 10 eV too low.
    assert at.energy[int(np.argmax(drawn.total))] == pytest.approx(1.74 - 0.01, abs=0.006)
    clearest = clearest_lines(drawn, at)["Si"]
    assert clearest.line == "Si Ka"
    assert 0.5 < clearest.by_counts / np.sqrt(drawn.lines["Si Ka"].sum()) < 1


def test_a_line_beside_nothing_is_bound_by_its_counts_and_one_under_another_by_what_is_known_of_that():
    at, names = Instrument(), ("V", "Ti")
    alone = clearest_lines(expected(Mineral("vanadium", {"V": 1}), 1e5, at), at)["V"]
    # All of a peak is more than its middle, over the root of all or of the continuum alone.
    assert alone.by_counts < alone.bound < 1.2 * alone.by_counts
    drawn = expected(Mineral("rutile", {"Ti": 0.97, "V": 0.03, "O": 2}), 1e8, at)
    vanadium, titanium = (clearest_lines(drawn, at)[name] for name in names)
    assert titanium.bound > 0.5 * titanium.by_counts
    # Counts have no end, but V Ka lies 18 eV from Ti Kb, which is known to a tenth of itself.
    assert vanadium.bound < 0.7 * vanadium.by_counts
    share = drawn.lines["V Ka"].sum() / drawn.lines["Ti Kb"].sum()
    assert vanadium.bound > share / 0.1


def test_a_mixture_has_the_lines_of_both():
    at = Instrument()
    one, other = expected(QUARTZ, 1e4, at), expected(HALITE, 1e4, at)
    both = mixed(one, other, 0.25)
    assert set(both.lines) == set(one.lines) | set(other.lines)
    np.testing.assert_allclose(both.total, 0.75 * one.total + 0.25 * other.total)
    assert both.lines["Cl Ka"].sum() == pytest.approx(0.25 * other.lines["Cl Ka"].sum())


def test_no_mineral_and_no_name_of_a_rock_is_in_two_sets():
    rocks = [(rock, mineral.name) for of in elements.SETS.values() for rock, minerals in of for mineral in minerals]
    minerals = [mineral for _, mineral in rocks]
    assert len(set(minerals)) == len(minerals)
    assert len({rock for rock, _ in rocks}) == sum(len(of) for of in elements.SETS.values())
