"""The conditions under which half maps are simulated."""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy import fft

# What training draws from; what is named twice is drawn twice as often.
SYMMETRIES = (
    *("C2", "C2", "C3", "C4", "C5", "C6", "C7"),
    *("D2", "D3", "D4", "T", "O", "I"),
    *("helix", "helix", "helix", "shell"),
)

FINE_VOXEL = 0.8  # A, under which the box is the smallest that is asked for
WIDE_RESOLUTIONS = 1.75, 16.0  # A, drawn evenly on a logarithmic scale
COARSE = 8.0  # A, from which on maps come with large voxels and large B factors
COARSE_B_FACTORS = 100.0, 1000.0  # A^2
COARSEST_VOXEL = 3.5  # A
# The range that the errors of four pairs of real half maps cover (docs/simulation.md).
NOISE_GROWTHS = 0.3, 0.6
NOISE_FOLLOWS = 0.55, 1.0


@dataclass(frozen=True)
class Conditions:
    """What happens to a molecule on its way to two half maps.

    Attributes:
        resolution: A where the FSC of the halves, in the molecule's volume, falls to 0.143.
        sampling_rate: A/voxel of the maps.
        box: edge of the box in voxels; None: the molecule and `margin` on every side.
        margin: A left round the molecule.
        b_factor: loss of contrast of both halves, signal and noise, A^2.
        disorder: B factor added at the most flexible end of the molecule, A^2.
        pose_error: error of the particles' shifts in A: B = 8 pi^2 pose_error^2 everywhere.
        angle_error: error of the particles' orientations in degrees: B grows with the square of
            the distance from the centre.
        solvent: density of the bulk solvent relative to the molecule's mean.
        micelle: density of a detergent belt relative to the molecule's mean; 0: none.
        micelle_height: half the height of the belt, A.
        micelle_width: width of the belt beyond the molecule, A.
        micelle_lumps: standard deviation of the belt's density from place to place, relative to
            its mean.
        symmetry: C1, or copies of the molecule in contact: C2 to C19, D2 to D9, T, O, I, "helix"
            (a fibre through the box) or "shell" (20-60 copies in random orientations on a sphere).
        ligands: number of small ligands and glycans added to the molecule's surface, in the
            target as in the halves.
        weak: occupancy of a tenth to a third of the molecule at one end, or of one of the copies.
        noise_exponent: amplitude of the noise ~ |k|^noise_exponent; 0.5 is back-projection's.
        preferred: 0-1, how much the views crowd round one direction: more noise along the
            directions that are seen least.
        reconstruction: noise and edges as RELION's reconstruction leaves them: stronger where the
            CTF averages to little and at the rim of the Fourier sphere, nothing beyond, views of a
            Watson distribution, a sphere before the loss of contrast. False: coloured noise alone,
            in the whole Fourier box, and a sphere that ends inside the box.
        defocus: mean defocus in um (from half to one and a half times of it), with
            `reconstruction`; 0: no effect of the CTF.
        low_pass: A of a filter applied to both halves afterwards; None: none.
        centred: the molecule in the middle of the box, or off it by up to a quarter of the room.
        sphere: zero outside the sphere of reconstruction.
        offset: density of the solvent relative to the noise of a half: real maps rarely have a
            mean of zero.
        float16: rounded to half precision.
        random_pose: a random rotation and sub-voxel shift; False keeps the model's own orientation
            and the centre of its atoms.
        noise: strength of the noise relative to what `resolution` asks for; 0: none, two equal
            halves.
        noise_growth: standard deviation, inside the molecule, of the logarithm of the noise's local
            amplitude; 0: the noise is as strong everywhere. Real maps: 0.3 to 0.6.
        noise_follows: 0-1, correlation of that logarithm with the density; a random field makes up
            the rest.
    """

    resolution: float = 3.5
    sampling_rate: float = 1.0
    box: int | None = None
    margin: float = 16.0
    b_factor: float = 80.0
    disorder: float = 60.0
    pose_error: float = 0.15
    angle_error: float = 0.4
    solvent: float = 0.5
    micelle: float = 0.0
    micelle_height: float = 16.0
    micelle_width: float = 10.0
    micelle_lumps: float = 0.0
    symmetry: str = "C1"
    ligands: int = 0
    weak: float = 1.0
    noise_exponent: float = 0.5
    preferred: float = 0.0
    reconstruction: bool = True
    defocus: float = 1.8
    low_pass: float | None = None
    centred: bool = True
    sphere: bool = True
    offset: float = 0.0
    float16: bool = False
    random_pose: bool = True
    noise: float = 1.0
    noise_growth: float = 0.0
    noise_follows: float = 0.6


def random_conditions(
    rng: np.random.Generator,
    box: tuple[int, int] = (96, 128),
    typical: bool = False,
    uneven: bool = False,
    wide: bool = False,
) -> Conditions:
    """Draw conditions from the range met in practice.

    Training sees reconstructions, assemblies, ligands, filters, other colours of noise, strong B
    factors, voxels from 0.5 to 2.2 A and boxes that cut large molecules, so that nothing met later
    is new to the network. Evaluations use `typical` ones.

    Args:
        rng: what draws.
        box: two lengths in A between which the edge of the box lies.
        typical: leave out the rare and the extreme: whole molecules at 2.6-6 A, with plain noise.
        uneven: the noise differs over the molecule and grows with its density, as in real maps.
        wide: resolutions from 1.75 to 16 A, with voxels and B factors to match.
    """
    low, high = (2.6, 6.0) if typical else (2.3, 8.0)
    conditions = _draw_typical(rng, low, high)
    if not typical:
        conditions = replace(conditions, **_draw_changes(rng, box))
    if uneven:
        growth, follows = rng.uniform(*NOISE_GROWTHS), rng.uniform(*NOISE_FOLLOWS)
        conditions = replace(conditions, noise_growth=growth, noise_follows=follows)
    return _draw_wide(conditions, rng, box) if wide else conditions


def _draw_typical(rng: np.random.Generator, low: float, high: float) -> Conditions:
    """Draw what varies from map to map; the resolution lies between two in A."""
    return Conditions(
        # Uniform in frequency, as the information is.
        resolution=1 / rng.uniform(1 / high, 1 / low),
        box=None,
        margin=rng.uniform(10, 24),
        b_factor=rng.uniform(20, 200),
        disorder=rng.uniform(0, 200),
        pose_error=rng.uniform(0.08, 0.25),
        angle_error=rng.uniform(0.2, 1.0),
        solvent=rng.uniform(0.3, 0.8),
        micelle=rng.uniform(0.3, 0.7) if rng.random() < 0.33 else 0.0,
        micelle_height=rng.uniform(12, 20),
        micelle_width=rng.uniform(5, 18),
        preferred=rng.uniform(0.3, 1) if rng.random() < 0.2 else 0.0,
        centred=rng.random() < 0.7,
        reconstruction=False,
    )


def _draw_changes(rng: np.random.Generator, box: tuple[int, int]) -> dict[str, Any]:
    """Draw what is rare or extreme, by the names of `Conditions`."""
    changes: dict[str, Any] = {"sphere": rng.random() < 0.8, "reconstruction": rng.random() < 0.7}
    if rng.random() < 0.5:  # the network must learn to remove it
        changes["micelle"] = rng.uniform(0.2, 0.7)
    changes["defocus"] = rng.uniform(0.6, 2.5) if rng.random() < 0.8 else 0.0
    if rng.random() < 0.25:
        changes["symmetry"] = str(rng.choice(SYMMETRIES))
    if rng.random() < 0.25:
        changes["ligands"] = int(rng.integers(1, 7))
    if rng.random() < 0.2:
        changes["weak"] = rng.uniform(0.2, 0.8)
    if rng.random() < 0.25:
        changes["noise_exponent"] = rng.uniform(-1.5, 1.0)
    if rng.random() < 0.15:
        changes["low_pass"] = rng.uniform(4, 11)
    if rng.random() < 0.3:
        changes["b_factor"] = rng.uniform(0, 500)
    if rng.random() < 0.2:
        changes["solvent"] = rng.uniform(0, 0.9)
    if rng.random() < 0.17:
        changes["disorder"] = rng.uniform(150, 350)
    changes["float16"] = rng.random() < 0.15
    # Finer voxels than the networks' cost most and bring least.
    rates = [1.0, rng.uniform(1.0, 1.5), rng.uniform(1.5, 2.2), rng.uniform(0.5, 1.0)]
    rate = changes["sampling_rate"] = float(rng.choice(rates, p=[0.35, 0.37, 0.2, 0.08]))
    edge = rng.integers(box[0], box[1] + 1) if rate > FINE_VOXEL else box[0]
    changes["micelle_lumps"] = rng.uniform(0, 0.8)
    changes["box"] = fft.next_fast_len(math.ceil(edge / rate))  # as programs choose boxes
    return changes


def _draw_wide(
    conditions: Conditions, rng: np.random.Generator, box: tuple[int, int]
) -> Conditions:
    """The same conditions at any resolution that maps have, in as large a box."""
    low, high = WIDE_RESOLUTIONS
    resolution = low * (high / low) ** rng.random()
    rate = min(conditions.sampling_rate, 0.4 * resolution)
    b_factor = conditions.b_factor
    if resolution > COARSE:
        rate = rng.uniform(1, min(COARSEST_VOXEL, 0.3 * resolution))
        b_factor = rng.uniform(*COARSE_B_FACTORS)
    voxels = None
    if conditions.box:
        edge = box[0] if rate <= FINE_VOXEL else conditions.box * conditions.sampling_rate
        voxels = fft.next_fast_len(math.ceil(edge / rate))
    return replace(
        conditions, resolution=resolution, sampling_rate=rate, b_factor=b_factor, box=voxels
    )
