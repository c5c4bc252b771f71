"""What others do for the same steps, as their own documentation has it; each in a few lines, its settings named."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks import quality
from benchmarks.contest import Contestant, Quality, Run
from benchmarks.machine import THREADS
from benchmarks.ours import (
    CONVERT,
    GRAIN_SPECTRA,
    N_COMPONENTS,
    RESIDUAL,
    SURVEY,
    grain_label_of,
    label_of,
    result,
)
from benchmarks.rocks import HSPY, LEARNT, N_PHASES, PLAIN, RAW, STORE, Case, raw_counts
from eds_chunked import schema

Array = np.ndarray[Any, Any]

LAZY, EAGER = "HyperSpy lazy", "HyperSpy in memory"
SKLEARN, DASK, FLOX, LIBERTEM = "scikit-learn in memory", "dask + zarr", "flox", "LiberTEM"
ROSETTA, SKIMAGE = "RosettaSciIO", "scikit-image, whole map"
_MIN_SIZE = 100
_BATCH = 4096


def _sums_of_labels(case: Case, found: Any) -> Quality:
    return quality.counts_kept(found, case, label_of(case) > 0) | quality.worst_angle(found, case)


def _worst_angle(case: Case, found: Any) -> Quality:
    return quality.worst_angle(found, case)


def _subspace(case: Case, found: Any) -> Quality:
    return quality.subspace_angle(found, case)


def _all_counts(case: Case, found: Any) -> Quality:
    return quality.all_counts(found, case)


def _chi_square(case: Case, found: float) -> Quality:
    return {"mean chi-square": found}


# ------------------------------------------------------------------------------------------------ HyperSpy
def _loaded(case: Case, *, lazy: bool) -> Any:
    import hyperspy.api as hs

    hs.preferences.General.show_progressbar = False
    return hs.load(case.path(HSPY), lazy=lazy)


def _signal(case: Case, *, lazy: bool) -> Any:
    """Load what goes from pixel to pixel: lazy signals in chunks with whole spectra, which is HyperSpy's convention."""
    signal = _loaded(case, lazy=lazy)
    if lazy:
        signal.rechunk()
    return signal


def _hyperspy_decomposition(*, lazy: bool, **how: Any) -> Callable[[Case], Run]:
    def prepare(case: Case) -> Run:
        n = how["output_dimension"]

        def run() -> Array:
            signal = _signal(case, lazy=lazy)
            # It decomposes floats only.
            signal.change_dtype("float32")
            signal.decomposition(True, print_info=False, **how)
            return np.asarray(signal.learning_results.factors).T[:n]

        return run

    return prepare


def _hyperspy_sum(case: Case) -> Run:
    return lambda: np.asarray(_loaded(case, lazy=True).sum().data)


def _hyperspy_spectra(case: Case) -> Run:
    from hyperspy.signals import BaseSignal

    label = label_of(case)

    def run() -> list[Array]:
        signal = _signal(case, lazy=False)
        return [np.asarray((signal * BaseSignal(label == phase).T).sum().data) for phase in range(1, N_PHASES + 1)]

    return run


def _hyperspy_lazy_spectra(case: Case) -> Run:
    import dask.array as da
    from hyperspy.signals import BaseSignal

    label = label_of(case)

    def run() -> list[Array]:
        signal = _signal(case, lazy=True)
        # A mask in the signal's chunks: one of NumPy takes four times the memory.
        masks = (da.from_array(label == phase, chunks=signal.data.chunks[:2]) for phase in range(1, N_PHASES + 1))
        return [np.asarray((signal * BaseSignal(mask).T.as_lazy()).sum().data) for mask in masks]

    return run


def _hyperspy_model(*, lazy: bool) -> Callable[[Case], Run]:
    def prepare(case: Case) -> Run:
        def run() -> float:
            signal = _signal(case, lazy=lazy)
            signal.learning_results.load(case.path(LEARNT))
            signal.change_dtype("float32")
            model = signal.get_decomposition_model(N_PHASES).data
            return float(((signal.data - model) ** 2 / np.maximum(model, 1e-6)).mean())

        return run

    return prepare


def _hyperspy_save(case: Case) -> Run:
    import hyperspy.api as hs

    target = case.path(HSPY).with_name("made-hyperspy.hspy")
    return lambda: hs.load(case.path(RAW), lazy=True).save(target, overwrite=True, show_progressbar=False)


# ------------------------------------------------------------------------------------------------ in memory
def _scaled(X: Array) -> tuple[Array, Array]:
    """Return counts (pixels, channels) scaled for Poisson noise (Keenan & Kotula), and the roots of the channels."""
    roots = [np.sqrt(np.where(total > 0, total, 1)) for total in (X.sum(axis=1), X.sum(axis=0))]
    return X / roots[0][:, None] / roots[1], roots[1]


def _in_memory(case: Case) -> Array:
    return np.asarray(raw_counts(case)).reshape(-1, case.shape[2]).astype(np.float32)


def _sklearn_pca(case: Case) -> Run:
    from sklearn.decomposition import TruncatedSVD

    def run() -> Array:
        X, root = _scaled(_in_memory(case))
        return np.asarray(TruncatedSVD(N_COMPONENTS, random_state=0).fit(X).components_ * root)

    return run


def _sklearn_nmf(case: Case) -> Run:
    from sklearn.decomposition import MiniBatchNMF

    def run() -> Array:
        X, root = _scaled(_in_memory(case))
        model = MiniBatchNMF(N_PHASES, batch_size=_BATCH, random_state=0)
        model.fit_transform(X)
        return np.asarray(model.components_ * root)

    return run


# ------------------------------------------------------------------------------------------------ dask + zarr
def _dask_counts(case: Case) -> Any:
    import dask.array as da

    return da.from_zarr(str(case.path(PLAIN)))


def _dask_convert(case: Case) -> Run:
    import dask.array as da

    target = str(case.path(PLAIN).with_name("made-dask.zarr"))

    def run() -> None:
        counts = da.from_array(raw_counts(case), chunks=(64, case.shape[1], -1))
        counts.rechunk((64, 64, -1)).to_zarr(target, overwrite=True)

    return run


def _dask_sum(case: Case) -> Run:
    return lambda: _dask_counts(case).sum(axis=(0, 1), dtype=np.uint64).compute()


def _dask_pca(case: Case) -> Run:
    """Eigenvectors of the Gram matrix, then the loadings: three passes with that of the scaling."""
    import dask
    import dask.array as da

    def run() -> Array:
        counts = _dask_counts(case)
        sums = dask.compute(counts.sum(axis=2), counts.sum(axis=(0, 1)))
        pixel, channel = (np.sqrt(np.where(total > 0, total, 1)).astype(np.float32) for total in sums)
        scaled = counts.astype(np.float32) / da.from_array(pixel, chunks=counts.chunks[:2])[..., None] / channel
        # Over both axes of the pixels at once: flattened first, blocks would be rows of chunks, and products many.
        gram = da.tensordot(scaled, scaled, axes=((0, 1), (0, 1))).compute()
        values, vectors = np.linalg.eigh(gram.astype(float))
        first = vectors[:, np.argsort(values)[::-1][:N_COMPONENTS]].astype(np.float32)
        (scaled @ first).compute()
        return np.asarray(first.T * channel)

    return run


def _dask_spectra(case: Case) -> Run:
    import dask.array as da

    label = label_of(case)

    def run() -> Array:
        counts = _dask_counts(case)
        phases = np.arange(1, N_PHASES + 1)
        one_hot = da.from_array(label, chunks=counts.chunks[:2])[..., None] == phases
        # Sums of pixels are exact in float64.
        return np.asarray(da.einsum("yxp,yxe->pe", one_hot.astype(np.float64), counts.astype(np.float64)).compute())

    return run


def _dask_residual(case: Case) -> Run:
    import dask.array as da

    nmf = result(case, schema.NMF)
    factors = nmf[schema.FACTORS].values
    loadings = np.moveaxis(nmf[schema.LOADINGS].values, 0, -1)

    def run() -> float:
        counts = _dask_counts(case)
        model = da.from_array(loadings, chunks=(*counts.chunks[:2], -1)) @ factors.astype(np.float32)
        return float(((counts - model) ** 2 / da.maximum(model, 1e-6)).mean().compute())

    return run


# ------------------------------------------------------------------------------------------------ flox, LiberTEM
def _flox(labels: Callable[[Case], Array], n: int | None = None) -> Callable[[Case], Run]:
    """Sum labels 1..n, by default all there are."""

    def prepare(case: Case) -> Run:
        import dask.array as da
        import flox

        label = labels(case)
        groups = np.arange(1, (n or int(label.max())) + 1)

        def run() -> Array:
            counts = _dask_counts(case)
            by = da.from_array(label, chunks=counts.chunks[:2])
            found = flox.groupby_reduce(
                counts.transpose(2, 0, 1), by, func="sum", expected_groups=groups, dtype=np.uint64, fill_value=0
            )
            return np.asarray(found[0].compute()).T

        return run

    return prepare


def _libertem(case: Case) -> tuple[Any, Any]:
    import libertem.api as lt

    context = lt.Context.make_with("threads", cpus=THREADS)
    source = raw_counts(case)
    data = context.load(
        "raw",
        path=str(case.path(RAW).with_suffix(".raw")),
        dtype=source.dtype.str,
        nav_shape=case.shape[:2],
        sig_shape=case.shape[2:],
    )
    return context, data


def _libertem_sum(case: Case) -> Run:
    from libertem.udf.sum import SumUDF

    context, data = _libertem(case)
    return lambda: context.run_udf(dataset=data, udf=SumUDF(dtype=np.float64))["intensity"].data


def _libertem_spectra(case: Case) -> Run:
    from libertem.udf.sum import SumUDF

    context, data = _libertem(case)
    label = label_of(case)
    return lambda: [
        context.run_udf(dataset=data, udf=SumUDF(dtype=np.float64), roi=label == phase)["intensity"].data
        for phase in range(1, N_PHASES + 1)
    ]


# ------------------------------------------------------------------------------------------------ files, maps, sizes
def _rosetta(case: Case) -> Run:
    from rsciio.ripple import file_reader

    def run() -> Array:
        (found,) = file_reader(str(case.path(RAW)))
        return np.asarray(found["data"]).sum(axis=(0, 1), dtype=np.uint64)

    return run


def whole_map_masks(loadings: Array) -> Array:
    """Return the practical's masks (phases, rows, columns): Otsu, small objects and then small holes removed."""
    from skimage.filters import threshold_otsu
    from skimage.morphology import remove_small_holes, remove_small_objects

    # As the step has it: a thousandth of a small map.
    smallest = min(_MIN_SIZE, max(1, loadings[0].size // 1000))
    masks = []
    for loading in loadings:
        objects = remove_small_objects(loading >= threshold_otsu(loading), max_size=smallest - 1)
        masks.append(remove_small_holes(objects, max_size=smallest - 1))
    return np.array(masks)


def _skimage_phases(case: Case) -> Run:
    nmf = result(case, schema.NMF)
    return lambda: whole_map_masks(np.asarray(nmf[schema.LOADINGS]))


def _skimage_grains(case: Case) -> Run:
    from skimage.measure import regionprops_table

    from benchmarks.grains import PROPERTIES, chain

    label = label_of(case)

    def run() -> int:
        n = 0
        for phase in range(1, N_PHASES + 1):
            grains = chain(label == phase)[1]
            regionprops_table(grains, properties=PROPERTIES)
            n += int(grains.max())
        return n

    return run


_LAZILY = "load(.hspy, lazy=True).rechunk(); "
_SVD = f'decomposition(True, algorithm="SVD", output_dimension={N_COMPONENTS})'
_HYPERSPY_NMF = f'decomposition(True, algorithm="NMF", output_dimension={N_PHASES})'
_HYPERSPY_MASKS = "(signal * mask).sum() for each of 4 phases"
_HYPERSPY_MODEL = f"learning_results.load; get_decomposition_model({N_PHASES}); mean of Pearson's chi-square"

PEERS = (
    Contestant(CONVERT, ROSETTA, _rosetta, "file_reader(.rpl), then the sum of all counts", _all_counts, (RAW,)),
    Contestant(CONVERT, LAZY, _hyperspy_save, "load(.rpl, lazy=True).save(.hspy)", needs=(RAW,)),
    Contestant(CONVERT, DASK, _dask_convert, "from_array(memmap).rechunk((64, 64, -1)).to_zarr", needs=(RAW,)),
    Contestant(SURVEY, LAZY, _hyperspy_sum, "load(.hspy, lazy=True).sum()", _all_counts, (HSPY,)),
    Contestant(SURVEY, DASK, _dask_sum, "from_zarr.sum(axis=(0, 1))", _all_counts, (PLAIN,)),
    Contestant(SURVEY, LIBERTEM, _libertem_sum, "SumUDF, 2 threads", _all_counts, (RAW,), ("libertem",)),
    Contestant(
        schema.PCA,
        LAZY,
        _hyperspy_decomposition(lazy=True, algorithm="SVD", output_dimension=N_COMPONENTS),
        _LAZILY + _SVD,
        _subspace,
        (HSPY,),
    ),
    Contestant(
        schema.PCA,
        f"{LAZY}, incremental",
        _hyperspy_decomposition(lazy=True, algorithm="PCA", output_dimension=N_COMPONENTS),
        f'{_LAZILY}decomposition(True, algorithm="PCA", output_dimension={N_COMPONENTS}): IncrementalPCA, centred',
        lambda case, found: quality.centred_subspace_angle(found, case),
        (HSPY,),
    ),
    Contestant(
        schema.PCA,
        EAGER,
        _hyperspy_decomposition(lazy=False, algorithm="SVD", output_dimension=N_COMPONENTS),
        _SVD,
        _subspace,
        (HSPY,),
    ),
    Contestant(
        schema.PCA,
        SKLEARN,
        _sklearn_pca,
        f"TruncatedSVD({N_COMPONENTS}) of counts scaled by hand, dense float32",
        _subspace,
        (RAW,),
    ),
    Contestant(
        schema.PCA,
        DASK,
        _dask_pca,
        "sums; tensordot(scaled, scaled) over the pixels; eigh; scaled @ vectors",
        _subspace,
        (PLAIN,),
    ),
    Contestant(
        schema.NMF,
        LAZY,
        _hyperspy_decomposition(lazy=True, algorithm="NMF", output_dimension=N_PHASES),
        _LAZILY + _HYPERSPY_NMF,
        _worst_angle,
        (HSPY,),
    ),
    Contestant(
        schema.NMF,
        EAGER,
        _hyperspy_decomposition(lazy=False, algorithm="NMF", output_dimension=N_PHASES),
        _HYPERSPY_NMF,
        _worst_angle,
        (HSPY,),
    ),
    Contestant(
        schema.NMF,
        SKLEARN,
        _sklearn_nmf,
        f"MiniBatchNMF({N_PHASES}, batch_size={_BATCH}) of counts scaled by hand, dense float32",
        _worst_angle,
        (RAW,),
    ),
    Contestant(schema.PHASES, SKIMAGE, _skimage_phases, "threshold_otsu, remove_small_objects, remove_small_holes"),
    Contestant(schema.SPECTRA, LAZY, _hyperspy_lazy_spectra, _LAZILY + _HYPERSPY_MASKS, _sums_of_labels, (STORE, HSPY)),
    Contestant(schema.SPECTRA, EAGER, _hyperspy_spectra, _HYPERSPY_MASKS, _sums_of_labels, (STORE, HSPY)),
    Contestant(
        schema.SPECTRA, DASK, _dask_spectra, "einsum of one-hot labels and counts", _sums_of_labels, (STORE, PLAIN)
    ),
    Contestant(
        schema.SPECTRA,
        FLOX,
        _flox(label_of, N_PHASES),
        'groupby_reduce(func="sum", expected_groups=1..4) on dask + zarr',
        _sums_of_labels,
        (STORE, PLAIN),
        ("flox",),
    ),
    Contestant(
        schema.SPECTRA,
        LIBERTEM,
        _libertem_spectra,
        "SumUDF with roi, for each of 4 phases, 2 threads",
        _sums_of_labels,
        (STORE, RAW),
        ("libertem",),
    ),
    Contestant(
        schema.GRAINS,
        SKIMAGE,
        _skimage_grains,
        "distance transform, peak_local_max, watershed, regionprops_table, a phase at a time",
        lambda case, found: quality.grains_found(found, case),
    ),
    Contestant(
        GRAIN_SPECTRA,
        FLOX,
        _flox(grain_label_of),
        'groupby_reduce(func="sum", expected_groups=all grains) on dask + zarr',
        lambda case, found: quality.counts_kept(found, case, grain_label_of(case) > 0),
        (STORE, PLAIN),
        ("flox",),
    ),
    Contestant(
        RESIDUAL, LAZY, _hyperspy_model(lazy=True), _LAZILY + _HYPERSPY_MODEL, _chi_square, (STORE, HSPY, LEARNT)
    ),
    Contestant(RESIDUAL, EAGER, _hyperspy_model(lazy=False), _HYPERSPY_MODEL, _chi_square, (STORE, HSPY, LEARNT)),
    Contestant(
        RESIDUAL, DASK, _dask_residual, "loadings @ factors by block; Pearson's chi-square", _chi_square, (STORE, PLAIN)
    ),
)
