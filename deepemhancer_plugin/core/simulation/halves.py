"""Half maps, target and model map of a molecule under given conditions."""

from dataclasses import dataclass, replace

import numpy as np
from scipy import fft, ndimage
from scipy.spatial.transform import Rotation
from scipy.special import i0e

from deepemhancer_plugin.core.simulation.assembly import assemble
from deepemhancer_plugin.core.simulation.conditions import Conditions
from deepemhancer_plugin.core.simulation.ligands import decorate
from deepemhancer_plugin.core.simulation.molecule import (
    U_TO_B,
    Molecule,
    compute_potential,
    mask_atoms,
)

TARGET_SCALE = (
    2.0  # the target is twice the potential: its 95th percentile inside a protein is about one
)
DISORDER_IN_TARGET = 0.2  # share of the disorder and pose errors' B that the target keeps: what does not show there, the loss shrinks by itself
TARGET_MASK = 2.4  # A from an atom's centre to the edge of the target's tight mask,
WIDE_MASK = 7.4  # and of the wide one
DISORDER_IN_SHARP = 0.0  # the same share for the targets "sharp" and "model"
WAVELENGTH = 0.0197  # A, of electrons at 300 kV
CROWDING = 5.0  # kappa of the Watson distribution of the views where `preferred` is 1
RIM, RIM_WIDTH = (
    5.0,
    0.35,
)  # how much noise power the rim of the Fourier sphere has more, falling inwards by e within so many shells


@dataclass(frozen=True)
class Simulated:
    """Maps (z, y, x), float32, at `sampling_rate` A/voxel.

    half1, half2   the half maps
    target         what the network should make of their mean: the map at the local B, low-passed where the halves hold nothing, masked
    model          the atomic model's own map, without disorder or any filter
    mask           the molecule's tight mask, soft edge
    molecule       the atoms where they were put: position x, y, z in A from the first voxel's centre
    observed       the same atoms with the B factors and occupancies that the halves show, disorder and pose errors included
    noise_std      true standard deviation of the noise of the mean of the halves
    origin         position of the first voxel in the model's own frame, x, y, z in A (without a random pose or copies)
    """

    half1: np.ndarray
    half2: np.ndarray
    target: np.ndarray
    model: np.ndarray
    mask: np.ndarray
    molecule: Molecule
    sampling_rate: float
    noise_std: float
    origin: tuple[float, float, float]
    observed: Molecule


class _Box:
    """Frequencies of the half spectrum of a box, and the filters made of them."""

    def __init__(self, shape: tuple[int, ...], rate: float, workers: int):
        self.shape, self.rate, self.workers = shape, rate, workers
        kz, ky, kx = (
            fft.fftfreq(shape[0], rate),
            fft.fftfreq(shape[1], rate),
            fft.rfftfreq(shape[2], rate),
        )
        self.axes = tuple(
            k.astype(np.float32) for k in (kz[:, None, None], ky[None, :, None], kx[None, None, :])
        )
        self.square = sum(k * k for k in self.axes)
        self.k = np.sqrt(self.square)

    def forward(self, volume: np.ndarray) -> np.ndarray:
        return fft.rfftn(volume, workers=self.workers)

    def back(self, spectrum: np.ndarray) -> np.ndarray:
        return fft.irfftn(spectrum, s=self.shape, workers=self.workers)

    def smooth(self, volume: np.ndarray, length: float) -> np.ndarray:
        """Low-passed to about `length` A by a Gaussian (amplitude 1/e at 1 / length)."""
        return self.back(self.forward(volume) * np.exp(-self.square * np.float32(length**2)))

    def power_near(self, spectrum: np.ndarray, frequency: float) -> float:
        """Mean |F|^2 in a shell 10 % wide about `frequency` in 1/A."""
        shell = np.abs(self.k - frequency) < 0.05 * frequency
        return float(np.mean(np.square(np.abs(spectrum[shell])), dtype=np.float64))


def _cosine(k: np.ndarray, start: float, end: float) -> np.ndarray:
    """1 below `start`, 0 beyond `end`, half a cosine in between."""
    return (0.5 + 0.5 * np.cos(np.pi * np.clip((k - start) / (end - start), 0, 1))).astype(
        np.float32
    )


def _middle(molecule: Molecule) -> np.ndarray:
    return (molecule.positions.min(0) + molecule.positions.max(0)) / 2


def _arranged(
    molecule: Molecule, conditions: Conditions, length: float | None, rng: np.random.Generator
) -> tuple[Molecule, Molecule]:
    """The molecule, and it or its copies about the origin, in a random orientation; a fibre fills `length` A."""
    rotation = Rotation.random(rng=rng) if conditions.random_pose else Rotation.identity()
    molecule = molecule.shift(-_middle(molecule)).rotate(rotation)
    if conditions.ligands:
        molecule = decorate(molecule, conditions.ligands, rng)
    if conditions.symmetry == "C1":
        return molecule, molecule
    turned = Rotation.random(rng=rng) if conditions.random_pose else Rotation.identity()
    return molecule, assemble(molecule, conditions.symmetry, length, rng).rotate(turned)


def _flexibility(positions: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """0 to 1 along a random direction, a sigmoid: one end of the molecule is the flexible one. positions (n, 3)."""
    direction = Rotation.random(rng=rng).apply([1.0, 0.0, 0.0])
    along = positions @ direction
    low, high = np.percentile(along, [2, 98])
    middle, slope = rng.uniform(0.4, 0.9), rng.uniform(0.05, 0.2)
    return 1 / (1 + np.exp(-((along - low) / max(high - low, 1.0) - middle) / slope))


def _micelle(
    box: _Box, molecule: Molecule, conditions: Conditions, rng: np.random.Generator
) -> np.ndarray:
    """A belt of detergent or lipid around the molecule (z, y, x), one inside, before smoothing; a disc's rim or a micelle's bulge."""
    axis = Rotation.random(rng=rng).apply([1.0, 0.0, 0.0])
    if rng.random() < 0.5:  # along the longest or the shortest axis, as membrane proteins stand
        _, _, axes = np.linalg.svd(
            molecule.positions - molecule.positions.mean(0), full_matrices=False
        )
        axis = axes[rng.choice([0, 2])]
    along = (molecule.positions - molecule.positions.mean(0)) @ axis
    middle = molecule.positions.mean(0) + axis * rng.uniform(-0.3, 0.3) * np.ptp(along)
    height = conditions.micelle_height
    inside = molecule.positions[np.abs((molecule.positions - middle) @ axis) < height]
    if len(inside) < 10:
        inside = molecule.positions
    middle += (inside.mean(0) - middle) - axis * ((inside.mean(0) - middle) @ axis)
    radial = np.linalg.norm((inside - middle) - np.outer((inside - middle) @ axis, axis), axis=1)
    width = np.percentile(radial, 90) + conditions.micelle_width
    z, y, x = (
        np.arange(n, dtype=np.float32) * np.float32(box.rate) - np.float32(m)
        for n, m in zip(box.shape, middle[::-1], strict=True)
    )
    z, y, x = z[:, None, None], y[None, :, None], x[None, None, :]
    height_at = z * np.float32(axis[2]) + y * np.float32(axis[1]) + x * np.float32(axis[0])
    radius = np.sqrt(np.maximum(z * z + y * y + x * x - height_at**2, 0))
    if rng.random() < 0.5:  # nanodisc
        belt = ((np.abs(height_at) < height) & (radius < width)).astype(np.float32)
    else:  # micelle: an ellipsoid of revolution, rounded at the rim
        belt = ((height_at / height) ** 4 + (radius / width) ** 4 < 1).astype(np.float32)
    # Head groups scatter more than the tails in the middle plane.
    belt *= 1 - np.float32(rng.uniform(0, 0.6)) * np.exp(
        -((height_at / np.float32(0.4 * height)) ** 2)
    )
    if conditions.micelle_lumps:  # where lipids are in order, or missing
        lumps = ndimage.gaussian_filter(
            rng.standard_normal(box.shape, np.float32), rng.uniform(2.5, 12) / box.rate, mode="wrap"
        )
        belt *= np.maximum(1 + np.float32(conditions.micelle_lumps / lumps.std()) * lumps, 0)
    return belt


def _sphere(box: _Box, conditions: Conditions) -> np.ndarray | np.float32:
    """The sphere of reconstruction (z, y, x), 1 inside; RELION's edge falls outside of half the box, by half a cosine over three voxels."""
    if not conditions.sphere:
        return np.float32(1)
    c = [(np.arange(n) - n // 2).astype(np.float32) ** 2 for n in box.shape]
    half = box.shape[0] / 2
    start, end = (half, half + 3) if conditions.reconstruction else (half - 4, half - 0.5)
    return _cosine(
        np.sqrt(c[0][:, None, None] + c[1][None, :, None] + c[2][None, None, :]), start, end
    )


def _amplitude(box: _Box, conditions: Conditions, direction: np.ndarray) -> np.ndarray:
    """Amplitude of the noise at each coefficient of the half spectrum, in any unit: |k|^exponent, and what a reconstruction makes of it.

    A coefficient's noise power is the inverse of its weight, the sum of CTF^2 over the views that hold it. Views of a Watson distribution
    about d, exp(kappa cos^2), put on a plane at angle theta from d the weight exp(x) I0(x) with x = kappa sin^2(theta) / 2.
    """
    amplitude = np.maximum(box.k, 0.5 / (max(box.shape) * box.rate)) ** np.float32(
        conditions.noise_exponent
    )
    if conditions.preferred > 0:
        along = sum(
            k * np.float32(d) for k, d in zip(box.axes, direction[::-1], strict=True)
        ) / np.maximum(box.k, 1e-9)
        if conditions.reconstruction:
            x = np.float32(CROWDING / 2 * conditions.preferred) * np.maximum(1 - along**2, 0)
            amplitude /= np.sqrt(i0e(x)) * np.exp(x)  # i0e(x) = exp(-x) I0(x)
        else:
            amplitude /= np.sqrt(1.02 - np.float32(conditions.preferred) * along**2)
    if conditions.reconstruction:
        k = np.linspace(0, float(box.k.max()), 2048)
        nyquist, shell = 0.5 / box.rate, 1 / (max(box.shape) * box.rate)
        gain = np.sqrt(
            (1 + RIM * np.exp(np.minimum((k - nyquist) / (RIM_WIDTH * shell), 0)))
            / _mean_ctf_square(k, conditions.defocus)
        )
        amplitude *= np.interp(box.k.ravel(), k, gain).reshape(box.k.shape).astype(np.float32)
    return amplitude


def _mean_ctf_square(k: np.ndarray, defocus: float) -> np.ndarray:
    """CTF^2 at k (n,) in 1/A, averaged over defoci from half to one and a half times `defocus` um; 300 kV, Cs 2.7 mm, amplitude contrast 0.1.

    CTF = sin(chi + arcsin 0.1), chi = pi lambda z k^2 - pi / 2 Cs lambda^3 k^4.
    """
    if defocus == 0:
        return np.ones_like(k)
    z = np.linspace(0.5, 1.5, 64)[:, None] * defocus * 1e4
    chi = np.pi * WAVELENGTH * z * k**2 - np.pi / 2 * 2.7e7 * WAVELENGTH**3 * k**4
    return np.square(np.sin(chi + np.arcsin(0.1))).mean(0)


def simulate_halves(
    molecule: Molecule, conditions: Conditions, seed: int, workers: int = 1, target: str = "tight"
) -> Simulated:
    """Half maps of `molecule` under `conditions`; the same seed gives the same maps.

    `target`: "tight"; "wide": in a mask 5 A wider, with what lies around the molecule (a micelle); "sharp": with less of the disorder;
    "model": the model's own map, neither masked nor low-passed but where the halves were.

    The steps: rotation and sub-voxel shift, ligands, copies; B factors from the file, disorder and alignment errors; scattering potential; bulk
    solvent and micelle; two independent noise fields with the amplitude of a back-projection, as strong as the signal of the molecule's
    volume demands for an FSC of 0.143 at `conditions.resolution`; the sphere of reconstruction; loss of contrast. How near that comes to
    RELION's half maps: docs/simulation.md.
    """
    rng = np.random.default_rng(seed)
    rate = conditions.sampling_rate
    one, placed = _arranged(
        molecule, conditions, conditions.box and 3**0.5 * conditions.box * rate, rng
    )
    copies = len(placed) // len(one)
    extent = (
        np.ptp(placed.positions, axis=0).max()
        if conditions.random_pose
        else 2 * np.abs(placed.positions).max()
    )
    edge = conditions.box or int(2 * np.ceil((extent + 2 * conditions.margin) / rate / 2))
    edge = conditions.box or fft.next_fast_len(edge, real=True)
    box = _Box((edge,) * 3, rate, workers)
    size = edge * rate
    room = max(0.0, (size - extent) / 2 - 4)
    shift = rng.uniform(-0.5, 0.5, 3) * rate if conditions.random_pose else np.zeros(3)
    if not conditions.centred:
        shift = shift + rng.uniform(-0.5, 0.5, 3) * room
    if (
        extent > size and conditions.symmetry != "helix"
    ):  # larger than the box: some part of it in the middle
        shift = shift - placed.positions[rng.integers(len(placed))]
    placed = placed.shift(shift + (edge // 2) * rate)
    inside = np.all((placed.positions > 0) & (placed.positions < size), axis=1)
    inside = inside if inside.sum() > 50 else np.full(len(placed), True)
    placed = placed[inside]

    # Copies are disordered alike.
    flexible = (
        _flexibility(placed.positions, rng)
        if copies == 1
        else np.tile(_flexibility(one.positions, rng), copies)[inside]
    )
    distance = np.linalg.norm(placed.positions - (edge // 2) * rate, axis=1)
    extra = conditions.disorder * flexible
    extra = extra + U_TO_B * (
        conditions.pose_error**2 + (np.deg2rad(conditions.angle_error) * distance) ** 2 / 2
    )
    occupancy = placed.occupancies
    if conditions.weak < 1:
        weak = flexible > np.quantile(flexible, rng.uniform(0.67, 0.9))
        if copies > 1 and rng.random() < 0.5:
            weak = (np.flatnonzero(inside) // len(one)) == rng.integers(copies)
        occupancy = occupancy * np.where(weak, conditions.weak, 1.0)
    seen = replace(placed, b_factors=placed.b_factors + extra, occupancies=occupancy)
    observed = compute_potential(seen, box.shape, rate, workers)
    kept = DISORDER_IN_SHARP if target in ("sharp", "model") else DISORDER_IN_TARGET
    model = compute_potential(placed, box.shape, rate, workers)
    ideal = model
    if kept or conditions.weak < 1:
        ideal = compute_potential(
            replace(placed, b_factors=placed.b_factors + kept * extra, occupancies=occupancy),
            box.shape,
            rate,
            workers,
        )

    tight = box.smooth(mask_atoms(placed, box.shape, rate, TARGET_MASK), 1.5)
    np.clip(tight, 0, 1, out=tight)
    hull = mask_atoms(placed, box.shape, rate, 3.5)
    signal = box.back(observed)
    mean_density = float(signal[hull > 0].mean())
    envelope = box.smooth(hull, 5.0)
    signal -= (
        conditions.solvent * mean_density * envelope
    )  # the solvent itself is zero, as in a reconstruction
    if conditions.micelle > 0:
        belt = box.smooth(_micelle(box, placed, conditions, rng), 6.0)
        belt = conditions.micelle * mean_density * belt * (1 - envelope)
        signal += belt
        if target == "wide":
            ideal = ideal + box.forward(belt)
    spectrum = box.forward(signal)

    direction = Rotation.random(rng=rng).apply([1.0, 0.0, 0.0])
    amplitude = _amplitude(box, conditions, direction)
    noises = [box.forward(rng.standard_normal(box.shape, np.float32)) * amplitude for _ in range(2)]
    # FSC = SNR / (1 + SNR) = 0.143 for one half: the noise's power in the molecule's volume is six times the signal's there.
    fraction = float(hull.mean())
    frequency = min(1 / conditions.resolution, 0.45 / rate)
    level = conditions.noise * np.sqrt(
        (1 - 0.143)
        / 0.143
        * box.power_near(observed, frequency)
        / fraction
        / box.power_near(noises[0], frequency)
    )

    contrast = np.exp(-conditions.b_factor / 4 * box.square)
    # A grid cannot hold the sharpest atoms: the model's map ends before Nyquist instead of ringing; the networks' grid is one of 1 A.
    target_filter = (
        _cosine(box.k, 0.42 / max(rate, 1), 0.5 / max(rate, 1))
        if target == "model"
        else _cosine(box.k, frequency, 1.2 * frequency)
    )
    if conditions.low_pass:
        cut = 1 / conditions.low_pass
        contrast = contrast * _cosine(box.k, cut, 1.1 * cut)
        target_filter = target_filter * _cosine(box.k, 0.95 * cut, 1.1 * cut)
    sphere = _sphere(box, conditions)
    noises = [noise * np.float32(level) for noise in noises]
    if conditions.reconstruction:
        reach = box.k <= 0.5 / rate
        noises = [noise * reach for noise in noises]
        halves = [
            box.back(box.forward(box.back(spectrum * reach + noise) * sphere) * contrast)
            for noise in noises
        ]
    else:
        halves = [box.back((spectrum + noise) * contrast) * sphere for noise in noises]
    noise_std = float(
        np.sqrt(
            sum(np.square(box.back(noise * contrast)).mean(dtype=np.float64) for noise in noises)
        )
        / 2
    )
    halves = [half + np.float32(conditions.offset * noise_std * 2**0.5) for half in halves]
    if conditions.float16:
        halves = [half.astype(np.float16) for half in halves]
    wanted = box.back(ideal * target_filter) * sphere * np.float32(TARGET_SCALE)
    if target != "model":
        wanted *= (
            tight
            if target != "wide"
            else np.clip(box.smooth(mask_atoms(placed, box.shape, rate, WIDE_MASK), 6.0), 0, 1)
        )
    model_map = box.back(model * _cosine(box.k, 0.42 / rate, 0.5 / rate))
    half1, half2, wanted, model_map, tight = (
        np.ascontiguousarray(a, np.float32) for a in (*halves, wanted, model_map, tight)
    )
    x, y, z = map(float, _middle(molecule) - shift - (edge // 2) * rate)
    return Simulated(
        half1, half2, wanted, model_map, tight, placed, rate, noise_std, (x, y, z), seen
    )
