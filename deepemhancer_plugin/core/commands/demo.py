"""`deepemhancer demo`: simulated half maps of a synthetic protein, enhanced, beside the truth."""

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from deepemhancer_plugin.core import enhance
from deepemhancer_plugin.core.commands.flags import add_gpus
from deepemhancer_plugin.core.commands.terminal import (
    Progress,
    collect_warnings,
    log,
    run_interruptible,
)
from deepemhancer_plugin.core.evaluation import Scores, score, soft_mask
from deepemhancer_plugin.core.files import make_folder, write_text
from deepemhancer_plugin.core.maps.mrc import new_map, write_map
from deepemhancer_plugin.core.maps.spectrum import fsc
from deepemhancer_plugin.core.plotting import subplots
from deepemhancer_plugin.core.simulation import (
    Conditions,
    Simulated,
    from_structure,
    simulate_halves,
)
from deepemhancer_plugin.core.simulation.synthetic import build_protein

CONDITIONS = Conditions(
    resolution=4.0,
    disorder=120.0,
    b_factor=100.0,
    micelle=0.5,
    micelle_height=14.0,
    micelle_width=10.0,
    margin=28.0,
    random_pose=False,
)
TICKS = 20, 10, 6, 5, 4, 3.5, 3, 2.5  # A


def main(arguments: Sequence[str]) -> int:
    """Run `deepemhancer demo [DIR]`; returns its exit status."""
    p = argparse.ArgumentParser(
        "deepemhancer demo",
        description="Simulate half maps of a synthetic protein at 4 A, enhance them, and "
        "compare with the truth.",
    )
    p.add_argument(
        "directory",
        nargs="?",
        default="demo",
        help="where the maps, the report and before_after.png go (default: %(default)s)",
    )
    add_gpus(p)
    p.add_argument("--seed", type=int, default=0)
    a = p.parse_args(arguments)
    folder = make_folder(a.directory)

    log("building the protein and simulating its half maps at 4 A, with disorder and a micelle")
    simulated = _simulate_protein(folder, a.seed)
    enhanced = _enhance_halves(folder, a.gpu)

    mean, rate = (simulated.half1 + simulated.half2) / 2, simulated.sampling_rate
    mask = soft_mask(simulated.model, rate)
    before, after = (score(volume, simulated.model, mask, rate) for volume in (mean, enhanced))
    print(format_table(before, after), flush=True)
    picture = folder / "before_after.png"
    plot_maps(picture, mean, enhanced, simulated.model, mask, rate)
    log(f"wrote {picture}")
    return 0


def _simulate_protein(folder: Path, seed: int) -> Simulated:
    """Write the protein, its half maps and its own map."""
    structure = build_protein(seed)
    simulated = simulate_halves(from_structure(structure), CONDITIONS, seed, workers=-1)
    structure.write_pdb(str(folder / "protein.pdb"))
    for name in ("half1", "half2", "model"):
        data = getattr(simulated, name)
        geometry = new_map(data, simulated.sampling_rate, simulated.origin)
        write_map(folder / f"{name}.mrc", data, geometry, ["simulated by deepemhancer demo"])
    return simulated


def _enhance_halves(folder: Path, device: str | None) -> np.ndarray:
    """Enhance the half maps, and write the map and its report."""
    output = folder / "enhanced.mrc"
    with collect_warnings() as messages, Progress() as progress:
        result = run_interruptible(
            lambda: enhance(
                folder / "half1.mrc", folder / "half2.mrc", device=device, progress=progress
            )
        )
    result.save(output)
    report = {**result.report, "output": os.path.abspath(output), "warnings": messages}
    write_text(folder / "enhanced.json", json.dumps(report, indent=1) + "\n")
    log(f"wrote {output}")
    return np.asarray(result.data)


def format_table(before: Scores, after: Scores) -> str:
    """Format the scores against the model's map, before and after."""
    rows = [
        ("map-model FSC = 0.5, in the mask", "A", before.fsc_masked, after.fsc_masked),
        ("map-model FSC = 0.5, unmasked", "A", before.fsc_unmasked, after.fsc_unmasked),
        ("CC_mask", " ", before.cc_mask, after.cc_mask),
        ("CC_box", " ", before.cc_box, after.cc_box),
    ]
    lines = [f"{'':<36}{'mean of halves':>16}{'enhanced':>12}"]
    lines += [f"{name:<36}{one:>14.2f} {unit}{two:>10.2f} {unit}" for name, unit, one, two in rows]
    return "\n".join(lines)


def plot_maps(
    path: Path,
    before: np.ndarray,
    after: np.ndarray,
    model: np.ndarray,
    mask: np.ndarray,
    rate: float,
) -> None:
    """Write a PNG with central slices of the maps, and their FSC with the model's map.

    Args:
        path: the file.
        before: mean of the half maps (z, y, x).
        after: the enhanced map.
        model: the atomic model's map.
        mask: soft mask, 0-1.
        rate: sampling rate in A/voxel.
    """
    figure, axes = subplots(
        1, 4, figsize=(15, 4.2), width_ratios=[1, 1, 1, 1.35], layout="constrained"
    )
    middle = int(np.argmax(np.square(model).sum((1, 2))))
    slices = {"mean of the half maps": before, "enhanced": after, "atomic model's map": model}
    for axis, (title, volume) in zip(axes, slices.items(), strict=False):
        edge = model.shape[2] * rate
        axis.imshow(
            volume[middle],
            cmap="gray",
            vmin=np.percentile(volume, 1),
            vmax=np.percentile(volume[mask > 0.5], 99.7),
            origin="lower",
            extent=(0, edge, 0, edge),
            interpolation="nearest",
        )
        axis.set(title=title, xlabel="x (Å)")
    axes[0].set_ylabel("y (Å)")
    curves = axes[3]
    for name, volume, colour in (
        ("mean of halves", before, "tab:gray"),
        ("enhanced", after, "tab:blue"),
    ):
        frequency, masked = fsc(volume * mask, model * mask, rate)
        curves.plot(frequency, masked, color=colour, label=f"{name}, in the mask")
        unmasked = fsc(volume, model, rate)[1]
        curves.plot(frequency, unmasked, ":", color=colour, label=f"{name}, unmasked")
    curves.axhline(0.5, color="black", linewidth=0.6)
    curves.set(
        xlim=(0, 0.4 / rate), ylim=(-0.1, 1.03), ylabel="map-model FSC", xlabel="resolution (Å)"
    )
    curves.set_xticks([1 / tick for tick in TICKS], [f"{tick:g}" for tick in TICKS])
    curves.legend(fontsize=8, loc="lower left")
    figure.savefig(path, dpi=110)
