"""Does a sharpened or enhanced map claim more detail than its half maps support?

Ramirez-Aportela et al. 2019 (IUCrJ 6, 1054): the resolution that a network reads off a map's features follows sharpening, the one from the
half maps' signal-to-noise ratio does not. Where the finest fifth of the map (its 20 % percentile) looks as fine as the finest fifth of what the
halves support, sharpening has reached its limit; beyond, the map shows detail that no data stand behind.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import fft

from deepemhancer_plugin.core.errors import InputError
from deepemhancer_plugin.core.localres.blocres import THREADS, local_fsc, masked_fsc
from deepemhancer_plugin.core.maps import filters

PERCENTILE = 20  # the paper's
THRESHOLD = 0.143  # of the halves' FSC: there their mean correlates by 0.5 with the truth; what is finer is more noise than signal
TOLERANCE = 0.2  # of the supported resolution: local FSCs of one and the same resolution scatter as much (docs/benchmarks/oversharpening.md)
MARGIN = 0.05  # of the percentiles: closer ones are equal
STEP, MOST = 25.0, 400.0  # A^2, of the scan

DeepRes = Callable[
    [np.ndarray, float, np.ndarray], np.ndarray
]  # (map, A/voxel, boolean mask) -> resolution in A in the mask
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Comparison:
    """What a map claims against what its halves support; resolutions in A, maps (z, y, x) that are zero outside of the mask.

    claimed      resolution that the network reads off the map
    supported    local FSC of the halves
    share        part of the mask (0-1) where the map claims finer than supported by more than the tolerance
    claimed_percentile, supported_percentile   the 20 % percentiles
    tolerance    as a part of the supported resolution: 0.2 lets 3.2 A pass where 4 A are supported
    threshold    of the local FSC
    """

    claimed: np.ndarray
    supported: np.ndarray
    share: float
    claimed_percentile: float
    supported_percentile: float
    tolerance: float
    threshold: float

    @property
    def oversharpened(self) -> bool:
        """Whether the map is beyond the limit of Ramirez-Aportela et al. 2019."""
        return self.claimed_percentile < (1 - MARGIN) * self.supported_percentile

    def verdict(self, what: str = "map") -> str:
        """In words, with `what` for the map's name."""
        kind = (
            "beyond the limit: oversharpened, or detail that the halves do not hold"
            if self.oversharpened
            else "at the limit of what the halves support"
            if self.claimed_percentile < (1 + MARGIN) * self.supported_percentile
            else "within what the halves support"
        )
        return (
            f"the {what} claims more than the halves support in {100 * self.share:.0f} % of the mask; its finest fifth looks finer than "
            f"{self.claimed_percentile:.2f} A, that of the halves is finer than {self.supported_percentile:.2f} A: {kind}"
        )


@dataclass(frozen=True)
class Scan:
    """The mean of the halves, sharpened in steps: B factors in A^2 (0 and falling) and the 20 % percentiles that the network finds, in A.

    limit    the B factor where the percentile meets the halves'; None where it never does
    level    the halves' percentile
    """

    b_factors: list[float]
    percentiles: list[float]
    limit: float | None
    level: float


def compare(
    volume: np.ndarray,
    half1: np.ndarray,
    half2: np.ndarray,
    rate: float,
    mask: np.ndarray,
    deepres: DeepRes,
    tolerance: float = TOLERANCE,
    threshold: float = THRESHOLD,
    progress: Progress | None = None,
) -> Comparison:
    """Compare a map (z, y, x) with the halves it was made of, in the same box, at `rate` A/voxel.

    Args:
        mask: boolean (z, y, x), where the map shows density.
        deepres: reads the resolution off a map.
        tolerance: 0-1, see `Comparison`.
        threshold: of the halves' local FSC.
        progress: called with (step, done, total).

    Raises:
        InputError: boxes that differ, an empty mask, a tolerance that is not from 0 to 1.
    """
    if volume.shape != half1.shape:
        raise InputError(
            f"map and half maps differ in box: {volume.shape} and {half1.shape} (z, y, x): both need the same"
        )
    if not 0 <= tolerance < 1:
        raise InputError(f"tolerance {tolerance:g}: from 0 to 1 is right, a part of the resolution")
    supported = local_fsc(half1, half2, rate, mask, threshold=threshold, progress=progress)
    claimed = deepres(volume, rate, mask)
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


def scan(
    half1: np.ndarray,
    half2: np.ndarray,
    rate: float,
    mask: np.ndarray,
    deepres: DeepRes,
    level: float,
    progress: Progress | None = None,
) -> Scan:
    """Sharpen the mean of the halves more and more, until a step beyond the place where its 20 % percentile falls to `level` (A), or until the
    percentile has risen twice: then sharpening adds no more detail that the network would see.

    The mean is weighted and cut by the halves' FSC in the mask, as post-processing does, so that noise is not sharpened with it.
    """
    tell = progress or (lambda step, done, total: None)
    transform = fft.rfftn((half1 + half2) / 2, workers=THREADS)
    filters.apply_gain(transform, _weights(half1, half2, rate, mask), half1.shape, rate)
    b_factors: list[float] = []
    percentiles: list[float] = []
    steps = round(MOST / STEP) + 1
    for number in range(steps):
        b_factors.append(0 - STEP * number)
        percentiles.append(
            float(
                np.percentile(
                    deepres(_sharpened(transform, half1.shape, rate, b_factors[-1]), rate, mask)[
                        mask
                    ],
                    PERCENTILE,
                )
            )
        )
        tell("B factors", number + 1, steps)
        if (number and max(percentiles[-2:]) < level) or min(percentiles[-2:]) > min(percentiles):
            tell("B factors", steps, steps)
            break
    return Scan(b_factors, percentiles, limit(b_factors, percentiles, level), level)


def limit(b_factors: list[float], percentiles: list[float], level: float) -> float | None:
    """B factor, linear in between, where the percentiles first fall to the level; the first one where they start under it, None if never."""
    under = [i for i, p in enumerate(percentiles) if p <= level]
    if not under:
        return None
    i = under[0]
    if i == 0:
        return b_factors[0]
    share = (percentiles[i - 1] - level) / (percentiles[i - 1] - percentiles[i])
    return b_factors[i - 1] + share * (b_factors[i] - b_factors[i - 1])


def _sharpened(
    transform: np.ndarray, shape: tuple[int, ...], rate: float, b_factor: float
) -> np.ndarray:
    """The map (z, y, x) whose half spectrum is `transform`, times exp(-B k^2 / 4)."""
    result = transform.copy()
    k = np.arange(2 * max(shape)) * filters.shell_width(shape, rate)
    filters.apply_gain(result, np.exp(-b_factor / 4 * np.minimum(k, 0.5 / rate) ** 2), shape, rate)
    return fft.irfftn(result, s=shape, workers=THREADS)


def _weights(half1: np.ndarray, half2: np.ndarray, rate: float, mask: np.ndarray) -> np.ndarray:
    """Gain of each shell: sqrt(2 FSC / (1 + FSC)) up to where the FSC in the mask falls under 0.143, nothing beyond.

    Rosenthal & Henderson 2003, J. Mol. Biol. 333, 721-745.
    """
    curve = masked_fsc(half1, half2, rate, mask)[1]
    end = np.flatnonzero(curve < THRESHOLD)
    curve = np.clip(curve[: end[0]] if len(end) else curve, 0, 1)
    return np.concatenate([np.sqrt(2 * curve / (1 + curve)), np.zeros(1)])


def picture(
    path: Path, volume: np.ndarray, found: Comparison, scanned: Scan | None, rate: float
) -> None:
    """Histograms of what is claimed and supported, one against the other, where the two differ, and the scan where there is one, as a PNG."""
    from deepemhancer_plugin.core.localres.figures import _pyplot

    plt = _pyplot()
    count = 3 + (scanned is not None)
    figure, axes = plt.subplots(1, count, figsize=(4.7 * count, 4.3), layout="constrained")
    inside = found.supported > 0
    claimed, supported = found.claimed[inside], found.supported[inside]
    low, high = np.percentile(np.concatenate([claimed, supported]), (0.2, 99.5))
    low, high = np.floor(2 * low) / 2, np.ceil(2 * high) / 2
    bins = np.linspace(low, high, 60)
    for name, values, percentile, colour in (
        ("claimed by the map", claimed, found.claimed_percentile, "tab:red"),
        (
            f"supported: local FSC = {found.threshold:g}",
            supported,
            found.supported_percentile,
            "tab:blue",
        ),
    ):
        axes[0].hist(
            np.clip(values, low, high),
            bins,
            weights=np.full(values.size, 100 / values.size),
            alpha=0.55,
            color=colour,
            label=name,
        )
        axes[0].axvline(
            percentile,
            color=colour,
            linestyle="--",
            label=f"{PERCENTILE} % percentile: {percentile:.2f} Å",
        )
    axes[0].set(
        xlabel="local resolution (Å)", ylabel="voxels of the mask (%)", title="two resolutions"
    )
    axes[0].margins(y=0.4)  # room for the legend
    axes[0].legend(fontsize=8, loc="upper right")

    counts = np.histogram2d(np.clip(supported, low, high), np.clip(claimed, low, high), bins)[0]
    axes[1].pcolormesh(bins, bins, np.ma.masked_equal(np.sqrt(counts).T, 0), cmap="viridis")
    axes[1].plot([low, high], [low, high], color="black", linewidth=0.8)
    axes[1].plot(
        [low, high],
        [low * (1 - found.tolerance), high * (1 - found.tolerance)],
        color="tab:red",
        linewidth=1.2,
    )
    axes[1].set(
        xlabel="supported by the halves (Å)",
        ylabel="claimed by the map (Å)",
        xlim=(low, high),
        ylim=(low, high),
        aspect="equal",
        title=f"{100 * found.share:.0f} % are over {100 * found.tolerance:.0f} % finer (red line)",
    )

    middle = int(np.argmax(inside.sum((1, 2))))
    extent = (0, volume.shape[2] * rate, 0, volume.shape[1] * rate)
    axes[2].imshow(
        volume[middle],
        cmap="gray",
        vmin=float(np.percentile(volume, 1)),
        vmax=float(np.percentile(volume[inside], 99.7)),
        origin="lower",
        extent=extent,
    )
    excess = np.ma.masked_array((found.supported - found.claimed)[middle], ~inside[middle])
    shown = axes[2].imshow(
        excess,
        cmap="RdBu_r",
        vmin=-2,
        vmax=2,
        origin="lower",
        extent=extent,
        alpha=0.75,
        interpolation="nearest",
    )
    axes[2].set(
        xlabel="x (Å)", ylabel="y (Å)", title=f"red: claims more (z = {middle * rate:.0f} Å)"
    )
    figure.colorbar(shown, ax=axes[2], shrink=0.85, extend="both", label="supported - claimed (Å)")

    if scanned is not None:
        axes[3].plot(
            scanned.b_factors,
            scanned.percentiles,
            "o-",
            color="tab:red",
            label="mean of the halves, sharpened",
        )
        axes[3].axhline(
            scanned.level, color="tab:blue", linestyle="--", label=f"halves: {scanned.level:.2f} Å"
        )
        if scanned.limit is not None:
            axes[3].axvline(
                scanned.limit, color="black", linewidth=0.8, label=f"limit: {scanned.limit:.0f} Å²"
            )
        axes[3].set(
            xlabel="B factor (Å²)",
            ylabel=f"{PERCENTILE} % percentile (Å)",
            title="how far the mean can be sharpened",
        )
        axes[3].invert_xaxis()
        axes[3].locator_params(axis="x", nbins=5)
        axes[3].legend(fontsize=8)
    figure.savefig(path, dpi=100)
    plt.close(figure)
