"""The noise of half maps: white, coloured, as a reconstruction leaves it, and uneven."""

import numpy as np
from scipy.spatial.transform import Rotation
from scipy.special import i0e

from deepemhancer_plugin.core.simulation.conditions import Conditions
from deepemhancer_plugin.core.simulation.grid import Grid

WAVELENGTH = 0.0197  # A, of electrons at 300 kV
SPHERICAL_ABERRATION = 2.7e7  # A
AMPLITUDE_CONTRAST = 0.1
WATSON_KAPPA = 5.0  # concentration of the views where `preferred` is 1
RIM_POWER = 5.0  # noise power that the rim of the Fourier sphere has more than the inside
RIM_WIDTH = 0.35  # shells within which that surplus falls by e
FSC_AT_RESOLUTION = 0.143
FINEST = 0.45  # 1/voxel, up to where a resolution can be asked for
DENSITY_SIGMA = 2.0  # A, of the Gaussian that smooths the density which uneven noise grows with
FIELD_SIGMA = 7.0  # A, of the one that makes the random field, the noise's other cause
DENSITY_LIMITS = -1.0, 4.0  # standard deviations of the density beyond which noise does not change


def make_noise(
    signal: np.ndarray,
    fraction: float,
    conditions: Conditions,
    grid: Grid,
    rng: np.random.Generator,
) -> list[np.ndarray]:
    """Make the half spectra of the noise of two half maps, before their contrast is lost.

    The FSC of the halves is SNR / (1 + SNR), and 0.143 at the resolution that is asked for. The
    signal fills a fraction of the box only, the noise all of it.

    Args:
        signal: half spectrum of the molecule's potential.
        fraction: of the box that the molecule fills.
        conditions: resolution, colour and strength of the noise.
        grid: the box.
        rng: draws the direction of preferred views, and the noise.
    """
    direction = Rotation.random(rng=rng).apply([1.0, 0.0, 0.0])
    amplitude = compute_amplitude(grid, conditions, direction)
    noises = [
        grid.forward(rng.standard_normal(grid.shape, np.float32)) * amplitude for _ in range(2)
    ]
    frequency = choose_frequency(conditions)
    level = conditions.noise * np.sqrt(
        (1 - FSC_AT_RESOLUTION)
        / FSC_AT_RESOLUTION
        * grid.measure_power(signal, frequency)
        / fraction
        / grid.measure_power(noises[0], frequency)
    )
    return [noise * np.float32(level) for noise in noises]


def vary_noise(
    noises: list[np.ndarray],
    signal: np.ndarray,
    hull: np.ndarray,
    conditions: Conditions,
    grid: Grid,
    rng: np.random.Generator,
) -> list[np.ndarray]:
    """Make the noise of half maps uneven over the box, as in real maps.

    The noise of each half, drawn independently, is multiplied in real space by one amplitude. Its
    mean square in the molecule is 1: the resolution stays what was asked for. docs/simulation.md
    compares the result with real half maps.

    Args:
        noises: half spectra of the noise.
        signal: half spectrum of the molecule in its surroundings.
        hull: the molecule's volume (z, y, x), 1 inside.
        conditions: how uneven the noise becomes, and how much of that follows the density.
        grid: the box.
        rng: draws the random field.
    """
    inside = hull > 0
    amplitude = compute_local_amplitude(signal, inside, conditions, grid, rng)
    amplitude /= np.sqrt(np.mean(np.square(amplitude[inside]), dtype=np.float64))
    return [grid.forward(grid.back(noise) * amplitude) for noise in noises]


def compute_local_amplitude(
    signal: np.ndarray,
    inside: np.ndarray,
    conditions: Conditions,
    grid: Grid,
    rng: np.random.Generator,
) -> np.ndarray:
    """Compute how strong uneven noise is at each voxel (z, y, x), in any unit.

    Its logarithm is a sum of the smoothed density and a smooth random field, both with a standard
    deviation of 1 inside the molecule before they are weighted. Far from the molecule it is even.

    Args:
        signal: half spectrum of the molecule in its surroundings.
        inside: the molecule's volume (z, y, x), boolean.
        conditions: `noise_growth` and `noise_follows`.
        grid: the box.
        rng: draws the random field.
    """
    density = grid.back(signal * _smooth_by(DENSITY_SIGMA, grid))
    density = np.clip(_standardise(density, inside), *DENSITY_LIMITS)
    white = grid.forward(rng.standard_normal(grid.shape, np.float32))
    field = _standardise(grid.back(white * _smooth_by(FIELD_SIGMA, grid)), inside)
    # Noise of the solvent is even, in real maps too.
    field *= grid.back(grid.forward(inside.astype(np.float32)) * _smooth_by(DENSITY_SIGMA, grid))
    field /= max(float(field[inside].std()), 1e-30)
    weight = conditions.noise_follows
    exponent = weight * density + np.sqrt(1 - weight**2) * field
    return np.asarray(np.exp(np.float32(conditions.noise_growth) * exponent), np.float32)


def _smooth_by(sigma: float, grid: Grid) -> np.ndarray:
    """Half spectrum of a Gaussian of a standard deviation of `sigma` A."""
    return np.asarray(np.exp(grid.square * np.float32(-2 * (np.pi * sigma) ** 2)))


def _standardise(volume: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Bring a map to a mean of 0 and a standard deviation of 1 inside."""
    values = volume[inside]
    return np.asarray((volume - values.mean()) / max(float(values.std()), 1e-30))


def choose_frequency(conditions: Conditions) -> float:
    """Give the frequency in 1/A of the resolution, or the highest that the grid can hold."""
    return min(1 / conditions.resolution, FINEST / conditions.sampling_rate)


def compute_amplitude(grid: Grid, conditions: Conditions, direction: np.ndarray) -> np.ndarray:
    """Compute the noise's amplitude at each coefficient of the half spectrum, in any unit.

    A coefficient's noise power is the inverse of its weight, the sum of CTF^2 over the views that
    hold it. Views of a Watson distribution about d, exp(kappa cos^2), put the weight exp(x) I0(x)
    with x = kappa sin^2(theta) / 2 on a plane at the angle theta from d.

    Args:
        grid: the box.
        conditions: exponent, defocus, preferred views.
        direction: unit vector x, y, z that preferred views crowd about.
    """
    lowest = 0.5 / (grid.edge * grid.rate)
    amplitude: np.ndarray = np.maximum(grid.k, lowest) ** np.float32(conditions.noise_exponent)
    if conditions.preferred > 0:
        product = sum(
            axis * np.float32(d) for axis, d in zip(grid.axes, direction[::-1], strict=True)
        )
        cosine = product / np.maximum(grid.k, 1e-9)
        if conditions.reconstruction:
            kappa = np.float32(WATSON_KAPPA / 2 * conditions.preferred)
            x = kappa * np.maximum(1 - cosine**2, 0)
            amplitude /= np.sqrt(i0e(x)) * np.exp(x)  # i0e(x) = exp(-x) I0(x)
        else:
            amplitude /= np.sqrt(1.02 - np.float32(conditions.preferred) * cosine**2)
    if conditions.reconstruction:
        k = np.linspace(0, float(grid.k.max()), 2048)
        gain = _compute_reconstruction_gain(k, grid, conditions.defocus)
        amplitude *= np.interp(grid.k.ravel(), k, gain).reshape(grid.k.shape).astype(np.float32)
    return amplitude


def _compute_reconstruction_gain(k: np.ndarray, grid: Grid, defocus: float) -> np.ndarray:
    """Gain at k (n,) in 1/A where the CTF averages to little, and at the Fourier sphere's rim."""
    nyquist, shell = 0.5 / grid.rate, 1 / (grid.edge * grid.rate)
    rim = 1 + RIM_POWER * np.exp(np.minimum((k - nyquist) / (RIM_WIDTH * shell), 0))
    return np.asarray(np.sqrt(rim / _average_ctf_square(k, defocus)))


def _average_ctf_square(k: np.ndarray, defocus: float) -> np.ndarray:
    """Average CTF^2 at k (n,) in 1/A over defoci from half to one and a half times `defocus` um.

    CTF = sin(chi + arcsin A), chi = pi lambda z k^2 - pi / 2 Cs lambda^3 k^4.
    """
    if defocus == 0:
        return np.ones_like(k)
    z = np.linspace(0.5, 1.5, 64)[:, None] * defocus * 1e4
    chi = np.pi * WAVELENGTH * z * k**2 - np.pi / 2 * SPHERICAL_ABERRATION * WAVELENGTH**3 * k**4
    return np.asarray(np.square(np.sin(chi + np.arcsin(AMPLITUDE_CONTRAST))).mean(0))
