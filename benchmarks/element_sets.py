"""Rocks of known elements: those that thresholds were set with, and those that they are held against."""

from benchmarks.element_rocks import Mineral

DEVELOPMENT = (
    ("granite", (
        Mineral("quartz", {"Si": 1, "O": 2}, coated=True),
        Mineral("albite", {"Na": 1, "Al": 1, "Si": 3, "O": 8}, coated=True),
        Mineral("K-feldspar", {"K": 0.9, "Na": 0.09, "Ba": 0.02, "Al": 1, "Si": 3, "O": 8}, coated=True),
        Mineral("biotite", {"K": 1, "Mg": 1.5, "Fe": 1.4, "Ti": 0.15, "Al": 1.2, "Si": 2.8, "O": 12}, coated=True),
        Mineral("apatite", {"Ca": 5, "P": 3, "O": 12, "F": 0.8, "Cl": 0.2}, coated=True),
        Mineral("zircon", {"Zr": 0.98, "Hf": 0.02, "Si": 1, "O": 4}, coated=True),
    )),
    ("sulphide ore", (
        Mineral("pyrite", {"Fe": 1, "S": 2}),
        Mineral("galena", {"Pb": 1, "S": 1}),
        Mineral("sphalerite", {"Zn": 0.9, "Fe": 0.1, "S": 1}),
        Mineral("chalcopyrite", {"Cu": 1, "Fe": 1, "S": 2}),
        Mineral("barite", {"Ba": 1, "S": 1, "O": 4}),
        Mineral("calcite", {"Ca": 1, "C": 1, "O": 3}),
    )),
    ("gabbro", (
        Mineral("olivine", {"Mg": 1.5, "Fe": 0.5, "Si": 1, "O": 4}, coated=True),
        Mineral("diopside", {"Ca": 1, "Mg": 0.9, "Fe": 0.1, "Si": 2, "O": 6}, coated=True),
        Mineral("ilmenite", {"Fe": 0.9, "Mn": 0.1, "Ti": 1, "O": 3}, coated=True),
        Mineral("chromite", {"Fe": 0.7, "Mg": 0.3, "Cr": 1.5, "Al": 0.5, "O": 4}, coated=True),
        Mineral("labradorite", {"Ca": 0.6, "Na": 0.4, "Al": 1.6, "Si": 2.4, "O": 8}, coated=True),
        Mineral("magnetite", {"Fe": 2.9, "V": 0.05, "Ti": 0.1, "O": 4}, coated=True),
    )),
    ("heavy oxides", (
        Mineral("cerianite", {"Ce": 0.95, "La": 0.05, "O": 2}, coated=True),
        Mineral("thorianite", {"Th": 0.8, "U": 0.2, "O": 2}, coated=True),
        Mineral("plattnerite", {"Pb": 1, "O": 2}, coated=True),
        Mineral("bismite", {"Bi": 2, "O": 3}, coated=True),
        Mineral("senarmontite", {"Sb": 2, "O": 3}, coated=True),
        Mineral("romarchite", {"Sn": 1, "O": 1}, coated=True),
    )),
    ("oxides of metals", (
        Mineral("bunsenite", {"Ni": 0.95, "Co": 0.05, "O": 1}),
        Mineral("eskolaite", {"Cr": 1.9, "Al": 0.1, "O": 3}),
        Mineral("karelianite", {"V": 1.9, "Cr": 0.1, "O": 3}),
        Mineral("zincite", {"Zn": 0.95, "Mn": 0.05, "O": 1}),
        Mineral("tausonite", {"Sr": 1, "Ti": 1, "O": 3}),
        Mineral("cuprite", {"Cu": 2, "O": 1}),
    )),
    ("salts", (
        Mineral("sodium bromide", {"Na": 1, "Br": 1}, coated=True),
        Mineral("potassium bromide", {"K": 1, "Br": 1}, coated=True),
        Mineral("niter", {"K": 1, "N": 1, "O": 3}),
        Mineral("sal ammoniac", {"N": 1, "Cl": 1}),
        Mineral("cryolite", {"Na": 3, "Al": 1, "F": 6}, coated=True),
        Mineral("witherite", {"Ba": 0.95, "Sr": 0.05, "C": 1, "O": 3}),
    )),
    ("alloys and heavy ore", (
        Mineral("osbornite", {"Ti": 1, "N": 1}),
        Mineral("stolzite", {"Pb": 1, "W": 1, "O": 4}),
        Mineral("nickeline", {"Ni": 1, "As": 1}),
        Mineral("stannite", {"Cu": 2, "Fe": 1, "Sn": 1, "S": 4}),
        Mineral("amalgam", {"Ag": 0.6, "Hg": 0.4}),
        Mineral("hafnon", {"Hf": 0.9, "Zr": 0.1, "Si": 1, "O": 4}),
    )),
)  # fmt: skip
"""Rocks that thresholds were set with."""

HELD_OUT = (
    ("carbonatite", (
        Mineral("monazite", {"Ce": 0.5, "La": 0.25, "Nd": 0.2, "Th": 0.05, "P": 1, "O": 4}),
        Mineral("strontianite", {"Sr": 0.95, "Ca": 0.05, "C": 1, "O": 3}),
        Mineral("dolomite", {"Ca": 1, "Mg": 1, "C": 2, "O": 6}),
        Mineral("pyrochlore", {"Ca": 1, "Na": 1, "Nb": 1.8, "Ta": 0.2, "O": 6, "F": 1}),
        Mineral("fluorite", {"Ca": 1, "F": 2}),
        Mineral("baddeleyite", {"Zr": 0.98, "Hf": 0.02, "O": 2}),
    )),
    ("arsenide ore", (
        Mineral("cobaltite", {"Co": 0.9, "Fe": 0.1, "As": 1, "S": 1}, coated=True),
        Mineral("arsenopyrite", {"Fe": 1, "As": 1, "S": 1}, coated=True),
        Mineral("molybdenite", {"Mo": 1, "S": 2}, coated=True),
        Mineral("pentlandite", {"Ni": 4.5, "Fe": 4.5, "S": 8}, coated=True),
        Mineral("anglesite", {"Pb": 1, "S": 1, "O": 4}, coated=True),
        Mineral("bismuthinite", {"Bi": 2, "S": 3}, coated=True),
    )),
    ("skarn", (
        Mineral("scheelite", {"Ca": 1, "W": 1, "O": 4}, coated=True),
        Mineral("wolframite", {"Fe": 0.6, "Mn": 0.4, "W": 1, "O": 4}, coated=True),
        Mineral("tantalite", {"Mn": 0.7, "Fe": 0.3, "Ta": 1.7, "Nb": 0.3, "O": 6}, coated=True),
        Mineral("cassiterite", {"Sn": 1, "O": 2}, coated=True),
        Mineral("andradite", {"Ca": 3, "Fe": 1.8, "Al": 0.2, "Si": 3, "O": 12}, coated=True),
        Mineral("willemite", {"Zn": 2, "Si": 1, "O": 4}, coated=True),
    )),
    ("schist", (
        Mineral("titanite", {"Ca": 1, "Ti": 0.9, "Al": 0.1, "Si": 1, "O": 5}),
        Mineral("almandine", {"Fe": 2.4, "Mn": 0.3, "Mg": 0.3, "Al": 2, "Si": 3, "O": 12}),
        Mineral("rutile", {"Ti": 0.97, "V": 0.03, "O": 2}),
        Mineral("muscovite", {"K": 0.9, "Na": 0.1, "Al": 3, "Si": 3, "O": 12}),
        Mineral("chlorite", {"Mg": 3, "Fe": 2, "Al": 2.5, "Si": 2.7, "O": 18}),
        Mineral("celestite", {"Sr": 1, "S": 1, "O": 4}),
    )),
    ("salts and oxides", (
        Mineral("halite", {"Na": 1, "Cl": 1}, coated=True),
        Mineral("bromargyrite", {"Ag": 1, "Br": 1}, coated=True),
        Mineral("gypsum", {"Ca": 1, "S": 1, "O": 6}, coated=True),
        Mineral("corundum", {"Al": 2, "O": 3}, coated=True),
        Mineral("uraninite", {"U": 0.9, "Th": 0.05, "Pb": 0.05, "O": 2}, coated=True),
        Mineral("stibnite", {"Sb": 2, "S": 3}, coated=True),
    )),
)  # fmt: skip
"""Rocks that no threshold was set with. What an earlier search missed and invented there was looked at."""

CONFIRMATION = (
    ("nepheline syenite", (
        Mineral("nepheline", {"Na": 3, "K": 1, "Al": 4, "Si": 4, "O": 16}, coated=True),
        Mineral("aegirine", {"Na": 1, "Fe": 0.95, "Ti": 0.05, "Si": 2, "O": 6}, coated=True),
        Mineral("sodalite", {"Na": 8, "Al": 6, "Si": 6, "O": 24, "Cl": 2}, coated=True),
        Mineral("eudialyte", {"Na": 4, "Ca": 2, "Fe": 0.8, "Zr": 1, "Si": 8, "O": 22, "Cl": 0.5}, coated=True),
        Mineral("loparite", {"Na": 0.45, "Ce": 0.3, "La": 0.15, "Ti": 0.9, "Nb": 0.1, "O": 3}, coated=True),
        Mineral("lamprophyllite", {"Sr": 1.5, "Ba": 0.5, "Na": 3, "Ti": 3, "Si": 4, "O": 17}, coated=True),
    )),
    ("peridotite", (
        Mineral("enstatite", {"Mg": 1.8, "Fe": 0.2, "Si": 2, "O": 6}),
        Mineral("pyrope", {"Mg": 2.2, "Fe": 0.5, "Ca": 0.3, "Al": 1.8, "Cr": 0.2, "Si": 3, "O": 12}),
        Mineral("phlogopite", {"K": 1, "Mg": 2.8, "Ti": 0.1, "Al": 1, "Si": 3, "O": 11, "F": 1}),
        Mineral("spinel", {"Mg": 0.8, "Fe": 0.2, "Al": 1.7, "Cr": 0.3, "O": 4}),
        Mineral("magnesite", {"Mg": 0.95, "Fe": 0.05, "C": 1, "O": 3}),
        Mineral("heazlewoodite", {"Ni": 3, "S": 2}),
    )),
    ("silver vein", (
        Mineral("electrum", {"Au": 0.6, "Ag": 0.4}),
        Mineral("acanthite", {"Ag": 2, "S": 1}),
        Mineral("cinnabar", {"Hg": 1, "S": 1}),
        Mineral("enargite", {"Cu": 3, "As": 1, "S": 4}),
        Mineral("tetrahedrite", {"Cu": 10, "Zn": 1.5, "Fe": 0.5, "Sb": 4, "S": 13}),
        Mineral("rhodochrosite", {"Mn": 0.95, "Ca": 0.05, "C": 1, "O": 3}),
    )),
    ("evaporite", (
        Mineral("sylvite", {"K": 1, "Cl": 1}, coated=True),
        Mineral("polyhalite", {"K": 2, "Ca": 2, "Mg": 1, "S": 4, "O": 18}, coated=True),
        Mineral("bromine-carnallite", {"K": 1, "Mg": 1, "Cl": 2.6, "Br": 0.4, "O": 6}, coated=True),
        Mineral("nitratine", {"Na": 1, "N": 1, "O": 3}, coated=True),
        Mineral("nitrobarite", {"Ba": 1, "N": 2, "O": 6}, coated=True),
        Mineral("thenardite", {"Na": 2, "S": 1, "O": 4}, coated=True),
    )),
    ("oxidised ore", (
        Mineral("cerussite", {"Pb": 1, "C": 1, "O": 3}),
        Mineral("wulfenite", {"Pb": 1, "Mo": 1, "O": 4}),
        Mineral("vanadinite", {"Pb": 5, "V": 3, "O": 12, "Cl": 1}),
        Mineral("malachite", {"Cu": 2, "C": 1, "O": 5}),
        Mineral("cervantite", {"Sb": 2, "O": 4}),
        Mineral("clinobisvanite", {"Bi": 1, "V": 1, "O": 4}),
    )),
    ("pegmatite", (
        Mineral("columbite", {"Fe": 0.7, "Mn": 0.3, "Nb": 1.7, "Ta": 0.3, "O": 6}, coated=True),
        Mineral("xenotime", {"Y": 1, "P": 1, "O": 4}, coated=True),
        Mineral("bastnaesite", {"Ce": 0.55, "La": 0.3, "Nd": 0.15, "C": 1, "O": 3, "F": 1}, coated=True),
        Mineral("thorite", {"Th": 0.9, "U": 0.1, "Si": 1, "O": 4}, coated=True),
        Mineral("ferberite", {"Fe": 1, "W": 1, "O": 4}, coated=True),
        Mineral("topaz", {"Al": 2, "Si": 1, "O": 4, "F": 2}, coated=True),
    )),
    ("meteorite", (
        Mineral("kamacite", {"Fe": 0.94, "Ni": 0.06}),
        Mineral("troilite", {"Fe": 1, "S": 1}),
        Mineral("schreibersite", {"Fe": 2, "Ni": 1, "P": 1}),
        Mineral("cohenite", {"Fe": 3, "C": 1}),
        Mineral("daubreelite", {"Fe": 1, "Cr": 2, "S": 4}),
        Mineral("nierite", {"Si": 3, "N": 4}),
    )),
)  # fmt: skip
"""Rocks that were written down before thresholds were set anew, and looked at once, afterwards."""
