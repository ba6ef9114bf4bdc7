"""Half maps, target and model map of a molecule under given conditions."""
from dataclasses import dataclass, replace

import numpy as np
from scipy import fft
from scipy.spatial.transform import Rotation

from deepemhancer_plugin.core.simulation.conditions import Conditions
from deepemhancer_plugin.core.simulation.molecule import U_TO_B, Molecule, mask, potential

TARGET_SCALE = 2.0      # the target is twice the potential: its 95th percentile inside a protein is about one
DISORDER_IN_TARGET = 0.5  # share of the disorder and pose errors' B that the target keeps: not sharper than the data justify
TARGET_MASK = 2.4       # A from an atom's centre to the edge of the target's tight mask,
WIDE_MASK = 7.4         # and of the wide one
DISORDER_IN_SHARP = 0.2   # the same share for the target "sharp"


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
        kz, ky, kx = fft.fftfreq(shape[0], rate), fft.fftfreq(shape[1], rate), fft.rfftfreq(shape[2], rate)
        self.axes = tuple(k.astype(np.float32) for k in (kz[:, None, None], ky[None, :, None], kx[None, None, :]))
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
    return (0.5 + 0.5 * np.cos(np.pi * np.clip((k - start) / (end - start), 0, 1))).astype(np.float32)


def _middle(molecule: Molecule) -> np.ndarray:
    return (molecule.positions.min(0) + molecule.positions.max(0)) / 2


def _arranged(molecule: Molecule, conditions: Conditions, rng: np.random.Generator) -> Molecule:
    """The molecule or its C_n copies about the origin, in a random orientation."""
    rotation = Rotation.random(rng=rng) if conditions.random_pose else Rotation.identity()
    molecule = molecule.moved(Rotation.identity(), -_middle(molecule)).moved(rotation, np.zeros(3))
    if conditions.copies == 1:
        return molecule
    # Copies touch where their half widths seen from the axis meet.
    n = conditions.copies
    width = np.percentile(np.abs(molecule.positions[:, 1]), 98) + 1.5
    molecule = molecule.moved(Rotation.identity(), np.array([width / np.tan(np.pi / n) if n > 2 else width, 0.0, 0.0]))
    copies = [molecule.moved(Rotation.from_rotvec([0, 0, 2 * np.pi * i / n]), np.zeros(3)) for i in range(n)]
    turned = Rotation.random(rng=rng) if conditions.random_pose else Rotation.identity()
    joined = Molecule(*(np.concatenate([getattr(c, f) for c in copies]) for f in ("elements", "positions", "b_factors", "occupancies")))
    return joined.moved(turned, np.zeros(3))


def _flexibility(positions: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """0 to 1 along a random direction, a sigmoid: one end of the molecule is the flexible one. positions (n, 3)."""
    direction = Rotation.random(rng=rng).apply([1.0, 0.0, 0.0])
    along = positions @ direction
    low, high = np.percentile(along, [2, 98])
    middle, slope = rng.uniform(0.4, 0.9), rng.uniform(0.05, 0.2)
    return 1 / (1 + np.exp(-((along - low) / max(high - low, 1.0) - middle) / slope))


def _micelle(box: _Box, molecule: Molecule, conditions: Conditions, rng: np.random.Generator) -> np.ndarray:
    """A belt of detergent or lipid around the molecule (z, y, x), one inside, before smoothing; a disc's rim or a micelle's bulge."""
    axis = Rotation.random(rng=rng).apply([1.0, 0.0, 0.0])
    if rng.random() < 0.5:  # along the longest or the shortest axis, as membrane proteins stand
        _, _, axes = np.linalg.svd(molecule.positions - molecule.positions.mean(0), full_matrices=False)
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
    z, y, x = (np.arange(n, dtype=np.float32) * np.float32(box.rate) - np.float32(m)
               for n, m in zip(box.shape, middle[::-1], strict=True))
    z, y, x = z[:, None, None], y[None, :, None], x[None, None, :]
    height_at = z * np.float32(axis[2]) + y * np.float32(axis[1]) + x * np.float32(axis[0])
    radius = np.sqrt(np.maximum(z * z + y * y + x * x - height_at**2, 0))
    if rng.random() < 0.5:  # nanodisc
        belt = ((np.abs(height_at) < height) & (radius < width)).astype(np.float32)
    else:  # micelle: an ellipsoid of revolution, rounded at the rim
        belt = ((height_at / height)**4 + (radius / width)**4 < 1).astype(np.float32)
    # Head groups scatter more than the tails in the middle plane.
    belt *= 1 - np.float32(rng.uniform(0, 0.6)) * np.exp(-(height_at / np.float32(0.4 * height))**2)
    return belt


def _noise(box: _Box, conditions: Conditions, direction: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Half spectrum of a Gaussian field whose amplitude is |k|^exponent, stronger along the directions that few views hold."""
    noise = box.forward(rng.standard_normal(box.shape, np.float32))
    noise *= np.maximum(box.k, 0.5 / (max(box.shape) * box.rate)) ** np.float32(conditions.noise_exponent)
    if conditions.preferred > 0:
        # A view down d fills the plane across d; when views crowd around d, a coefficient at angle theta from d is hit ~ sin^2 as often.
        along = sum(k * np.float32(d) for k, d in zip(box.axes, direction[::-1], strict=True)) / np.maximum(box.k, 1e-9)
        noise /= np.sqrt(1.02 - np.float32(conditions.preferred) * along**2)
    return noise


def simulate(molecule: Molecule, conditions: Conditions, seed: int, workers: int = 1, target: str = "tight") -> Simulated:
    """Half maps of `molecule` under `conditions`; the same seed gives the same maps.

    `target`: "tight"; "wide": in a mask 5 A wider, with what lies around the molecule (a micelle); "sharp": with less of the disorder.

    The steps: rotation and sub-voxel shift; B factors from the file, disorder and alignment errors; scattering potential; bulk solvent and
    micelle; two independent noise fields with the amplitude of a back-projection, as strong as the signal of the molecule's volume demands for
    an FSC of 0.143 at `conditions.resolution`; loss of contrast; the sphere of reconstruction.
    """
    rng = np.random.default_rng(seed)
    placed = _arranged(molecule, conditions, rng)
    rate = conditions.sampling_rate
    extent = np.ptp(placed.positions, axis=0).max() if conditions.random_pose else 2 * np.abs(placed.positions).max()
    edge = conditions.box or int(2 * np.ceil((extent + 2 * conditions.margin) / rate / 2))
    edge = conditions.box or fft.next_fast_len(edge, real=True)
    box = _Box((edge,) * 3, rate, workers)
    size = edge * rate
    room = max(0.0, (size - extent) / 2 - 4)
    shift = rng.uniform(-0.5, 0.5, 3) * rate if conditions.random_pose else np.zeros(3)
    if not conditions.centred:
        shift = shift + rng.uniform(-0.5, 0.5, 3) * room
    if extent > size:  # larger than the box: some part of it in the middle
        shift = shift - placed.positions[rng.integers(len(placed))]
    placed = placed.moved(Rotation.identity(), shift + (edge // 2) * rate)
    inside = np.all((placed.positions > 0) & (placed.positions < size), axis=1)
    placed = placed[inside] if inside.sum() > 50 else placed

    flexible = _flexibility(placed.positions, rng)
    distance = np.linalg.norm(placed.positions - (edge // 2) * rate, axis=1)
    extra = conditions.disorder * flexible
    extra = extra + U_TO_B * (conditions.pose_error**2 + (np.deg2rad(conditions.angle_error) * distance) ** 2 / 2)
    occupancy = placed.occupancies
    if conditions.weak < 1:
        occupancy = occupancy * np.where(flexible > np.quantile(flexible, rng.uniform(0.67, 0.9)), conditions.weak, 1.0)
    seen = replace(placed, b_factors=placed.b_factors + extra, occupancies=occupancy)
    observed = potential(seen, box.shape, rate, workers)
    kept = DISORDER_IN_SHARP if target == "sharp" else DISORDER_IN_TARGET
    ideal = potential(replace(placed, b_factors=placed.b_factors + kept * extra, occupancies=occupancy), box.shape, rate, workers)
    model = potential(placed, box.shape, rate, workers)

    tight = box.smooth(mask(placed, box.shape, rate, TARGET_MASK), 1.5)
    np.clip(tight, 0, 1, out=tight)
    hull = mask(placed, box.shape, rate, 3.5)
    signal = box.back(observed)
    mean_density = float(signal[hull > 0].mean())
    envelope = box.smooth(hull, 5.0)
    signal -= conditions.solvent * mean_density * envelope  # the solvent itself is zero, as in a reconstruction
    if conditions.micelle > 0:
        belt = box.smooth(_micelle(box, placed, conditions, rng), 6.0)
        belt = conditions.micelle * mean_density * belt * (1 - envelope)
        signal += belt
        if target == "wide":
            ideal += box.forward(belt)
    spectrum = box.forward(signal)

    direction = Rotation.random(rng=rng).apply([1.0, 0.0, 0.0])
    noises = [_noise(box, conditions, direction, rng) for _ in range(2)]
    # FSC = SNR / (1 + SNR) = 0.143 for one half: the noise's power in the molecule's volume is six times the signal's there.
    fraction = float(hull.mean())
    frequency = min(1 / conditions.resolution, 0.45 / rate)
    level = conditions.noise * np.sqrt((1 - 0.143) / 0.143 * box.power_near(observed, frequency) / fraction / box.power_near(noises[0], frequency))

    contrast = np.exp(-conditions.b_factor / 4 * box.square)
    target_filter = _cosine(box.k, frequency, 1.2 * frequency)
    if conditions.low_pass:
        cut = 1 / conditions.low_pass
        contrast = contrast * _cosine(box.k, cut, 1.1 * cut)
        target_filter = target_filter * _cosine(box.k, 0.95 * cut, 1.1 * cut)
    halves = [box.back((spectrum + np.float32(level) * noise) * contrast) for noise in noises]
    noise_std = float(np.sqrt(sum(np.square(box.back(level * noise * contrast)).mean(dtype=np.float64) for noise in noises)) / 2)
    region = tight if target != "wide" else np.clip(box.smooth(mask(placed, box.shape, rate, WIDE_MASK), 6.0), 0, 1)
    wanted = box.back(ideal * target_filter) * region * np.float32(TARGET_SCALE)
    if conditions.sphere:
        c = [(np.arange(n) - n // 2).astype(np.float32) ** 2 for n in box.shape]
        radius = np.sqrt(c[0][:, None, None] + c[1][None, :, None] + c[2][None, None, :])
        sphere = _cosine(radius, edge / 2 - 4, edge / 2 - 0.5)
        halves = [half * sphere for half in halves]
        wanted *= sphere
    # A grid cannot hold the sharpest atoms: the model map ends before Nyquist instead of ringing.
    model_map = box.back(model * _cosine(box.k, 0.42 / rate, 0.5 / rate))
    half1, half2, wanted, model_map, tight = (np.ascontiguousarray(a, np.float32) for a in (*halves, wanted, model_map, tight))
    x, y, z = map(float, _middle(molecule) - shift - (edge // 2) * rate)
    return Simulated(half1, half2, wanted, model_map, tight, placed, rate, noise_std, (x, y, z), seen)
