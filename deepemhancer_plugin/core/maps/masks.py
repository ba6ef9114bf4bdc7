"""Masks for maps: of any two levels, on any grid, in any place."""

import os
import warnings
from dataclasses import replace

import numpy as np
from scipy import ndimage

from deepemhancer_plugin.core.errors import InputError, MapWarning
from deepemhancer_plugin.core.files import StrPath
from deepemhancer_plugin.core.maps.header import SAMPLING_TOLERANCE, format_numbers
from deepemhancer_plugin.core.maps.mrc import (
    Map,
    MapLike,
    as_map,
    check_same_sampling,
    copy_voxels,
    new_map,
    read_values,
    same_position,
)

MASK_THRESHOLD = 0.01  # of a mask's range from 0 to 1, as in the original program
# Median distance of the voxels from the mask's level, of the distance between its two levels.
# Masks that were interpolated have less, the dense part of a density map has more.
LEVEL_SPREAD = 0.15
# Of the voxels on one side of the middle, and at least: so many at the extreme are a level.
PLATEAU_FRACTION, PLATEAU_VOXELS = 0.05, 27

DEFAULT_SAMPLING = 1.0  # A/voxel, which programs write that do not know it


def read_mask(path: StrPath, like: Map, sampling_rate: float | None = None) -> np.ndarray:
    """Read a mask for a map from a file; see `as_mask`."""
    return as_mask(path, like, sampling_rate)


def as_mask(
    source: MapLike, like: Map, sampling_rate: float | None = None, name: str = "mask"
) -> np.ndarray:
    """Give the mask that a path, a `Map` or an array means.

    A voxel counts as inside from 1 % of the way from the outside's level to the inside's, so a soft
    edge does. The levels are 0 and 1; a mask that was rescaled or interpolated has others, which
    are found, and what overshoots them is clipped. Where values lie under the outside's level,
    ripples as far above it do not count as inside.

    A mask on another grid is resampled to the map's, by what the two headers say. What lies outside
    of its box is outside.

    Args:
        source: A file, a map as read, or an array (z, y, x) of booleans, integers or floats.
        like: The map it belongs to. A file without a sampling rate takes the map's.
        sampling_rate: A/voxel of a file in the map's box, as in `read_map`: wins over the header's.
        name: What messages call an array.

    Returns:
        Booleans (z, y, x), true inside.

    Raises:
        InputError: As `read_map`; an array in another box; a mask beside the map; one in its box
            where one of the two has the default of 1 A/voxel; a map without two levels.

    Warns:
        MapWarning: As `read_map`; the mask was rescaled or resampled; its header or the map's tells
            no position.
    """
    mask = _read(source, like, sampling_rate, name)
    inside = _inside(mask.path, mask.data)
    if _on_grid(mask, like):
        return inside
    return _resample(inside.astype(np.float32), mask, like) > 0.5


def as_soft_mask(
    source: MapLike, like: Map, sampling_rate: float | None = None, name: str = "mask"
) -> np.ndarray:
    """Give a mask's values, brought to 0 outside and 1 inside; float32 (z, y, x).

    Arguments and errors are those of `as_mask`.
    """
    mask = _read(source, like, sampling_rate, name)
    inside, values = _inside(mask.path, mask.data), mask.data
    low, high = 0.0, 1.0
    if max(abs(values.min()), abs(values.max() - 1)) > MASK_THRESHOLD:
        low, high = float(np.median(values[~inside])), float(np.median(values[inside]))
    values = ((values - np.float32(low)) / np.float32(high - low)).clip(0, 1)
    return values if _on_grid(mask, like) else _resample(values, mask, like)


def _read(source: MapLike, like: Map, sampling_rate: float | None, name: str) -> Map:
    """The mask as it is, with the path that messages name."""
    if isinstance(source, str | os.PathLike):
        path = os.fspath(source)
        mask = read_values(path, sampling_rate, like.sampling_rate, like.data.shape)
    elif isinstance(source, Map):
        mask = as_map(source, sampling_rate if source.data.shape == like.data.shape else None)
    else:
        is_bool = isinstance(source, np.ndarray) and source.dtype == bool
        values = copy_voxels(name, source.view(np.uint8) if is_bool else source)
        mask = new_map(values, like.sampling_rate, like.position, name)
        check_same_sampling(mask, like)
    return replace(mask, path=mask.path if mask.path == name else f"mask {mask.path}")


# Grids


def _on_grid(mask: Map, like: Map) -> bool:
    """Tell whether a mask lies on the map's grid, or has its box and one of them tells no place.

    Raises:
        InputError: In one box, one sampling rate is the default of careless programs.

    Warns:
        MapWarning: One of them tells no place: they are taken to lie in the same.
    """
    if mask.data.shape != like.data.shape:
        return False
    if abs(mask.sampling_rate - like.sampling_rate) > SAMPLING_TOLERANCE * like.sampling_rate:
        if DEFAULT_SAMPLING in (mask.sampling_rate, like.sampling_rate):
            check_same_sampling(mask, like)
        return False
    if same_position(mask, like):
        return True
    if any(mask.position) and any(like.position):
        return False
    _warn(
        f"{mask.path}: its first voxel lies at {format_numbers(mask.position)} A (x, y, z), and "
        f"that of {like.path} at {format_numbers(like.position)}: taken to be the same"
    )
    return True


def _resample(values: np.ndarray, mask: Map, like: Map) -> np.ndarray:
    """Values of a mask (0 to 1) on the map's grid, by linear interpolation.

    Raises:
        InputError: None of it lies in the map.

    Warns:
        MapWarning: It was resampled.
    """
    shift = np.subtract(like.position, mask.position)[::-1]
    result = ndimage.affine_transform(
        values,
        np.full(3, like.sampling_rate / mask.sampling_rate),
        shift / mask.sampling_rate,
        like.data.shape,
        np.float32,
        order=1,
        mode="constant",
    )
    if not (result > 0.5).any():
        raise InputError(
            f"{mask.path}: {_describe_grid(mask)}: it does not overlap {like.path}, "
            f"{_describe_grid(like)}"
        )
    _warn(
        f"{mask.path}: {_describe_grid(mask)}: resampled by its header to the grid of "
        f"{like.path}, {_describe_grid(like)}"
    )
    return np.asarray(result)


def _describe_grid(volume: Map) -> str:
    box = " x ".join(map(str, volume.data.shape[::-1]))
    return (
        f"{box} voxels of {volume.sampling_rate:g} A from {format_numbers(volume.position)} A on "
        "(x, y, z)"
    )


# Levels


def _inside(name: str, values: np.ndarray) -> np.ndarray:
    """Booleans of a mask's values, which are brought to 0 outside and 1 inside before."""
    lowest, highest = float(values.min()), float(values.max())
    if abs(lowest) <= MASK_THRESHOLD and abs(highest - 1) <= MASK_THRESHOLD:
        return values > MASK_THRESHOLD
    levels = _two_levels(values) if lowest < highest else None
    if levels is None:
        raise InputError(
            f"{name}: values from {lowest:g} to {highest:g}: a mask has two levels, 0 outside and "
            "1 inside"
        )
    outside, inside = levels
    _warn(
        f"{name}: values from {lowest:g} to {highest:g}, where a mask has 0 to 1: "
        f"{_round_level(outside, highest - lowest):.3g} is taken for 0 and {inside:.3g} for 1"
    )
    undershoot = (outside - lowest) / (inside - outside)
    threshold = min(max(MASK_THRESHOLD, undershoot), 0.5)
    return values > outside + threshold * (inside - outside)


def _round_level(level: float, span: float) -> float:
    """A level without the rounding errors of a zero, which depend on the range."""
    return round(level / span, 6) * span + 0.0


def _two_levels(values: np.ndarray) -> tuple[float, float] | None:
    """The values outside and inside a mask; None where there are no two levels.

    They are the extremes, where many voxels lie on each; else the medians of what Otsu's threshold
    (1979, IEEE Trans. Syst. Man Cybern. 9, 62-66) parts, where most voxels lie near these.
    """
    from skimage.filters import threshold_otsu

    lowest, highest = float(values.min()), float(values.max())
    scaled = (values - np.float32(lowest)) / np.float32(highest - lowest)
    if _is_plateau(scaled) and _is_plateau(1 - scaled):
        return lowest, highest
    above = values > threshold_otsu(values)
    if min(np.count_nonzero(above), np.count_nonzero(~above)) < PLATEAU_VOXELS:
        return None
    outside, inside = float(np.median(values[~above])), float(np.median(values[above]))
    spread = max(
        float(np.median(np.abs(values[~above] - outside))),
        float(np.median(np.abs(values[above] - inside))),
    )
    return (outside, inside) if spread < LEVEL_SPREAD * (inside - outside) else None


def _is_plateau(scaled: np.ndarray) -> bool:
    """Whether many of the voxels under 0.5 lie within 1 % of 0."""
    at_end = np.count_nonzero(scaled < MASK_THRESHOLD)
    least = max(PLATEAU_VOXELS, PLATEAU_FRACTION * np.count_nonzero(scaled < 0.5))
    return bool(at_end >= least)


def _warn(message: str) -> None:
    warnings.warn(message, MapWarning, stacklevel=3)
