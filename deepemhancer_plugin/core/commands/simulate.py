"""`deepemhancer simulate`: half maps of an atomic model."""

import argparse
import os
from collections.abc import Sequence

from deepemhancer_plugin.core.commands.terminal import log
from deepemhancer_plugin.core.files import check_outputs
from deepemhancer_plugin.core.simulation.halves import name_outputs
from deepemhancer_plugin.core.simulation.simulate import simulate


def _parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        "deepemhancer simulate",
        description="Half maps that a reconstruction of an atomic model would give, the map that "
        "the enhancer should make of them, and the model's own map, all in the model's place.",
    )
    p.add_argument("model", metavar="MODEL", help="atomic model, PDB or mmCIF, also .gz")
    p.add_argument(
        "-o",
        "--output",
        required=True,
        metavar="PREFIX",
        help="writes PREFIX_half1.mrc, _half2.mrc, _target.mrc, _model.mrc",
    )
    p.add_argument(
        "--resolution",
        type=float,
        default=3.5,
        help="A where the halves' FSC in the molecule falls to 0.143 (default: %(default)s)",
    )
    p.add_argument(
        "-s", "--samplingRate", type=float, default=1.0, help="A/voxel (default: %(default)s)"
    )
    p.add_argument(
        "--box", type=int, help="voxels of an edge (default: the molecule and 16 A on every side)"
    )
    p.add_argument(
        "--bFactor", type=float, default=80.0, help="loss of contrast, A^2 (default: %(default)s)"
    )
    p.add_argument(
        "--disorder",
        type=float,
        default=60.0,
        help="B added at the most flexible end, A^2 (default: %(default)s)",
    )
    p.add_argument(
        "--micelle",
        type=float,
        default=0.0,
        help="density of a detergent belt relative to the molecule's mean, 0-1 (default: none)",
    )
    p.add_argument(
        "--preferred",
        type=float,
        default=0.0,
        help="0-1: crowding of the views about one direction (default: %(default)s)",
    )
    p.add_argument("--seed", type=int, default=0)
    return p


def main(arguments: Sequence[str]) -> int:
    """Run `deepemhancer simulate MODEL -o PREFIX`; returns its exit status."""
    a = _parser().parse_args(arguments)
    outputs = name_outputs(a.output)
    check_outputs(outputs, [a.model])
    simulated = simulate(
        a.model,
        resolution=a.resolution,
        sampling_rate=a.samplingRate,
        box=a.box,
        b_factor=a.bFactor,
        disorder=a.disorder,
        micelle=a.micelle,
        preferred=a.preferred,
        seed=a.seed,
    )
    label = f"simulated by deepemhancer from {os.path.basename(a.model)}"
    for path in simulated.save(a.output, label):
        log(f"wrote {path}")
    log(f"noise of the halves' mean: standard deviation {simulated.noise_std:.4g}")
    return 0
