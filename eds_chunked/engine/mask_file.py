"""Masks of pixels that were drawn elsewhere: a NumPy file or an image."""

from __future__ import annotations

import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError
from skimage.io import imread

from eds_chunked.errors import ParameterError

Array = np.ndarray[Any, Any]


def read_pixel_mask(path: Path, shape: tuple[int, int]) -> Array:
    """Read a mask, bool (y, x), True where a pixel is to be analysed: where the file is not zero, or not black.

    Parameters
    ----------
    path
        A ``.npy`` file, or an image of any format that scikit-image reads; of colours with transparency the colours.
    shape
        Rows and columns of the map.

    Raises
    ------
    ParameterError
        No such file, one that is no array or image, or one of another size.

    Notes
    -----
    Memory: the image.
    """
    if not path.is_file():
        raise _error(path, "no such file")
    try:
        # Mapped: a header that claims more values than there are is refused, and nothing is read before sizes are.
        values = np.load(path, mmap_mode="r", allow_pickle=False) if path.suffix == ".npy" else _image(path, shape)
    except ParameterError:
        raise  # of another size
    # What NumPy and the readers of images raise.
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise _error(path, f"a file that cannot be read ({error})") from error
    if values.dtype.kind not in "buif":
        raise _error(path, f"values of {values.dtype}")
    if values.ndim == 3 and values.shape[2] <= 4:
        # The last of two or four is how opaque a pixel is.
        values = values[:, :, : values.shape[2] - 1 + values.shape[2] % 2].any(axis=2)
    if values.shape != shape:
        raise _of_another_size(path, values.shape, shape)
    mask: Array = np.nan_to_num(values) != 0
    return mask


def _image(path: Path, shape: tuple[int, int]) -> Array:
    with warnings.catch_warnings():
        # Every reader of images is tried on a file that is none, old ones too.
        warnings.simplefilter("ignore")
        with suppress(UnidentifiedImageError), Image.open(path) as picture:
            # By the header: an image that is not of the size of the map may inflate to any size.
            if picture.size != shape[::-1]:
                raise _of_another_size(path, picture.size[::-1], shape)
        # Opened here, as readers that fail leave a file open.
        with path.open("rb") as file:
            return np.asarray(imread(file))


def _of_another_size(path: Path, found: tuple[int, ...], shape: tuple[int, int]) -> ParameterError:
    return _error(path, f"{' x '.join(map(str, found))} values", f"{shape[0]} x {shape[1]} pixels, as the map")


def _error(path: Path, found: str, expected: str = "a .npy file or an image of the size of the map") -> ParameterError:
    return ParameterError(f"mask {path}", found=found, expected=expected, fix="--mask mask.png, black where left out")
