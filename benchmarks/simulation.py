"""How near simulated half maps come to a reconstruction program's, and how many an hour makes.

    python benchmarks/simulation.py --reconstructions DIR --structures DIR
                                    [--output docs/simulation.md]
    python benchmarks/simulation.py --speed [--structures DIR] [--workers 2] [--seconds 120]

DIR of reconstructions: NAME_half1.mrc.gz, NAME_half2.mrc.gz and NAME_model.mrc.gz; DIR of
structures: the atomic models they were made of, with an index.tsv (columns file and split). The
first command writes the tables between the marks of docs/simulation.md and the picture beside it;
the second one prints the speed with the conditions that training draws.
"""

import argparse
import multiprocessing
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy import fft, ndimage, stats

from deepemhancer_plugin.core.evaluation import soft_mask
from deepemhancer_plugin.core.maps.filters import distance_from_centre
from deepemhancer_plugin.core.maps.mrc import read_map
from deepemhancer_plugin.core.maps.spectrum import fsc, power, radial_mean, resolution
from deepemhancer_plugin.core.plotting import subplots
from deepemhancer_plugin.core.simulation import (
    Conditions,
    Molecule,
    from_structure,
    random_conditions,
    read_molecule,
    simulate_halves,
)
from deepemhancer_plugin.core.simulation.synthetic import build_protein
from deepemhancer_plugin.core.training.structures import split_structures

MODELS = {
    "2r6g": "2r6g_bound",
    "4q35": "4q35_bound",
    "1ihm": "1IHM",
    "3sn6": "3sn6",
    "1a74": "1A74",
    "1e4k": "1E4K_target",
}
# What is known of each; its B factor, resolution and disorder are measured.
KNOWN = {"2r6g": {"micelle": 0.5}, "4q35": {"micelle": 0.5}, "1e4k": {"preferred": 1.0}}
FAR = 20.0  # A from the molecule, where solvent is no micelle any more
BEGIN, END = "<!-- tables -->\n", "<!-- end of the tables -->\n"
LAGS = np.arange(9)  # voxels of the autocorrelation


@dataclass(frozen=True)
class Curves:
    """What is compared of two half maps.

    Attributes:
        k: frequencies in 1/A.
        noise: natural logarithm of the power of (half1 - half2) / 2.
        fsc: of the halves.
        masked: FSC of the halves in a soft mask.
        guinier: natural logarithm of the power of the mean map.
        radii: voxels from the edge of the box's sphere.
        deviation: standard deviation of the noise there, relative to the inside's.
        autocorrelation: of the noise, radial mean, at LAGS.
        beyond: part of the noise's power beyond the Nyquist sphere.
        along: part of its power along the strongest axis; 1/3 where it is isotropic.
        skewness: of the mean map in the solvent.
        kurtosis: excess kurtosis of the mean map in the solvent.
        noise_b: B factor of the noise in A^2.
        signal_b: B factor of the signal in A^2.
    """

    k: np.ndarray
    noise: np.ndarray
    fsc: np.ndarray
    masked: np.ndarray
    guinier: np.ndarray
    radii: np.ndarray
    deviation: np.ndarray
    autocorrelation: np.ndarray
    beyond: float
    along: float
    skewness: float
    kurtosis: float
    noise_b: float
    signal_b: float

    @property
    def resolution(self) -> float:
        """Resolution in A by the masked FSC of 0.143."""
        return resolution(self.k, self.masked, 0.143)


Results = dict[str, tuple[Curves, Curves, Curves, Conditions]]


def measure(half1: np.ndarray, half2: np.ndarray, model: np.ndarray, rate: float) -> Curves:
    """Measure a pair of half maps against their atomic model's map (z, y, x)."""
    n = half1.shape[0]
    mean, noise = (half1 + half2) / 2, (half1 - half2) / 2
    transforms = [fft.rfftn(v, workers=2) for v in (mean, noise, model)]
    mask = soft_mask(model, rate)
    k, curve = fsc(half1, half2, rate)
    masked = fsc(half1 * mask, half2 * mask, rate)[1]
    of_mean, of_noise, of_model = (power(f, noise.shape, rate)[: len(k)] for f in transforms)
    middle = (k > 0.06) & (k < 0.42 / rate)
    noise_b = -2 * np.polyfit(k[middle] ** 2, np.log(of_noise[middle] / k[middle]), 1)[0]
    cross = radial_mean((transforms[0] * np.conj(transforms[2])).real, noise.shape, rate)
    transfer = cross[: len(k)] / of_model
    some = (k > 0.08) & (k < 0.3)
    signal_b = -4 * np.polyfit(k[some] ** 2, np.log(np.maximum(transfer[some], 1e-6)), 1)[0]
    radii, deviation = measure_deviation(noise)
    beyond, along = measure_directions(transforms[1], n, k * rate, of_noise)
    solvent = find_solvent(mask, rate)
    return Curves(
        k,
        np.log(of_noise),
        curve,
        masked,
        np.log(of_mean),
        radii,
        deviation,
        measure_autocorrelation(noise),
        beyond,
        along,
        float(stats.skew(mean[solvent])),
        float(stats.kurtosis(mean[solvent])),
        float(noise_b),
        float(signal_b),
    )


def measure_deviation(noise: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Measure the noise's standard deviation in shells about the edge of the box's sphere.

    Returns:
        Radii in voxels from there, and the deviations relative to the inside's.
    """
    n = noise.shape[0]
    radius = distance_from_centre(noise.shape)
    edges = np.arange(-n // 2 + 6, 9)
    deviation = np.array([noise[np.floor(radius - n / 2) == edge].std() for edge in edges])
    return edges + 0.5, deviation / noise[radius < 0.4 * n].std()


def measure_autocorrelation(noise: np.ndarray) -> np.ndarray:
    """Measure the radial mean of the noise's autocorrelation at LAGS."""
    radius = distance_from_centre(noise.shape)
    inside = noise * (radius < 0.45 * noise.shape[0])
    correlation = fft.fftshift(fft.irfftn(np.abs(fft.rfftn(inside)) ** 2, s=inside.shape))
    at_lags = np.array([correlation[np.round(radius) == lag].mean() for lag in LAGS])
    return at_lags / correlation.max()


def measure_directions(
    noise: np.ndarray, n: int, k: np.ndarray, shell_power: np.ndarray
) -> tuple[float, float]:
    """Measure the noise's power beyond the Nyquist sphere, and along its strongest axis.

    Args:
        noise: half spectrum of the noise of a box of `n` voxels.
        n: edge of the box.
        k: frequencies of the shells in 1/voxel.
        shell_power: power of the shells, by which the noise is whitened: direction alone counts.
    """
    axes = fft.fftfreq(n), fft.fftfreq(n), fft.rfftfreq(n)
    kz, ky, kx = np.meshgrid(*axes, indexing="ij")
    size = np.sqrt(kz**2 + ky**2 + kx**2)
    squares = np.abs(noise) ** 2
    squares[..., 1:-1] *= 2
    band = (size > 0.1) & (size < 0.42)
    unit = np.stack([kz, ky, kx], -1)[band] / size[band][:, None]
    weight = squares[band] / np.interp(size[band], k, shell_power)
    along = np.linalg.eigvalsh((unit * weight[:, None]).T @ unit / weight.sum())[-1]
    return float(squares[size > 0.5 + 1 / n].sum() / squares.sum()), float(along)


def find_solvent(mask: np.ndarray, rate: float) -> np.ndarray:
    """Find the voxels far from the molecule and inside the box's sphere."""
    far = ndimage.distance_transform_edt(mask < 0.5) * rate > FAR
    return far & (distance_from_centre(mask.shape) < 0.45 * mask.shape[0])


def match(real: Curves, molecule: Molecule, conditions: Conditions) -> tuple[Curves, Conditions]:
    """Simulate half maps with the resolution, contrast and disorder of real ones.

    Each is found by three corrections.
    """
    conditions = replace(conditions, resolution=real.resolution, b_factor=real.noise_b)
    near = np.abs(real.k * real.resolution - 1) < 0.08
    for last in (False, False, False, True):
        made = simulate_halves(molecule, conditions, 3, workers=2)
        curves = measure(made.half1, made.half2, made.model, conditions.sampling_rate)
        if last:
            break
        # Of the disorder's B about a third is in the signal's mean.
        missing = (real.signal_b - real.noise_b) - (curves.signal_b - curves.noise_b)
        disorder = conditions.disorder + missing / 0.35
        # FSC = SNR / (1 + SNR).
        snr = [np.mean(c.masked[near] / (1 - c.masked[near])) for c in (curves, real)]
        conditions = replace(
            conditions,
            noise=conditions.noise * float(np.sqrt(snr[0] / snr[1])),
            disorder=float(np.clip(disorder, 0, 250)),
        )
    return curves, conditions


def rms(values: np.ndarray) -> float:
    """Compute the root of the mean square."""
    return float(np.sqrt(np.mean(np.square(values))))


def measure_distances(real: Curves, made: Curves) -> list[float]:
    """Measure how far simulated curves are from real ones, in the order of COLUMNS."""
    seen = slice(1, len(real.k))
    noise = (made.noise - real.noise)[seen]
    guinier = (made.guinier - real.guinier)[real.k > 1 / 20]
    return [
        rms(noise - np.median(noise)),
        rms((made.fsc - real.fsc)[seen]),
        rms((made.masked - real.masked)[seen]),
        rms(guinier - guinier.mean()),
        rms(made.deviation - real.deviation),
        rms(made.autocorrelation - real.autocorrelation),
    ]


COLUMNS = [
    "ln noise power",
    "FSC, unmasked",
    "FSC, masked",
    "ln power of the mean map",
    "noise SD by radius",
    "autocorrelation of the noise",
]


def format_tables(results: Results) -> str:
    """Format how far plain and reconstructed noise are from the real one, in Markdown."""
    return (
        "\n".join(
            [
                *format_distances(results),
                "",
                *format_properties(results),
                "",
                *format_conditions(results),
            ]
        )
        + "\n"
    )


def format_distances(results: Results) -> list[str]:
    """Format the distances of COLUMNS."""
    lines = ["| | " + " | ".join(COLUMNS) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    every = np.array(
        [
            [measure_distances(real, made) for made in (before, after)]
            for real, before, after, _ in results.values()
        ]
    )
    for name, (one, other) in zip(results, every, strict=True):
        cells = " | ".join(f"{a:.3f} → {b:.3f}" for a, b in zip(one, other, strict=True))
        lines.append(f"| {name} | {cells} |")
    one, other = np.median(every, axis=0)
    cells = " | ".join(f"**{a:.3f} → {b:.3f}**" for a, b in zip(one, other, strict=True))
    return [*lines, f"| **median** | {cells} |"]


def format_properties(results: Results) -> list[str]:
    """Format single numbers of the noise and the solvent: real / plain / reconstructed."""
    lines = [
        "| | noise power beyond Nyquist (%) | noise along its strongest axis "
        "| skewness of the solvent | excess kurtosis of the solvent |",
        "|---|---|---|---|---|",
    ]
    scales = {"beyond": 100, "along": 1, "skewness": 1, "kurtosis": 1}
    for name, (*curves, _) in results.items():
        cells = [
            " / ".join(f"{scale * getattr(c, what):.2f}" for c in curves)
            for what, scale in scales.items()
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def format_conditions(results: Results) -> list[str]:
    """Format what the maps were simulated with."""
    lines = [
        "| | box, A/voxel | B of the noise (A²) | FSC-0.143, masked (A) | simulated with |",
        "|---|---|---|---|---|",
    ]
    for name, (real, _, after, c) in results.items():
        other = ", micelle 0.5" * bool(c.micelle) + ", preferred views" * bool(c.preferred)
        lines.append(
            f"| {name} | {c.box}, {c.sampling_rate:.2f} | {real.noise_b:.0f} | "
            f"{real.resolution:.2f} / {after.resolution:.2f} | "
            f"noise {c.noise:.2f}, B {c.b_factor:.0f} A², disorder {c.disorder:.0f} A²{other} |"
        )
    return lines


STYLES = (
    ("RELION", {"color": "black", "lw": 2.2, "ls": "-"}),
    ("simulated, plain noise", {"color": "tab:orange", "lw": 1.3, "ls": "--"}),
    ("simulated", {"color": "tab:blue", "lw": 1.3, "ls": "-"}),
)
TITLES = (
    "Noise: power of half the difference",
    "FSC: in a mask (strong), unmasked (pale)",
    "Guinier curve",
    "Noise by distance from the centre",
    "Noise: radial autocorrelation",
)


def plot_results(path: Path, results: Results) -> None:
    """Write a PNG with a row of curves for each structure."""
    figure, axes = subplots(
        len(results), 5, figsize=(20, 3.1 * len(results)), layout="constrained", squeeze=False
    )
    for row, (name, (*curves, _)) in zip(axes, results.items(), strict=True):
        _plot_row(row, name, curves)
    for axis, title in zip(axes[0], TITLES, strict=True):
        axis.set_title(title)
    axes[0, 0].legend(fontsize=9, loc="lower left")
    figure.savefig(path, dpi=75)


def _plot_row(row: np.ndarray, name: str, curves: list[Curves]) -> None:
    real = curves[0]
    coarse, top = real.k > 1 / 20, real.noise[1:].max()
    guinier_top = real.guinier[1:].max() / 2
    for c, (label, style) in zip(curves, STYLES, strict=True):
        shift = np.median((c.noise - real.noise)[1:])
        row[0].plot(c.k[1:], c.noise[1:] - shift - top, label=label, **style)
        row[1].plot(c.k, c.masked, label=f"{label}, masked", **style)
        row[1].plot(c.k, c.fsc, alpha=0.5, **style)
        shift = (c.guinier - real.guinier)[coarse].mean()
        row[2].plot(c.k**2, c.guinier / 2 - shift / 2 - guinier_top, **style)
        row[3].plot(c.radii, c.deviation, **style)
        row[4].plot(LAGS, c.autocorrelation, marker=".", **style)
    lowest = (real.noise[1:] - top).min()
    frequency = "frequency (1/Å)"
    row[0].set(ylabel=f"{name}\nln noise power", xlabel=frequency, ylim=(lowest - 0.7, 0.7))
    row[1].axhline(0.143, color="grey", lw=0.6)
    row[1].set(ylabel="FSC of the halves", xlabel=frequency, ylim=(-0.05, 1.02))
    shown = real.guinier[real.k > 1 / 40] / 2 - guinier_top
    limits = shown.min() - 0.4, shown.max() + 0.4
    row[2].set(ylabel="ln |F| of the mean map", xlabel="frequency² (1/Å²)", ylim=limits)
    row[3].set(
        ylabel="SD of the noise, inside = 1",
        xlabel="voxels beyond half the box",
        ylim=(-0.03, 1.15),
    )
    row[4].set(ylabel="autocorrelation of the noise", xlabel="distance (voxels)")


def compare(reconstructions: Path, structures: Path, output: Path) -> None:
    """Compare with reconstructions, and write the tables and the picture."""
    splits = split_structures(structures)
    files = {file.name.split(".")[0]: file for group in splits.values() for file in group}
    results: Results = {}
    for name, model in MODELS.items():
        half1, half2, truth = (
            read_map(reconstructions / f"{name}_{part}.mrc.gz")
            for part in ("half1", "half2", "model")
        )
        rate = half1.sampling_rate
        real = measure(half1.data, half2.data, truth.data, rate)
        # The reconstructions' poses were perturbed by about 0.8 degrees and a quarter of a voxel.
        base = Conditions(
            box=half1.data.shape[0],
            sampling_rate=rate,
            angle_error=0.8,
            pose_error=0.25 * rate,
            **KNOWN.get(name, {}),
        )
        molecule = read_molecule(files[model])
        before, _ = match(real, molecule, replace(base, reconstruction=False))
        after, conditions = match(real, molecule, base)
        results[name] = real, before, after, conditions
        distances = [measure_distances(real, c) for c in (before, after)]
        print(name, np.round(distances, 3).tolist(), flush=True)
    text = output.read_text()
    start, end = text.index(BEGIN) + len(BEGIN), text.index(END)
    output.write_text(text[:start] + format_tables(results) + text[end:])
    plot_results(output.with_suffix(".png"), results)


def _count_pairs(job: tuple[list[Molecule], int, float]) -> int:
    """Count the half-map pairs of one process in so many seconds of its core."""
    molecules, seed, seconds = job
    rng, done = np.random.default_rng(seed), 0
    end = time.process_time() + seconds
    while time.process_time() < end:
        molecule = molecules[int(rng.integers(len(molecules)))]
        simulate_halves(molecule, random_conditions(rng), int(rng.integers(2**31)))
        done += 1
    return done


def measure_speed(structures: Path | None, workers: int, seconds: float) -> None:
    """Print how many pairs are made in an hour of several processes."""
    if structures is None:
        molecules = [from_structure(build_protein(seed)) for seed in range(4)]
    else:
        molecules = [read_molecule(file) for file in split_structures(structures)["train"][::6]]
    with multiprocessing.get_context("fork").Pool(workers) as pool:
        made = pool.map(_count_pairs, [(molecules, seed, seconds) for seed in range(workers)])
    print(
        f"{sum(made)} half-map pairs of {len(molecules)} molecules in {seconds:g} s of a core each "
        f"by {workers} processes: {sum(made) * 3600 / seconds:.0f} an hour"
    )


def main() -> int:
    """Run the benchmark; returns its exit status."""
    p = argparse.ArgumentParser()
    p.add_argument("--reconstructions", type=Path)
    p.add_argument("--structures", type=Path)
    p.add_argument("--output", type=Path, default=Path("docs/simulation.md"))
    p.add_argument("--speed", action="store_true")
    p.add_argument("--workers", type=int, default=2)
    p.add_argument("--seconds", type=float, default=120)
    a = p.parse_args()
    if a.speed:
        measure_speed(a.structures, a.workers, a.seconds)
    elif a.reconstructions and a.structures:
        compare(a.reconstructions, a.structures, a.output)
    else:
        p.error("--reconstructions and --structures, or --speed, are needed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
