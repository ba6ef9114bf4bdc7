"""`deepemhancer simulate`: half maps of an atomic model."""

import argparse
import os
from collections.abc import Sequence

from deepemhancer_plugin.core.commands.terminal import log
from deepemhancer_plugin.core.errors import InputError
from deepemhancer_plugin.core.files import check_outputs


def main(arguments: Sequence[str]) -> int:
    """`deepemhancer simulate MODEL -o PREFIX`"""
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
    a = p.parse_args(arguments)
    if not 2 * a.samplingRate < a.resolution <= 30:
        raise InputError(
            f"--resolution {a.resolution:g}: between twice the sampling rate ({2 * a.samplingRate:g} A) and 30 A is right"
        )
    if a.box is not None and not 24 <= a.box <= 1024:
        raise InputError(f"--box {a.box}: 24 to 1024 voxels are right")
    for name in ("bFactor", "disorder", "micelle", "preferred"):
        if not 0 <= getattr(a, name) <= (1 if name in ("micelle", "preferred") else 1000):
            raise InputError(f"--{name} {getattr(a, name):g}: out of range, see -h")
    from deepemhancer_plugin.core.maps import mrc
    from deepemhancer_plugin.core.simulation import Conditions, read_molecule
    from deepemhancer_plugin.core.simulation import simulate_halves as make

    outputs = [f"{a.output}_{kind}.mrc" for kind in ("half1", "half2", "target", "model")]
    check_outputs(outputs, [a.model])
    conditions = Conditions(
        resolution=a.resolution,
        sampling_rate=a.samplingRate,
        box=a.box,
        b_factor=a.bFactor,
        disorder=a.disorder,
        micelle=a.micelle,
        preferred=a.preferred,
        random_pose=False,
    )
    made = make(read_molecule(a.model), conditions, a.seed, workers=-1)
    for output, data in zip(
        outputs, (made.half1, made.half2, made.target, made.model), strict=True
    ):
        mrc.write_map(
            output,
            data,
            mrc.new_map(data, a.samplingRate, made.origin),
            [f"simulated by deepemhancer from {os.path.basename(a.model)}"],
        )
        log(f"wrote {output}")
    log(f"noise of the halves' mean: standard deviation {made.noise_std:.4g}")
    return 0
