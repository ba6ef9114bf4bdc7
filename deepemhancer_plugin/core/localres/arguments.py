"""What the functions of this folder are given: half maps, masks and devices, made ready."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from deepemhancer_plugin.core.devices import Devices, select_devices
from deepemhancer_plugin.core.errors import InputError
from deepemhancer_plugin.core.localres.mask import auto_mask
from deepemhancer_plugin.core.maps.masks import as_mask
from deepemhancer_plugin.core.maps.mrc import (
    Map,
    MapLike,
    as_map,
    check_halves,
    check_same_grid,
)

logger = logging.getLogger(__name__)


def read_halves(halves: Sequence[MapLike], like: Map, sampling_rate: float | None) -> list[Map]:
    """Read two half maps, and check that they lie on the grid of a map.

    Args:
        halves: paths, maps, or arrays (z, y, x), which are taken to lie where the map does.
        like: the map.
        sampling_rate: A/voxel, wins over the headers'.

    Raises:
        InputError: as `mrc.as_map`; not two, or the same one twice; another box, sampling rate or
            place than the map's.
    """
    if len(halves) != 2:
        raise InputError(f"{len(halves)} half maps: two are needed")
    read = []
    for number, half in enumerate(halves, 1):
        if isinstance(half, np.ndarray):
            volume = as_map(half, like.sampling_rate, f"half map {number}")
            read.append(replace(volume, origin=like.origin, nstart=like.nstart))
        else:
            read.append(as_map(half, sampling_rate))
    check_halves(*read)
    check_same_grid(read[0], like)
    return read


def read_or_make_mask(
    mask: MapLike | None, like: Map, halves: Sequence[Map] | None, sampling_rate: float | None
) -> tuple[np.ndarray, str]:
    """Read the mask of a map, or make one where none is given.

    Returns:
        Boolean (z, y, x), and where it comes from: its path, or "array", "halves" or "map".

    Raises:
        InputError: as `masks.as_mask`, or nothing in the map stands out of its noise.
    """
    if mask is None:
        pair = None if halves is None else (halves[0].data, halves[1].data)
        inside = auto_mask(like.data, like.sampling_rate, pair)
        source = "halves" if pair else "map"
        origin = f"made from the {source}"
    else:
        inside = as_mask(mask, like, sampling_rate)
        if isinstance(mask, Map):
            source = mask.path
        else:
            source = "array" if isinstance(mask, np.ndarray) else os.fspath(mask)
        origin = "given" if isinstance(mask, np.ndarray) else source
    percent = 100 * inside.mean()
    logger.info("mask: %s, %d voxels, %.1f %% of the box", origin, inside.sum(), percent)
    return inside, source


def prepare_device(device: str | Devices | None) -> Devices:
    """Select a device as on the command line (`devices.select_devices`), where it is not yet."""
    if isinstance(device, Devices):
        return device
    selected = select_devices(device)
    logger.info("device: %s (%s)", selected.description, selected.why)
    return selected
