"""How near simulated half maps come to half maps made by a reconstruction program, and how many are made in an hour.

    python benchmarks/simulation.py --reconstructions DIR --structures DIR [--output docs/simulation.md]
    python benchmarks/simulation.py --speed [--structures DIR] [--workers 2] [--seconds 120]

DIR of reconstructions: NAME_half1.mrc.gz, NAME_half2.mrc.gz and NAME_model.mrc.gz; DIR of structures: the atomic models they were made of,
with an index.tsv (columns file and split). The first command writes the tables between the marks of docs/simulation.md and the picture
beside it; the second one prints the speed with the conditions that training draws.
"""

import argparse
import csv
import multiprocessing
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy import fft, ndimage, stats

from deepemhancer_plugin.core.evaluation import soft_mask
from deepemhancer_plugin.core.maps import mrc, spectrum
from deepemhancer_plugin.core.simulation import (
    Conditions,
    Molecule,
    from_structure,
    random_conditions,
    read_molecule,
    simulate_halves,
)
from deepemhancer_plugin.core.simulation.synthetic import build_protein

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


@dataclass(frozen=True)
class Curves:
    """What is compared. Frequencies k in 1/A; noise and guinier: natural logarithms of the power of (half1 - half2) / 2 and of the mean map;
    radii in voxels from the edge of the box's sphere, and the noise's standard deviation there against the inside's; distances in voxels and
    the autocorrelation of the noise, radial mean; beyond: share of the noise's power beyond the Nyquist sphere; along: of its direction-wise
    power, along the strongest axis (1/3: isotropic); skewness and excess kurtosis of the mean map in the solvent."""

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
        return spectrum.resolution(self.k, self.masked, 0.143)


def measure(half1: np.ndarray, half2: np.ndarray, model: np.ndarray, rate: float) -> Curves:
    """Everything compared of a pair of half maps and their atomic model's map (z, y, x)."""
    n = half1.shape[0]
    mean, noise = (half1 + half2) / 2, (half1 - half2) / 2
    transforms = [fft.rfftn(v, workers=2) for v in (mean, noise, model)]
    powers = [spectrum.power(f, noise.shape, rate) for f in transforms]
    mask = soft_mask(model, rate)
    k, curve = spectrum.fsc(half1, half2, rate)
    _, masked = spectrum.fsc(half1 * mask, half2 * mask, rate)
    shells = slice(0, len(k))
    middle = (k > 0.06) & (k < 0.42 / rate)
    noise_b = -2 * np.polyfit(k[middle] ** 2, np.log(powers[1][shells][middle] / k[middle]), 1)[0]
    transfer = (
        spectrum.radial_mean((transforms[0] * np.conj(transforms[2])).real, noise.shape, rate)[
            shells
        ]
        / powers[2][shells]
    )
    some = (k > 0.08) & (k < 0.3)
    signal_b = -4 * np.polyfit(k[some] ** 2, np.log(np.maximum(transfer[some], 1e-6)), 1)[0]

    grid = np.meshgrid(*[np.arange(n) - n // 2] * 3, indexing="ij", sparse=True)
    radius = np.sqrt(sum(g**2 for g in grid))
    edges = np.arange(-n // 2 + 6, 9)
    deviation = (
        np.array([noise[np.floor(radius - n / 2) == e].std() for e in edges])
        / noise[radius < 0.4 * n].std()
    )
    inside = noise * (radius < 0.45 * n)
    correlation = fft.fftshift(fft.irfftn(np.abs(fft.rfftn(inside)) ** 2, s=inside.shape))
    lags = np.arange(0, 9)
    autocorrelation = (
        np.array([correlation[np.round(radius) == lag].mean() for lag in lags]) / correlation.max()
    )

    frequencies = [fft.fftfreq(n), fft.fftfreq(n), fft.rfftfreq(n)]
    kz, ky, kx = np.meshgrid(*frequencies, indexing="ij")
    size = np.sqrt(kz**2 + ky**2 + kx**2)
    power = np.abs(transforms[1]) ** 2
    power[..., 1:-1] *= 2
    band = (size > 0.1) & (size < 0.42)
    unit = np.stack([kz, ky, kx], -1)[band] / size[band][:, None]
    # Whitened, so that the direction alone counts.
    weight = power[band] / np.interp(size[band] / rate, k, powers[1][shells])
    along = np.linalg.eigvalsh((unit * weight[:, None]).T @ unit / weight.sum())[-1]
    solvent = mean[(ndimage.distance_transform_edt(mask < 0.5) * rate > FAR) & (radius < 0.45 * n)]
    return Curves(
        k,
        np.log(powers[1][shells]),
        curve,
        masked,
        np.log(powers[0][shells]),
        edges + 0.5,
        deviation,
        autocorrelation,
        float(power[size > 0.5 + 1 / n].sum() / power.sum()),
        float(along),
        float(stats.skew(solvent)),
        float(stats.kurtosis(solvent)),
        float(noise_b),
        float(signal_b),
    )


def matched(real: Curves, molecule: Molecule, conditions: Conditions) -> tuple[Curves, Conditions]:
    """Simulated half maps with the resolution, contrast and disorder of the real ones, each found by three corrections."""
    conditions = replace(conditions, resolution=real.resolution, b_factor=real.noise_b)
    near = np.abs(real.k * real.resolution - 1) < 0.08
    for last in (False, False, False, True):
        made = simulate_halves(molecule, conditions, 3, workers=2)
        curves = measure(made.half1, made.half2, made.model, conditions.sampling_rate)
        if last:
            break
        # Of the disorder's B about a third is in the signal's mean.
        disorder = (
            conditions.disorder
            + ((real.signal_b - real.noise_b) - (curves.signal_b - curves.noise_b)) / 0.35
        )
        # FSC = SNR / (1 + SNR).
        snr = [np.mean(c.masked[near] / (1 - c.masked[near])) for c in (curves, real)]
        conditions = replace(
            conditions,
            noise=conditions.noise * float(np.sqrt(snr[0] / snr[1])),
            disorder=float(np.clip(disorder, 0, 250)),
        )
    return curves, conditions


def rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


def distances(real: Curves, made: Curves) -> list[float]:
    """The columns of COLUMNS."""
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


def tables(results: dict[str, tuple[Curves, Curves, Curves, Conditions]]) -> str:
    lines = ["| | " + " | ".join(COLUMNS) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    every = np.array(
        [
            [distances(real, made) for made in (before, after)]
            for real, before, after, _ in results.values()
        ]
    )
    for name, (one, other) in zip(results, every, strict=True):
        lines.append(
            f"| {name} | "
            + " | ".join(f"{a:.3f} → {b:.3f}" for a, b in zip(one, other, strict=True))
            + " |"
        )
    middle = np.median(every, axis=0)
    lines.append(
        "| **median** | "
        + " | ".join(f"**{a:.3f} → {b:.3f}**" for a, b in zip(*middle, strict=True))
        + " |"
    )
    lines += [
        "",
        "| | noise power beyond Nyquist (%) | noise along its strongest axis | skewness of the solvent | excess kurtosis of the solvent |",
        "|---|---|---|---|---|",
    ]
    for name, (real, before, after, _) in results.items():
        lines.append(
            f"| {name} | "
            + " | ".join(
                " / ".join(f"{scale * getattr(c, what):.2f}" for c in (real, before, after))
                for what, scale in (("beyond", 100), ("along", 1), ("skewness", 1), ("kurtosis", 1))
            )
            + " |"
        )
    lines += [
        "",
        "| | box, A/voxel | B of the noise (A²) | FSC-0.143, masked (A) | simulated with |",
        "|---|---|---|---|---|",
    ]
    for name, (real, _, after, c) in results.items():
        other = ", micelle 0.5" * bool(c.micelle) + ", preferred views" * bool(c.preferred)
        lines.append(
            f"| {name} | {c.box}, {c.sampling_rate:.2f} | {real.noise_b:.0f} | {real.resolution:.2f} / {after.resolution:.2f} | "
            f"noise {c.noise:.2f}, B {c.b_factor:.0f} A², disorder {c.disorder:.0f} A²{other} |"
        )
    return "\n".join(lines) + "\n"


def picture(path: Path, results: dict[str, tuple[Curves, Curves, Curves, Conditions]]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(
        len(results), 5, figsize=(20, 3.1 * len(results)), layout="constrained", squeeze=False
    )
    styles = (
        ("RELION", "black", 2.2, "-"),
        ("simulated, plain noise", "tab:orange", 1.3, "--"),
        ("simulated", "tab:blue", 1.3, "-"),
    )
    for row, (name, (*curves, _)) in zip(axes, results.items(), strict=True):
        real = curves[0]
        for c, (label, colour, width, dash) in zip(curves, styles, strict=True):
            kind = {"color": colour, "lw": width, "ls": dash}
            shift = np.median((c.noise - real.noise)[1:])
            row[0].plot(c.k[1:], c.noise[1:] - shift - real.noise[1:].max(), label=label, **kind)
            row[1].plot(c.k, c.masked, label=f"{label}, masked", **kind)
            row[1].plot(c.k, c.fsc, alpha=0.5, **kind)
            shift = (c.guinier - real.guinier)[real.k > 1 / 20].mean()
            row[2].plot(c.k**2, c.guinier / 2 - shift / 2 - real.guinier[1:].max() / 2, **kind)
            row[3].plot(c.radii, c.deviation, **kind)
            row[4].plot(np.arange(len(c.autocorrelation)), c.autocorrelation, marker=".", **kind)
        row[0].set(
            ylabel=f"{name}\nln noise power",
            xlabel="frequency (1/Å)",
            ylim=(min(real.noise[1:] - real.noise[1:].max()) - 0.7, 0.7),
        )
        row[1].axhline(0.143, color="grey", lw=0.6)
        row[1].set(ylabel="FSC of the halves", xlabel="frequency (1/Å)", ylim=(-0.05, 1.02))
        shown = real.guinier[real.k > 1 / 40] / 2 - real.guinier[1:].max() / 2
        row[2].set(
            ylabel="ln |F| of the mean map",
            xlabel="frequency² (1/Å²)",
            ylim=(shown.min() - 0.4, shown.max() + 0.4),
        )
        row[3].set(
            ylabel="SD of the noise, inside = 1",
            xlabel="voxels beyond half the box",
            ylim=(-0.03, 1.15),
        )
        row[4].set(ylabel="autocorrelation of the noise", xlabel="distance (voxels)")
    for axis, title in zip(
        axes[0],
        (
            "Noise: power of half the difference",
            "FSC: in a mask (strong), unmasked (pale)",
            "Guinier curve",
            "Noise by distance from the centre",
            "Noise: radial autocorrelation",
        ),
        strict=True,
    ):
        axis.set_title(title)
    axes[0, 0].legend(fontsize=9, loc="lower left")
    figure.savefig(path, dpi=75)
    plt.close(figure)


def compare(reconstructions: Path, structures: Path, output: Path) -> None:
    with open(structures / "index.tsv", newline="") as stream:
        files = {
            row["file"].split(".")[0]: row["file"] for row in csv.DictReader(stream, delimiter="\t")
        }
    results = {}
    for name, model in MODELS.items():
        half1, half2, truth = (
            mrc.read_map(reconstructions / f"{name}_{part}.mrc.gz")
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
        molecule = read_molecule(structures / files[model])
        before, _ = matched(real, molecule, replace(base, reconstruction=False))
        after, conditions = matched(real, molecule, base)
        results[name] = real, before, after, conditions
        print(name, np.round([distances(real, c) for c in (before, after)], 3).tolist(), flush=True)
    text = output.read_text()
    start, end = text.index(BEGIN) + len(BEGIN), text.index(END)
    output.write_text(text[:start] + tables(results) + text[end:])
    picture(output.with_suffix(".png"), results)


def _pairs(job: tuple[list[Molecule], int, float]) -> int:
    """Half-map pairs that one process makes in so many seconds of its core, whatever else runs on the machine."""
    molecules, seed, seconds = job
    rng, end, done = np.random.default_rng(seed), time.process_time() + seconds, 0
    while time.process_time() < end:
        simulate_halves(
            molecules[int(rng.integers(len(molecules)))],
            random_conditions(rng),
            int(rng.integers(2**31)),
        )
        done += 1
    return done


def speed(structures: Path | None, workers: int, seconds: float) -> None:
    if structures is None:
        molecules = [from_structure(build_protein(seed)) for seed in range(4)]
    else:
        with open(structures / "index.tsv", newline="") as stream:
            files = [
                row["file"]
                for row in csv.DictReader(stream, delimiter="\t")
                if row["split"] == "train"
            ]
        molecules = [read_molecule(structures / file) for file in files[::6]]
    with multiprocessing.get_context("fork").Pool(workers) as pool:
        made = pool.map(_pairs, [(molecules, seed, seconds) for seed in range(workers)])
    print(
        f"{sum(made)} half-map pairs of {len(molecules)} molecules in {seconds:g} s of a core each by {workers} processes: "
        f"{sum(made) * 3600 / seconds:.0f} an hour"
    )


def main() -> int:
    p = argparse.ArgumentParser()
    p.add_argument("--reconstructions", type=Path)
    p.add_argument("--structures", type=Path)
    p.add_argument("--output", type=Path, default=Path("docs/simulation.md"))
    p.add_argument("--speed", action="store_true")
    p.add_argument("--workers", type=int, default=2)
    p.add_argument("--seconds", type=float, default=120)
    a = p.parse_args()
    if a.speed:
        speed(a.structures, a.workers, a.seconds)
    elif a.reconstructions and a.structures:
        compare(a.reconstructions, a.structures, a.output)
    else:
        p.error("--reconstructions and --structures, or --speed, are needed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
