"""The embedded network's output made ready: amplitudes restored, and some of the data blended in.

A network that minimises the squared error predicts a mean, whose amplitudes are right: where it
correlates to C with the truth, they are C times the true ones (Wiener's filter). One that minimises
the absolute error predicts a median. The median of an uncertain density fades faster: its
amplitudes are about C^3 times the true ones. The true amplitudes of a map hardly differ from
molecule to molecule, so the output itself tells how far its own have faded.

What is very uncertain is next to nothing in a mean, and nothing at all in a median, though the data
may show something. Some of the data is therefore blended in, within the body that the network sees
and just around it: more where the output is weak, and more where it is uncertain as a whole.

The tables are measured on structures held out of training (benchmarks/amplitudes.py).
"""

from dataclasses import dataclass

import numpy as np
from scipy import fft, ndimage

from deepemhancer_plugin.core.maps.components import label_components
from deepemhancer_plugin.core.maps.filters import apply_gain, shell_width
from deepemhancer_plugin.core.maps.spectrum import flatten_spectrum, power

# Densities are relative to the 95th percentile within a protein.
SOLVENT_LEVEL = 0.01  # what the network puts lower stays empty
BODY_LEVEL = 0.1  # what is higher belongs to a molecule's body
MOLECULE_LEVEL, MOLECULE_VOLUME = 0.3, 2000  # a connected body so dense, of so many A^3

CERTAIN_BAND = 1 / 15, 1 / 8  # 1/A: amplitudes are relative to those here, which hardly fade
SIDE_CHAIN_BAND = np.linspace(1 / 6, 1 / 4, 9)  # 1/A: what fades here tells the uncertainty
# Amplitudes of an atomic model's map in its mask, at FREQUENCIES in 1/A.
FREQUENCIES = np.arange(0.12, 0.45, 0.02)
# fmt: off
EXPECTED = np.array([0.704, 0.587, 0.541, 0.536, 0.584, 0.574, 0.489, 0.397, 0.330, 0.274, 0.223,
                     0.186, 0.163, 0.142, 0.127, 0.115, 0.104])
# The gains that restore a median's amplitudes where they are so many times the expected ones.
RATIOS = np.array([0.00, 0.01, 0.02, 0.03, 0.05, 0.08, 0.10, 0.15, 0.21, 0.30, 0.40, 0.52, 0.70,
                   0.90, 1.00])
GAINS = np.array([0.00, 1.00, 2.00, 3.00, 4.20, 4.20, 4.00, 3.10, 2.60, 2.04, 1.70, 1.38, 1.20,
                  1.07, 1.00])
# fmt: on


@dataclass(frozen=True)
class Blend:
    """How much of the data is blended in, relative to the density's height.

    Attributes:
        least: everywhere in the body.
        more: above that, where the output is 0 and wholly uncertain.
        power: of the uncertainty, which `more` is multiplied with.
        weak: density up to which there is more, falling linearly.
        reach: standard deviation in A of the Gaussian by which the data fade around the body.
    """

    least: float
    more: float
    power: float
    weak: float
    reach: float


BLEND_WITH_MEDIAN = Blend(0.15, 1.3, 2, 0.35, 3.0)
BLEND_WITH_MEAN = Blend(0.0, 1.5, 1.5, 0.5, 6.0)


def compare_amplitudes(
    spectrum: np.ndarray, shape: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Divide each shell's amplitude by that expected of a molecule.

    Args:
        spectrum: half spectrum of a map at 1 A/voxel.
        shape: of the map (z, y, x).

    Returns:
        The shells' frequencies in 1/A, and the ratios, 0 to 1, which never grow with frequency.
    """
    amplitude = np.sqrt(power(spectrum, shape))
    frequency = np.arange(len(amplitude)) * shell_width(shape)
    certain = (frequency > CERTAIN_BAND[0]) & (frequency < CERTAIN_BAND[1])
    level = np.sqrt(np.mean(amplitude[certain] ** 2)) if certain.any() else 0.0
    if not level:
        return frequency, np.ones_like(amplitude)
    ratio = amplitude / (level * np.interp(frequency, FREQUENCIES, EXPECTED))
    ratio[frequency <= CERTAIN_BAND[1]] = 1
    return frequency, np.minimum.accumulate(np.minimum(ratio, 1))


def sees_molecule(volume: np.ndarray) -> bool:
    """Tell whether the network's output (z, y, x) holds a body of a molecule's size and density.

    At 1 A/voxel. A peptide or a small cut has none, though the network may see it well; large boxes
    of noise may have one.
    """
    return bool(label_components(volume > MOLECULE_LEVEL)[1].max() >= MOLECULE_VOLUME)


def measure_uncertainty(frequency: np.ndarray, ratio: np.ndarray) -> float:
    """Measure how uncertain the output is, 0 to 1, by how far its amplitudes have faded.

    Args:
        frequency: of the shells, 1/A.
        ratio: of each shell, from `compare_amplitudes`.
    """
    return float(1 - np.interp(SIDE_CHAIN_BAND, frequency, ratio).mean())


def restore_amplitudes(volume: np.ndarray) -> tuple[np.ndarray, float]:
    """Raise the amplitudes of a median to those that the map deserves.

    Args:
        volume: the network's output (z, y, x) at 1 A/voxel.

    Returns:
        The map, nowhere negative and empty where it was, and the output's uncertainty.
    """
    spectrum = fft.rfftn(volume, workers=-1)
    frequency, ratio = compare_amplitudes(spectrum, volume.shape)
    apply_gain(spectrum, np.interp(ratio, RATIOS, GAINS), volume.shape)
    result = fft.irfftn(spectrum, s=volume.shape, workers=-1).astype(np.float32, copy=False)
    np.maximum(result, 0, out=result)
    result[volume <= SOLVENT_LEVEL] = 0
    return result, measure_uncertainty(frequency, ratio)


def blend_data(
    volume: np.ndarray, uncertainty: float, data: np.ndarray, blend: Blend
) -> np.ndarray:
    """Add some of the data, with half flattened amplitudes, to the enhanced map.

    Args:
        volume: the map (z, y, x), which is overwritten.
        uncertainty: of the network's output, 0 to 1.
        data: the map that was enhanced (z, y, x), at 1 A/voxel.
        blend: how much of it.

    Returns:
        The map, nowhere negative; as it was where it has no body.
    """
    body = volume > BODY_LEVEL
    if not body.any():
        return volume
    data = flatten_spectrum(data, 0.5).astype(np.float32, copy=False)
    level = np.percentile(data[body], 95)
    if level > 0:
        data *= np.float32(np.percentile(volume[body], 95) / level)
        near = ndimage.gaussian_filter(body.astype(np.float32), blend.reach)
        data *= np.clip(2 * near - 0.01, 0, 1)
        weakness = np.maximum(1 - volume / np.float32(blend.weak), 0)
        more = np.float32(blend.more * uncertainty**blend.power)
        data *= np.float32(blend.least) + more * weakness
        volume += data
    np.maximum(volume, 0, out=volume)
    return volume


def finish_map(volume: np.ndarray, data: np.ndarray, fades: bool) -> np.ndarray:
    """Make the network's output ready for use, with some of the data blended in.

    Args:
        volume: the output (z, y, x) at 1 A/voxel, nowhere negative; overwritten.
        data: the map that was enhanced (z, y, x), at 1 A/voxel.
        fades: whether it is a median, whose amplitudes are restored.
    """
    if fades:
        return blend_data(*restore_amplitudes(volume), data, BLEND_WITH_MEDIAN)
    spectrum = fft.rfftn(volume, workers=-1)
    uncertainty = measure_uncertainty(*compare_amplitudes(spectrum, volume.shape))
    volume[volume <= SOLVENT_LEVEL] = 0
    return blend_data(volume, uncertainty, data, BLEND_WITH_MEAN)
