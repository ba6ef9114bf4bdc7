"""What is made of the embedded network's output: amplitudes raised to what the map's agreement with the truth deserves, and a share of the data.

A network that minimises the squared error answers with a mean, whose amplitudes are right: where it correlates to C with the truth, they are C times
the true ones (Wiener's filter, the best for any correlation). One that minimises the mean absolute error answers with a median, and the median of an
uncertain density fades faster: its amplitudes are about C^3 times the true ones. The true amplitudes of a molecule's map hardly differ from molecule
to molecule, so that the output itself tells how far its have faded. Both tables are measured on structures held out of training
(benchmarks/amplitudes.py).

And what is very uncertain is next to nothing, as a mean, or nothing at all, as a median, though the data do show something: a share of them is added,
in the body that the network sees and just around it; the larger, the weaker the output is there and the more uncertain as a whole.
"""

from dataclasses import dataclass

import numpy as np
from scipy import fft, ndimage

from deepemhancer_plugin.core.maps.components import components
from deepemhancer_plugin.core.maps.filters import apply_gain, shell_width
from deepemhancer_plugin.core.maps.spectrum import flatten_spectrum, power

BAND = (
    1 / 15,
    1 / 8,
)  # 1/A: where the output is as good as certain; amplitudes are relative to its there
# Amplitudes of the map of an atomic model in its mask, at FREQUENCIES in 1/A. Half the distance of the 10th and 90th percentile is 3 to 11 %.
FREQUENCIES = np.arange(0.12, 0.45, 0.02)
EXPECTED = np.array(
    [
        0.704,
        0.587,
        0.541,
        0.536,
        0.584,
        0.574,
        0.489,
        0.397,
        0.330,
        0.274,
        0.223,
        0.186,
        0.163,
        0.142,
        0.127,
        0.115,
        0.104,
    ]
)
# What the output's amplitudes are to be multiplied with where they are so many times the expected ones.
FADED = np.array(
    [0.00, 0.01, 0.02, 0.03, 0.05, 0.08, 0.10, 0.15, 0.21, 0.30, 0.40, 0.52, 0.70, 0.90, 1.00]
)
GAIN = np.array(
    [0.00, 1.00, 2.00, 3.00, 4.20, 4.20, 4.00, 3.10, 2.60, 2.04, 1.70, 1.38, 1.20, 1.07, 1.00]
)
NOTHING = (
    0.01  # of a protein's 95th percentile: what the network puts lower is solvent, and stays empty
)
DENSE = 0.1  # so high is a molecule's body
# So high, and so many A^3 that hang together, is the least of a molecule. Of six maps of noise in boxes of 240 A tightTarget makes 657 at most, of
# the smallest test proteins, at 3.5 to 8 A, 3,959 and more. It was set between the two: what tests it are other draws.
SURE, MOLECULE = 0.3, 2000
SIDE_CHAINS = np.linspace(
    1 / 6, 1 / 4, 9
)  # 1/A: what has faded here tells how uncertain the output is


@dataclass(frozen=True)
class Share:
    """Of the data, relative to the density's height: `least` everywhere in the body; `more` above that where the output is 0, times its
    `uncertainty` to the power `grows`, and less up to where the output is `weak`, of a protein's 95th percentile. It fades `around` what is DENSE
    (the standard deviation of a Gaussian, A)."""

    least: float
    more: float
    weak: float
    grows: float
    around: float


OF_MEDIAN, OF_MEAN = Share(0.15, 1.3, 0.35, 2, 3.0), Share(0.0, 1.5, 0.5, 1.5, 6.0)


def faded(spectrum: np.ndarray, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """What each shell's amplitude is to the expected one, never more than at a lower frequency; of a half spectrum at 1 A/voxel.

    Returns:
        the shells' frequencies (1/A) and their ratios.
    """
    amplitude = np.sqrt(power(spectrum, shape))
    frequency = np.arange(len(amplitude)) * shell_width(shape, 1.0)
    certain = (frequency > BAND[0]) & (frequency < BAND[1])
    level = np.sqrt(np.mean(amplitude[certain] ** 2)) if certain.any() else 0.0
    if not level:
        return frequency, np.ones_like(amplitude)
    ratio = amplitude / (level * np.interp(frequency, FREQUENCIES, EXPECTED))
    ratio[frequency <= BAND[1]] = 1
    return frequency, np.minimum.accumulate(np.minimum(ratio, 1))


def sees_molecule(volume: np.ndarray) -> bool:
    """Whether the network's output (z, y, x) at 1 A/voxel holds a body of a molecule's size and density."""
    return bool(components(volume > SURE)[1].max() >= MOLECULE)


def uncertainty(frequency: np.ndarray, ratio: np.ndarray) -> float:
    """How uncertain the output is, by what of it has `faded`, 0 to 1: of a median 0.1 to 0.3 for most maps of 3 A, 0.7 for those of 6 A, of a mean
    half as much."""
    return float(1 - np.interp(SIDE_CHAINS, frequency, ratio).mean())


def raised(volume: np.ndarray) -> tuple[np.ndarray, float]:
    """The network's output (z, y, x) at 1 A/voxel, a median, with the amplitudes it should have; nowhere negative, and empty where it was.

    Returns:
        the map, and the output's `uncertainty`.
    """
    spectrum = fft.rfftn(volume, workers=-1)
    frequency, ratio = faded(spectrum, volume.shape)
    apply_gain(spectrum, np.interp(ratio, FADED, GAIN), volume.shape)
    result = fft.irfftn(spectrum, s=volume.shape, workers=-1).astype(np.float32, copy=False)
    np.maximum(result, 0, out=result)
    result[volume <= NOTHING] = 0
    return result, uncertainty(frequency, ratio)


def with_data(volume: np.ndarray, uncertain: float, data: np.ndarray, share: Share) -> np.ndarray:
    """The enhanced map with a share of the data, its amplitudes half flattened; nowhere negative, and as it is where it holds nothing DENSE.

    Args:
        volume, uncertain: the map (z, y, x), which is overwritten, and its `uncertainty`.
        data: (z, y, x) at 1 A/voxel.
    """
    body = volume > DENSE
    if not body.any():
        return volume
    data = flatten_spectrum(data, 0.5).astype(np.float32, copy=False)
    level = np.percentile(data[body], 95)
    if level > 0:
        data *= np.float32(np.percentile(volume[body], 95) / level)
        data *= np.clip(
            2 * ndimage.gaussian_filter(body.astype(np.float32), share.around) - 0.01, 0, 1
        )
        data *= np.float32(share.least) + np.float32(
            share.more * uncertain**share.grows
        ) * np.maximum(1 - volume / np.float32(share.weak), 0)
        volume += data
    return np.maximum(volume, 0, out=volume)


def finished(volume: np.ndarray, data: np.ndarray, fades: bool) -> np.ndarray:
    """The network's output (z, y, x) at 1 A/voxel as it is to be used, with its share of the data.

    Args:
        volume: overwritten; nowhere negative.
        data: (z, y, x) at 1 A/voxel.
        fades: whether it is a median.
    """
    if fades:
        return with_data(*raised(volume), data, OF_MEDIAN)
    uncertain = uncertainty(*faded(fft.rfftn(volume, workers=-1), volume.shape))
    volume[volume <= NOTHING] = 0
    return with_data(volume, uncertain, data, OF_MEAN)
