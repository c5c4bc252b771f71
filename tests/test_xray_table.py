"""Energies of lines are those that were measured."""

import pytest

from eds_chunked.xray_table import line_table

# Bearden (1967), Rev. Mod. Phys. 39, 78: keV.
MA = {
    **{"La": 0.833, "Ce": 0.883, "Pr": 0.929, "Nd": 0.978, "Sm": 1.081, "Eu": 1.131, "Gd": 1.185, "Tb": 1.240},
    **{"Dy": 1.293, "Ho": 1.348, "Er": 1.406, "Tm": 1.462, "Yb": 1.5214, "Lu": 1.5813, "Hf": 1.6446, "Ta": 1.7096},
    **{"W": 1.7754, "Re": 1.8425, "Os": 1.9102, "Ir": 1.9799, "Pt": 2.0505, "Au": 2.1229, "Hg": 2.1953, "Tl": 2.2706},
    **{"Pb": 2.3455, "Bi": 2.4226, "Th": 2.9961, "U": 3.1708},
}
MB = {"La": 0.854, "Ce": 0.902, "Pr": 0.950, "Nd": 0.997, "Sm": 1.100, "Eu": 1.153, "Gd": 1.209}


@pytest.mark.parametrize(("name", "measured"), [("Ma", MA), ("Mb", MB)])
def test_m_lines_are_where_they_were_measured(name, measured):
    off = {element: line_table(element)[name][0] - energy for element, energy in measured.items()}
    # A detector does not part what is some eV apart; tables differ by as much.
    assert max(abs(difference) for difference in off.values()) < 0.008, off
    assert all(line_table(element)[name][1] > 0.5 for element in measured)


def test_what_is_no_element_has_no_lines():
    assert line_table("Xx") == {}
    assert line_table("Si")["Ka"] == pytest.approx((1.7397, 1.0), abs=1e-3)
