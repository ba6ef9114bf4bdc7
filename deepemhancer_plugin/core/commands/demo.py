"""`deepemhancer demo`: simulated half maps of a synthetic protein, enhanced and compared with the truth."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from deepemhancer_plugin.core.commands.terminal import log
from deepemhancer_plugin.core.evaluation import Scores
from deepemhancer_plugin.core.files import make_folder
from deepemhancer_plugin.core.maps import spectrum
from deepemhancer_plugin.core.plotting import subplots
from deepemhancer_plugin.core.simulation import Conditions

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


def main(arguments: Sequence[str]) -> int:
    """`deepemhancer demo [DIR]`"""
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
    p.add_argument("-g", "--gpuIds", dest="gpu")
    p.add_argument("--seed", type=int, default=0)
    a = p.parse_args(arguments)
    folder = make_folder(a.directory)
    from deepemhancer_plugin.core.commands.enhance import main as enhance
    from deepemhancer_plugin.core.evaluation import score, soft_mask
    from deepemhancer_plugin.core.maps import mrc
    from deepemhancer_plugin.core.simulation import from_structure
    from deepemhancer_plugin.core.simulation import simulate_halves as make
    from deepemhancer_plugin.core.simulation.synthetic import build_protein

    log("building the protein and simulating its half maps at 4 A, with disorder and a micelle")
    structure = build_protein(a.seed)
    made = make(from_structure(structure), CONDITIONS, a.seed, workers=-1)
    structure.write_pdb(str(folder / "protein.pdb"))
    halves = []
    for name, data in (("half1", made.half1), ("half2", made.half2), ("model", made.model)):
        path = str(folder / f"{name}.mrc")
        mrc.write_map(
            path,
            data,
            mrc.new_map(data, made.sampling_rate, made.origin),
            ["simulated by deepemhancer demo"],
        )
        halves.append(path)
    output = str(folder / "enhanced.mrc")
    status = enhance(
        ["-i", halves[0], "-i2", halves[1], "-o", output, *(["-g", a.gpu] if a.gpu else [])]
    )
    if status:
        return status
    enhanced = mrc.read_map(output).data
    mean = (made.half1 + made.half2) / 2
    mask = soft_mask(made.model, made.sampling_rate)
    scores = [score(volume, made.model, mask, made.sampling_rate) for volume in (mean, enhanced)]
    print(table(*scores))
    picture(folder / "before_after.png", mean, enhanced, made.model, mask, made.sampling_rate)
    log(f"wrote {folder / 'before_after.png'}")
    sys.stdout.flush()
    return 0


def table(before: Scores, after: Scores) -> str:
    """The scores against the model's map, as text."""
    rows = [
        ("map-model FSC = 0.5, in the mask", "A", before.fsc_masked, after.fsc_masked),
        ("map-model FSC = 0.5, unmasked", "A", before.fsc_unmasked, after.fsc_unmasked),
        ("CC_mask", "", before.cc_mask, after.cc_mask),
        ("CC_box", "", before.cc_box, after.cc_box),
    ]
    lines = [f"{'':<36}{'mean of halves':>16}{'enhanced':>12}"]
    lines += [
        f"{name:<36}{one:>14.2f} {unit or ' '}{two:>10.2f} {unit or ' '}"
        for name, unit, one, two in rows
    ]
    return "\n".join(lines)


def picture(
    path: Path,
    before: np.ndarray,
    after: np.ndarray,
    model: np.ndarray,
    mask: np.ndarray,
    rate: float,
) -> None:
    """Central slices of the maps (z, y, x) and their FSC curves against the model's map, as a PNG."""
    figure, axes = subplots(
        1, 4, figsize=(15, 4.2), width_ratios=[1, 1, 1, 1.35], layout="constrained"
    )
    middle = int(np.argmax(np.square(model).sum((1, 2))))
    edge = model.shape[2] * rate
    for axis, (title, volume) in zip(
        axes,
        (("mean of the half maps", before), ("enhanced", after), ("atomic model's map", model)),
        strict=False,
    ):
        low, high = np.percentile(volume, 1), np.percentile(volume[mask > 0.5], 99.7)
        axis.imshow(
            volume[middle],
            cmap="gray",
            vmin=low,
            vmax=high,
            origin="lower",
            extent=(0, edge, 0, edge),
            interpolation="nearest",
        )
        axis.set_title(title)
        axis.set_xlabel("x (Å)")
    axes[0].set_ylabel("y (Å)")
    plot = axes[3]
    for name, volume, colour in (
        ("mean of halves", before, "tab:gray"),
        ("enhanced", after, "tab:blue"),
    ):
        for masked, style in ((True, "-"), (False, ":")):
            weight = mask if masked else 1
            k, curve = spectrum.fsc(volume * weight, model * weight, rate)
            plot.plot(
                k,
                curve,
                style,
                color=colour,
                label=f"{name}, {'in the mask' if masked else 'unmasked'}",
            )
    plot.axhline(0.5, color="black", linewidth=0.6)
    plot.set(
        xlim=(0, 0.4 / rate), ylim=(-0.1, 1.03), ylabel="map-model FSC", xlabel="resolution (Å)"
    )
    ticks = [20, 10, 6, 5, 4, 3.5, 3, 2.5]
    plot.set_xticks([1 / t for t in ticks], [f"{t:g}" for t in ticks])
    plot.legend(fontsize=8, loc="lower left")
    figure.savefig(path, dpi=110)
