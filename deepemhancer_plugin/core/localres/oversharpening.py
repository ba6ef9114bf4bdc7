"""Whether a sharpened or enhanced map claims more detail than its half maps support.

Ramirez-Aportela et al. 2019 (IUCrJ 6, 1054): the resolution that a network reads off a map follows
sharpening, that of the half maps' signal-to-noise ratio does not. Sharpening has reached its limit
where the finest fifth of the map (its 20 % percentile) looks as fine as the finest fifth of what
the halves support. Beyond, the map shows detail that no data stand behind.
"""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import fft

from deepemhancer_plugin.core.devices import Devices, cpu_cores, select_devices
from deepemhancer_plugin.core.errors import InputError, MapWarning
from deepemhancer_plugin.core.localres.arguments import (
    prepare_device,
    read_halves,
    read_or_make_mask,
)
from deepemhancer_plugin.core.localres.blocres import local_fsc, masked_fsc
from deepemhancer_plugin.core.localres.mask import auto_mask
from deepemhancer_plugin.core.localres.predict import (
    Progress,
    Reader,
    choose_network,
    find_network,
    load_reader,
)
from deepemhancer_plugin.core.localres.statistics import summarize
from deepemhancer_plugin.core.maps.filters import apply_gain, shell_width
from deepemhancer_plugin.core.maps.masks import as_mask
from deepemhancer_plugin.core.maps.mrc import Map, MapLike, as_map
from deepemhancer_plugin.core.maps.spectrum import resolution
from deepemhancer_plugin.version import __version__

logger = logging.getLogger(__name__)

PERCENTILE = 20  # the paper's
# Of the halves' FSC. There their mean correlates by 0.5 with the truth; finer detail is more noise
# than signal.
THRESHOLD = 0.143
# Of the supported resolution. Local FSCs of one and the same resolution scatter as much
# (docs/benchmarks/oversharpening.md).
TOLERANCE = 0.2
MARGIN = 0.05  # of the percentiles: closer ones are equal
B_FACTOR_STEP = 25.0  # A^2
LARGEST_B_FACTOR = 400.0  # A^2
NO_DENSITY = "the output shows no density, and so claims nothing"


@dataclass(frozen=True, eq=False)
class Comparison:
    """What a map claims against what its halves support.

    Attributes:
        claimed: resolution in A that the network reads off the map (z, y, x), zero outside the
            mask.
        supported: resolution in A of the halves' local FSC, likewise.
        excess: part of the mask (0-1) where the map claims finer than supported by more than the
            tolerance.
        claimed_percentile: 20 % percentile of what is claimed, A.
        supported_percentile: that of what is supported, A.
        tolerance: as a part of the supported resolution: 0.2 lets 3.2 A pass where 4 A are
            supported.
        threshold: of the local FSC.
    """

    claimed: np.ndarray
    supported: np.ndarray
    excess: float
    claimed_percentile: float
    supported_percentile: float
    tolerance: float
    threshold: float

    @property
    def oversharpened(self) -> bool:
        """Whether the map is beyond the limit of Ramirez-Aportela et al. 2019."""
        return self.claimed_percentile < (1 - MARGIN) * self.supported_percentile

    def verdict(self, what: str = "map") -> str:
        """Put the comparison in words, with `what` for the map's name."""
        if self.oversharpened:
            kind = "beyond the limit: oversharpened, or detail that the halves do not hold"
        elif self.claimed_percentile < (1 + MARGIN) * self.supported_percentile:
            kind = "at the limit of what the halves support"
        else:
            kind = "within what the halves support"
        return (
            f"the {what} claims more than the halves support in {100 * self.excess:.0f} % of the "
            f"mask; its finest fifth looks finer than {self.claimed_percentile:.2f} A, that of the "
            f"halves is finer than {self.supported_percentile:.2f} A: {kind}"
        )

    def summarize(self, what: str = "map") -> dict[str, Any]:
        """Give the numbers for a report; resolutions in A, the excess in per cent of the mask."""
        inside = self.supported > 0
        return {
            "verdict": self.verdict(what),
            "oversharpened": self.oversharpened,
            "claims_more_percent": round(100 * self.excess, 1),
            "tolerance": self.tolerance,
            "fsc_threshold": self.threshold,
            "claimed": summarize(self.claimed[inside]),
            "supported": summarize(self.supported[inside]),
        }


@dataclass(frozen=True)
class Scan:
    """The mean of the halves, sharpened in steps.

    Attributes:
        b_factors: of the sharpening, A^2: 0 and falling.
        percentiles: 20 % percentiles of what the network reads, A.
        limit: the B factor where the percentile meets that of the halves, A^2; None where it never
            does.
        supported_percentile: that of the halves, A.
    """

    b_factors: list[float]
    percentiles: list[float]
    limit: float | None
    supported_percentile: float

    def verdict(self) -> str:
        """Put the scan in words."""
        level = f"({self.supported_percentile:.2f} A)"
        if self.limit is None:
            last = f"B = {self.b_factors[-1]:.0f} A^2"
            return f"the mean of the halves does not reach the limit {level} by {last}"
        if self.limit == 0:
            return f"the mean of the halves is at the limit {level} before any sharpening"
        b_factor = f"B = {self.limit:.0f} A^2"
        return f"the mean of the halves reaches the limit {level} when sharpened by {b_factor}"

    def summarize(self) -> dict[str, Any]:
        """Give the numbers for a report."""
        return {
            "b_factors": self.b_factors,
            f"percentile_{PERCENTILE}": [round(p, 3) for p in self.percentiles],
            "limit_b_factor": None if self.limit is None else round(self.limit, 1),
        }


@dataclass(frozen=True, eq=False)
class Oversharpening:
    """A map judged by its half maps.

    Attributes:
        comparison: what the map claims and what its halves support.
        scan: of the halves' mean; None where it was not asked for.
        report: both summed up, version, network, device, mask and grid, as JSON values.
        map: the map that was judged.
    """

    comparison: Comparison
    scan: Scan | None
    report: dict[str, Any]
    map: Map


def measure_oversharpening(
    map: MapLike,
    halves: Sequence[MapLike],
    *,
    mask: MapLike | None = None,
    sampling_rate: float | None = None,
    network: str = "auto",
    tolerance: float = TOLERANCE,
    threshold: float = THRESHOLD,
    scan: bool = False,
    device: str | Devices | None = None,
    progress: Progress | None = None,
) -> Oversharpening:
    """Compare a map with the half maps it was made of.

    Args:
        map: path, map or array (z, y, x).
        halves: the two half maps, likewise, unfiltered and on the map's grid.
        mask: path, map or array of the map's box; None: where the map shows density.
        sampling_rate: A/voxel; needed for an array, wins over a file's header.
        network: as in `local_resolution`; "auto" chooses by the halves' FSC, so that all maps of
            the same halves are read by the same network.
        tolerance: how much finer a claim may be, as a part (0-1) of the resolution.
        threshold: of the halves' local FSC.
        scan: also sharpen the mean of the halves in steps (`scan_b_factors`).
        device: GPUs, such as "0"; "-1" is the CPU; None: a GPU where there is one.
        progress: called with a step's name, how much of it is done, and of how much.

    Raises:
        InputError: input that cannot be used, or does not fit together.

    Warns:
        MapWarning: something about a file makes the result less trustworthy.
    """
    _check(tolerance, threshold)
    if network != "auto":
        find_network(network)  # a missing file is said before any work
    volume = as_map(map, sampling_rate)
    half1, half2 = (half.data for half in read_halves(halves, volume, sampling_rate))
    inside, source = read_or_make_mask(mask, volume, None, sampling_rate)
    machine = prepare_device(device)
    rate = volume.sampling_rate
    if network == "auto":
        finest = resolution(*masked_fsc(half1, half2, rate, inside), THRESHOLD)
        network = choose_network(finest, rate)
        words = f"FSC of the halves in the mask = {THRESHOLD:g} at {finest:.2f} A"
        logger.info("network: %s A/voxel (%s)", network, words)
    reader = load_reader(network, machine.names[0], progress)
    found = compare(volume.data, half1, half2, rate, inside, reader, tolerance, threshold, progress)
    report = {
        "version": __version__,
        **found.summarize(),
        "network": network,
        "device": machine.description,
        "mask": {"source": source, "voxels": int(inside.sum())},
    }
    scanned = None
    if scan:
        # The network tells no progress here: the scan has one line for all B factors.
        reader = load_reader(network, machine.names[0])
        level = found.supported_percentile
        scanned = scan_b_factors(half1, half2, rate, inside, reader, level, progress)
        report["scan"] = scanned.summarize()
    report |= {"sampling_rate": rate, "box": list(volume.data.shape)}
    return Oversharpening(found, scanned, report, volume)


def judge_output(
    output: Map,
    halves: Sequence[MapLike],
    *,
    mask: MapLike | None = None,
    sampling_rate: float | None = None,
    device: str | Devices | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Compare the enhancer's output with its half maps, for the enhancer's report.

    The comparison's mask is where the output shows density, within the given mask.

    Args:
        output: the enhanced map; one without density is possible.
        halves: the two half maps.
        mask: of the enhancement; None: none.
        sampling_rate: A/voxel, as the enhancer was given it.
        device: as in `measure_oversharpening`.
        progress: likewise.

    Returns:
        JSON values, among them "verdict" in words. An output without density has that one alone.

    Raises:
        InputError: as `measure_oversharpening`.
    """
    started = time.perf_counter()
    with warnings.catch_warnings():
        # The enhancer has warned of the same files.
        warnings.simplefilter("ignore", MapWarning)
        inside = _find_density(output)
        if mask is not None:
            inside &= as_mask(mask, output, sampling_rate)
        if not inside.any():
            return {"verdict": NO_DENSITY}
        result = measure_oversharpening(
            output,
            halves,
            mask=inside,
            sampling_rate=sampling_rate,
            # The log has the device already.
            device=device if isinstance(device, Devices) else select_devices(device),
            progress=progress,
        )
    return {
        **result.comparison.summarize("output"),
        "network": result.report["network"],
        "voxels": int(inside.sum()),
        "seconds": round(time.perf_counter() - started, 1),
    }


def _find_density(volume: Map) -> np.ndarray:
    """Where a map shows density, boolean (z, y, x)."""
    try:
        return auto_mask(volume.data, volume.sampling_rate)
    except InputError:
        return np.zeros(volume.data.shape, bool)


def compare(
    volume: np.ndarray,
    half1: np.ndarray,
    half2: np.ndarray,
    rate: float,
    mask: np.ndarray,
    reader: Reader,
    tolerance: float = TOLERANCE,
    threshold: float = THRESHOLD,
    progress: Progress | None = None,
) -> Comparison:
    """Compare a map with its half maps, as arrays.

    Args:
        volume: the map (z, y, x).
        half1: a half map (z, y, x).
        half2: the other one.
        rate: A/voxel.
        mask: boolean (z, y, x), where the map shows density.
        reader: reads the resolution off a map.
        tolerance: 0-1, see `Comparison`.
        threshold: of the halves' local FSC.
        progress: called with (step, done, total).

    Raises:
        InputError: boxes that differ, an empty mask, a tolerance that is not from 0 to 1.
    """
    if volume.shape != half1.shape:
        raise InputError(
            f"map and half maps differ in box: {volume.shape} and {half1.shape} (z, y, x): "
            "both need the same"
        )
    _check(tolerance, threshold)
    supported = local_fsc(half1, half2, rate, mask, threshold=threshold, progress=progress)
    claimed = reader(volume, rate, mask)
    a, b = claimed[mask], supported[mask]
    return Comparison(
        claimed,
        supported,
        float(np.mean(a < (1 - tolerance) * b)),
        float(np.percentile(a, PERCENTILE)),
        float(np.percentile(b, PERCENTILE)),
        tolerance,
        threshold,
    )


def scan_b_factors(
    half1: np.ndarray,
    half2: np.ndarray,
    rate: float,
    mask: np.ndarray,
    reader: Reader,
    supported_percentile: float,
    progress: Progress | None = None,
) -> Scan:
    """Sharpen the mean of two half maps in steps, and find where it claims too much.

    The scan ends a step beyond the place where the mean's 20 % percentile falls to the halves', or
    when the percentile has risen twice: then sharpening adds no more detail that the network sees.

    Args:
        half1: a half map (z, y, x).
        half2: the other one.
        rate: A/voxel.
        mask: boolean (z, y, x).
        reader: reads the resolution off a map.
        supported_percentile: that of the halves, A.
        progress: called with ("B factors", done, total).
    """
    report = progress or (lambda step, done, total: None)
    spectrum = weight_mean(half1, half2, rate, mask)
    b_factors: list[float] = []
    percentiles: list[float] = []
    steps = round(LARGEST_B_FACTOR / B_FACTOR_STEP) + 1
    for number in range(steps):
        b_factors.append(0 - B_FACTOR_STEP * number)
        read = reader(sharpen(spectrum, half1.shape, rate, b_factors[-1]), rate, mask)
        percentiles.append(float(np.percentile(read[mask], PERCENTILE)))
        report("B factors", number + 1, steps)
        past_the_limit = number > 0 and max(percentiles[-2:]) < supported_percentile
        if past_the_limit or min(percentiles[-2:]) > min(percentiles):
            report("B factors", steps, steps)
            break
    limit = find_limit(b_factors, percentiles, supported_percentile)
    return Scan(b_factors, percentiles, limit, supported_percentile)


def find_limit(
    b_factors: Sequence[float], percentiles: Sequence[float], level: float
) -> float | None:
    """Find the B factor where the percentiles first fall to a level, linear in between.

    The first B factor where they start under it, None where they never fall to it.
    """
    i = next((i for i, p in enumerate(percentiles) if p <= level), None)
    if i is None:
        return None
    if i == 0:
        return b_factors[0]
    fraction = (percentiles[i - 1] - level) / (percentiles[i - 1] - percentiles[i])
    return b_factors[i - 1] + fraction * (b_factors[i] - b_factors[i - 1])


def weight_mean(half1: np.ndarray, half2: np.ndarray, rate: float, mask: np.ndarray) -> np.ndarray:
    """Average two half maps, weighted by their FSC in a mask, as post-processing does.

    The weight is sqrt(2 FSC / (1 + FSC)) up to where the FSC falls under 0.143, zero beyond, so
    that noise is not sharpened with the signal (Rosenthal & Henderson 2003, J. Mol. Biol. 333,
    721-745).

    Returns:
        The half spectrum of the weighted mean.
    """
    curve = masked_fsc(half1, half2, rate, mask)[1]
    end = np.flatnonzero(curve < THRESHOLD)
    curve = np.clip(curve[: end[0]] if len(end) else curve, 0, 1)
    weights = np.append(np.sqrt(2 * curve / (1 + curve)), 0)
    spectrum: np.ndarray = fft.rfftn((half1 + half2) / 2, workers=cpu_cores())
    apply_gain(spectrum, weights, half1.shape, rate)
    return spectrum


def sharpen(
    spectrum: np.ndarray, shape: tuple[int, ...], rate: float, b_factor: float
) -> np.ndarray:
    """Give the map (z, y, x) of a half spectrum times exp(-B k^2 / 4), B in A^2.

    It is the spectrum that is sharpened, and in the corners beyond Nyquist the gain stays what it
    is there: a map's rounding, where its spectrum was weighted to nothing, would be raised above
    the signal.
    """
    result = spectrum.copy()
    k = np.arange(2 * max(shape)) * shell_width(shape, rate)
    apply_gain(result, np.exp(-b_factor / 4 * np.minimum(k, 0.5 / rate) ** 2), shape, rate)
    volume: np.ndarray = fft.irfftn(result, s=shape, workers=cpu_cores())
    return volume


def _check(tolerance: float, threshold: float) -> None:
    if not 0 <= tolerance < 1:
        raise InputError(f"tolerance {tolerance:g}: from 0 to 1 is right, a part of the resolution")
    if not 0 < threshold < 1:
        raise InputError(
            f"FSC threshold {threshold:g}: between 0 and 1 is needed, 0.143 or 0.5 are usual"
        )
