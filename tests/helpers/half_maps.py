"""Half maps whose resolution is known at every place."""

import numpy as np
from scipy import ndimage

FALL = 3.0  # of ln(amplitude) from the signal's coarse detail down to the noise


def frequencies(shape, rate):
    return np.sqrt(
        sum(g**2 for g in np.meshgrid(*(np.fft.fftfreq(n, rate) for n in shape), indexing="ij"))
    )


def half_maps(shape, rate, resolution, b_factor=0.0, seed=0):
    """A random signal that falls off as with a B factor, in white noise.

    The halves' FSC is 0.5 at d = `resolution`: the signal-to-noise ratio is
    exp(2 FALL (1 - (k d)^2)). `resolution` may be a map of a few values, whose borders are soft.
    """
    rng = np.random.default_rng(seed)
    k = frequencies(shape, rate)
    white, signal = np.fft.fftn(rng.standard_normal(shape)), np.zeros(shape)
    for d in np.unique(resolution):
        here = ndimage.gaussian_filter(np.broadcast_to(resolution == d, shape).astype(float), 2)
        signal += here * np.fft.ifftn(white * np.exp(-FALL * (k * d) ** 2)).real
    noisy = (np.fft.fftn(signal + np.exp(-FALL) * rng.standard_normal(shape)) for _ in range(2))
    return [
        np.fft.ifftn(half * np.exp(-b_factor / 4 * k**2)).real.astype(np.float32) for half in noisy
    ]
