"""Out-of-core engine for EDS spectrum images: from a full-size map to phases, phase spectra and grain sizes.

>>> import eds_chunked as edc  # doctest: +SKIP
>>> edc.convert("map.bcf", "map.zarr", memory="2GB")
>>> ds = edc.open("map.zarr").sel(energy=slice(0.2, 12))
>>> nmf = edc.nmf(ds, n_components=4)
>>> phases = edc.segment_phases(nmf, min_size=100)
"""

import lazy_loader

# The names are in __init__.pyi. Each module is imported when its first name is used, so that `import eds_chunked` and
# `eds-chunked --help` need none of the numerical libraries.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
