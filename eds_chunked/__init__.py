"""Out-of-core engine for EDS spectrum images: from a full-size map to phases, phase spectra and grain sizes.

>>> import eds_chunked as edc  # doctest: +SKIP
>>> edc.convert("map.bcf", "map.zarr", memory="2GB")
>>> ds = edc.open("map.zarr").sel(energy=slice(0.2, 12))
>>> nmf = edc.nmf(ds, n_components=4)
>>> phases = edc.segment_phases(nmf, min_size=100)
"""

import logging

import lazy_loader

# Silent unless who uses the package asks for its log, as the command line does.
logging.getLogger(__name__).addHandler(logging.NullHandler())

# The names are in __init__.pyi. Each module is imported when its first name is used, so that `import eds_chunked` and
# `eds-chunked --help` need none of the numerical libraries.
_attribute, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> object:
    import importlib
    import sys

    value = _attribute(name)
    if "xarray" in sys.modules:
        # Whoever uses the package together with xarray finds `ds.eds` there.
        importlib.import_module(f"{__name__}.accessor")
    return value
