"""The FSC of half maps in a mask, and corrected for it, for the report of an enhancement."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from deepemhancer_plugin.core.errors import InputError
from deepemhancer_plugin.core.evaluation.halfmaps import half_map_fsc
from deepemhancer_plugin.core.localres.arguments import read_or_make_mask
from deepemhancer_plugin.core.maps.filters import soft_edge
from deepemhancer_plugin.core.maps.mrc import MapLike, as_map, check_halves

logger = logging.getLogger(__name__)

MASK_DISTANCE, MASK_EDGE = 3.0, 6.0  # A: how far the mask is grown, and the width of its soft edge
DECIMALS = 4  # of the curves in the report
THRESHOLD = 0.143


def measure_half_maps(
    halves: Sequence[MapLike], mask: MapLike | None = None, sampling_rate: float | None = None
) -> dict[str, Any]:
    """Measure the FSC of two half maps, unmasked and in a mask.

    Args:
        halves: paths, maps as read, or arrays (z, y, x).
        mask: of the molecule; None: made of the half maps.
        sampling_rate: A/voxel; needed for arrays, wins over a file's header.

    Returns:
        JSON values: the `frequency` in 1/A; the curves `unmasked`, `masked`, `randomised` and
        `corrected` of `evaluation.halfmaps.HalfMapFsc` that there are; and the `resolution` in A
        by the last of them. Where no mask can be made, only the unmasked curve.
    """
    one, two = (
        as_map(half, sampling_rate, f"half map {number}") for number, half in enumerate(halves, 1)
    )
    check_halves(one, two)
    rate = one.sampling_rate
    soft = None
    try:
        mean = replace(one, data=(one.data + two.data) / 2)
        inside, _ = read_or_make_mask(mask, mean, (one, two), sampling_rate)
        soft = soft_edge(inside, rate, MASK_DISTANCE, MASK_EDGE)
    except InputError as error:
        logger.info("FSC of the half maps without a mask: %s", error)
    curves = half_map_fsc(one.data, two.data, rate, soft)
    resolution = curves.resolution(THRESHOLD)
    kind = "unmasked" if soft is None else "in a mask and corrected for it"
    logger.info("half-map FSC = %s at %.2f A, %s", THRESHOLD, resolution, kind)
    return {
        "frequency": np.round(curves.frequency, 6).tolist(),
        **{name: np.round(curve, DECIMALS).tolist() for name, curve in curves.curves.items()},
        "resolution": round(resolution, 2),
    }
