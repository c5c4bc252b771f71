"""Energies and relative weights of X-ray lines, from the table that comes with eXSpy."""

from __future__ import annotations

import functools
import warnings
from typing import Any


@functools.cache
def _elements() -> Any:
    with warnings.catch_warnings():
        # HyperSpy warns about its own names when it is imported; nobody who asks for a line can mend that.
        warnings.simplefilter("ignore")
        # Imported here since it costs seconds and some 60 MB, and what needs no lines does without it.
        from exspy.material import elements

    return elements


@functools.cache
def line_table(element: str) -> dict[str, tuple[float, float]]:
    """Return energy in keV and relative weight of each line of ``element``; empty for what is no element.

    Names are those of Siegbahn in Latin letters (``Ka``, ``Lb1``); the strongest line of a shell has weight 1.
    """
    elements = _elements()
    if element not in elements:
        return {}
    properties = elements[element].as_dictionary()["Atomic_properties"]
    return {name: (line["energy (keV)"], line["weight"]) for name, line in properties.get("Xray_lines", {}).items()}
