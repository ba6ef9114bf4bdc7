"""What the user should know about the input before a run, as far as it is quickly told."""

import warnings

import mrcfile
import numpy as np
from scipy import fft, ndimage

from deepemhancer_plugin.protocols import maps

HIGH_RESOLUTION = 4.0  # A, the coarsest that the highRes network was made for
COARSE_SAMPLING = 3.0  # A/voxel, the coarsest that the networks were made for
FSC_THRESHOLD = 0.143
FSC_BAND = 1.1  # the FSC at a resolution is taken from there to so many times it
MOST_VOXELS = 256**3  # in larger half maps the FSC takes too long for a window that waits
SMOOTHING = 3.0  # A, standard deviation of the Gaussian that a molecule is found with
MOLECULE_LEVEL = 0.15  # of the smoothed map's 99.9th percentile
SAMPLED_VOXELS = 1e6  # to look for constant regions in
# One value fills more of the sphere within the box: the map was masked, as the program judges too.
CONSTANT_FRACTION = 0.05


def warn_about_sampling(rate):
    """List what is doubtful about a sampling rate in A/voxel."""
    if rate <= COARSE_SAMPLING:
        return []
    return [
        f"*Sampling rate*: {rate:.3g} A/voxel hold nothing finer than {2 * rate:.3g} A. The "
        f"networks are made for {COARSE_SAMPLING:g} A/voxel or less."
    ]


def warn_about_resolution(rate, halves):
    """List the reasons not to use the highRes network.

    Args:
        rate: A/voxel.
        halves: The two half maps, each as [index, file name], or [].
    """
    if 2 * rate > HIGH_RESOLUTION:
        reason = f"with {rate:.3g} A/voxel it ends at {2 * rate:.3g} A"
    elif halves and reach_resolution(halves, rate, HIGH_RESOLUTION) is False:
        reason = f"the FSC of its half maps is under {FSC_THRESHOLD} there"
    else:
        return []
    return [
        f"*Model power*: highRes is for maps better than {HIGH_RESOLUTION:g} A, and this one is "
        f"coarser: {reason}. Choose the tight or the wide target."
    ]


def reach_resolution(halves, rate, resolution):
    """Tell whether two half maps correlate at a resolution, where the molecule is.

    The mask is not corrected for, so doubtful maps pass.

    Args:
        halves: The two half maps, each as [index, file name].
        rate: A/voxel.
        resolution: A.

    Returns:
        A boolean; None where the maps are too large, or cannot be read.
    """
    try:
        shape = maps.get_box(halves[0][1])
        if np.prod(shape, dtype=float) > MOST_VOXELS:
            return None
        one, two = (maps.read_map(*half) for half in halves)
    except (OSError, ValueError):
        return None
    smooth = ndimage.gaussian_filter((one + two) / 2, SMOOTHING / rate, mode="wrap")
    molecule = (smooth > MOLECULE_LEVEL * np.percentile(smooth, 99.9)).astype(np.float32)
    mask = ndimage.gaussian_filter(molecule, SMOOTHING / rate)
    axes = [np.fft.fftfreq(n, rate) for n in one.shape[:2]] + [np.fft.rfftfreq(one.shape[2], rate)]
    square = sum(axis**2 for axis in np.meshgrid(*axes, indexing="ij", sparse=True))
    band = (square <= (1 / resolution) ** 2) & (square > (1 / (FSC_BAND * resolution)) ** 2)
    first, second = (fft.rfftn(half * mask, workers=-1)[band] for half in (one, two))
    power = np.sum(np.abs(first) ** 2, dtype=float) * np.sum(np.abs(second) ** 2, dtype=float)
    cross = np.sum((first * second.conj()).real, dtype=float)
    return bool(cross >= FSC_THRESHOLD * np.sqrt(power))


def warn_about_mask(index, name):
    """List the signs that a map was masked.

    Args:
        index: Number of the volume in a stack, or 0.
        name: File of the map.
    """
    fraction = measure_constant_fraction(index, name)
    if fraction <= CONSTANT_FRACTION:
        return []
    return [
        f"{name} looks masked: {fraction:.0%} of it have one and the same value. Choose the map as "
        "the refinement made it, or its half maps."
    ]


def measure_constant_fraction(index, name):
    """Return how much of the sphere within the box has the most frequent value.

    The second most frequent value is taken off, because in a map of integers all are frequent.
    0 where the file is no MRC file, or cannot be read.
    """
    if index or not name.lower().endswith((".mrc", ".map")):
        return 0.0
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            file = mrcfile.mmap(name, "r", permissive=True)
    except (OSError, ValueError):
        return 0.0
    with file:
        if file.data is None or file.data.ndim != 3:
            return 0.0
        step = max(1, round((file.data.size / SAMPLED_VOXELS) ** (1 / 3)))
        sample = np.array(file.data[::step, ::step, ::step])
    grid = np.meshgrid(*(np.linspace(-1, 1, n) for n in sample.shape), indexing="ij", sparse=True)
    inside = sample[sum(axis**2 for axis in grid) < 0.9**2]
    counts = np.sort(np.unique(inside, return_counts=True)[1])
    second = counts[-2] if len(counts) > 1 else 0
    return float(counts[-1] - second) / len(inside) if len(inside) else 0.0
