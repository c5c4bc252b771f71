"""What the phases are made of: ``elements``."""

from __future__ import annotations

from typing import Any

import click

from eds_chunked import schema
from eds_chunked.cli import parameters
from eds_chunked.cli.output import Facts, Note, Output, Rows, number


@click.command()
@click.argument("store", metavar="STORE", shell_complete=parameters.files)
@click.option("--phase", type=parameters.whole_numbers, metavar="A,B,..", help="Phases to look at. [default: all]")
@click.option(
    "--elements", type=parameters.names, metavar="A,B,..", help="The only elements to think of. [default: all]"
)
@click.option("--significance", type=float, metavar="N", default=5.0, help="Sigmas that an element stands out by.")
@click.option("--beam-energy", type=float, metavar="KEV", help="Beam energy, keV. [default: that of the map]")
@click.option("--resolution", type=float, metavar="EV", default=130.0, help="FWHM at Mn Ka to start from, eV.")
@parameters.options(parameters.came_from(schema.SPECTRA))
@parameters.speaking
def elements(output: Output, store: str, parent: str, **given: Any) -> None:
    """Say which elements each phase spectrum shows, with evidence.

    Overlaps, escape peaks and sum peaks are accounted for; where the counts do not tell two elements apart, both are
    named. Nothing is saved.

    \b
    Example:
      eds-chunked elements map.zarr --from spectra/k4
      eds-chunked elements map.zarr --phase 2 --significance 4
    """
    from eds_chunked import workflow

    with output.working():
        table = workflow.elements_step(store, parent=parent, **given)
    found = table[table["decision"] == "found"]
    by_phase = [
        f"{phase}: {' '.join(found.loc[found[schema.PHASE] == phase, 'element'])}"
        for phase in dict.fromkeys(table[schema.PHASE])
    ]
    rows = []
    for row in table.to_dict("records"):
        seen = bool(row["element"])
        rows.append(
            [
                str(row[schema.PHASE]),
                f"{row['element']} {row['line']}" if seen else "-",
                f"{row['energy_kev']:.3f}" if seen else "-",
                number(row["net_counts"]),
                number(row["background"]),
                f"{row['sigma']:.1f}" if seen else "-",
                row["decision"],
                row["lines"] or "-",
                "; ".join(part for part in (row["reason"], row["overlaps"] and f"beside {row['overlaps']}") if part),
            ]
        )
    columns = [schema.PHASE, "line", "keV", "net", "background", "sigma", "decision", "lines seen", "reason; overlaps"]
    output.show(
        {"elements": table, "seconds": output.seconds},
        Rows(columns, rows, "Elements", words=("line", "decision", "lines seen", "reason; overlaps")),
        Facts([(f"phase {line.split(':')[0]}", line.split(":")[1].strip() or "none") for line in by_phase], "Found"),
        Note(
            "Candidates, no quantification. keV, net and background counts are those of the line that stands out best; "
            "sigma is of all lines of the element together; lines seen stand out by 3 sigma each."
        ),
        brief="\n".join(by_phase),
    )
