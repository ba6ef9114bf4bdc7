"""The sub-commands of `deepemhancer`: arguments, files and words around the functions that do the work."""
import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from deepemhancer_plugin.core.errors import InputError
from deepemhancer_plugin.core.progress import Progress


def _log(text: str) -> None:
    from deepemhancer_plugin.core.cli import log

    log(text)


def _folder(path: str) -> Path:
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{path}: the folder cannot be made ({error.strerror}); a writable place is needed") from error
    return folder


def download(arguments: Sequence[str]) -> int:
    """`deepemhancer download [DIR]`"""
    p = argparse.ArgumentParser("deepemhancer download", description="Fetch the authors' checkpoints (about 739 MB) from Zenodo, record 7432763; "
                                "goes on where an earlier try ended, checks the checksum.")
    p.add_argument("directory", nargs="?", help="default: ~/.local/share/deepEMhancerModels")
    a = p.parse_args(arguments)
    from deepemhancer_plugin.core import download as fetching

    with Progress() as progress:
        files = fetching.download(a.directory, progress=lambda done, total: progress("download", done, total))
    for file in files:
        _log(f"official checkpoint {file}")
    return 0


def simulate(arguments: Sequence[str]) -> int:
    """`deepemhancer simulate MODEL -o PREFIX`"""
    p = argparse.ArgumentParser("deepemhancer simulate", description="Half maps that a reconstruction of an atomic model would give, the map that "
                                "the enhancer should make of them, and the model's own map, all in the model's place.")
    p.add_argument("model", metavar="MODEL", help="atomic model, PDB or mmCIF, also .gz")
    p.add_argument("-o", "--output", required=True, metavar="PREFIX", help="writes PREFIX_half1.mrc, _half2.mrc, _target.mrc, _model.mrc")
    p.add_argument("--resolution", type=float, default=3.5, help="A where the halves' FSC in the molecule falls to 0.143 (default: %(default)s)")
    p.add_argument("-s", "--samplingRate", type=float, default=1.0, help="A/voxel (default: %(default)s)")
    p.add_argument("--box", type=int, help="voxels of an edge (default: the molecule and 16 A on every side)")
    p.add_argument("--bFactor", type=float, default=80.0, help="loss of contrast, A^2 (default: %(default)s)")
    p.add_argument("--disorder", type=float, default=60.0, help="B added at the most flexible end, A^2 (default: %(default)s)")
    p.add_argument("--micelle", type=float, default=0.0, help="density of a detergent belt relative to the molecule's mean, 0-1 (default: none)")
    p.add_argument("--preferred", type=float, default=0.0, help="0-1: crowding of the views about one direction (default: %(default)s)")
    p.add_argument("--seed", type=int, default=0)
    a = p.parse_args(arguments)
    if not 2 * a.samplingRate < a.resolution <= 30:
        raise InputError(f"--resolution {a.resolution:g}: between twice the sampling rate ({2 * a.samplingRate:g} A) and 30 A is right")
    if a.box is not None and not 24 <= a.box <= 1024:
        raise InputError(f"--box {a.box}: 24 to 1024 voxels are right")
    for name in ("bFactor", "disorder", "micelle", "preferred"):
        if not 0 <= getattr(a, name) <= (1 if name in ("micelle", "preferred") else 1000):
            raise InputError(f"--{name} {getattr(a, name):g}: out of range, see -h")
    from deepemhancer_plugin.core import mrc
    from deepemhancer_plugin.core.simulation import Conditions, read_molecule
    from deepemhancer_plugin.core.simulation import simulate as make

    outputs = [f"{a.output}_{kind}.mrc" for kind in ("half1", "half2", "target", "model")]
    for output in outputs:
        mrc.check_output(output, [a.model])
    conditions = Conditions(resolution=a.resolution, sampling_rate=a.samplingRate, box=a.box, b_factor=a.bFactor, disorder=a.disorder,
                            micelle=a.micelle, preferred=a.preferred, random_pose=False)
    made = make(read_molecule(a.model), conditions, a.seed, workers=-1)
    for output, data in zip(outputs, (made.half1, made.half2, made.target, made.model), strict=True):
        mrc.write_map(output, data, mrc.new_map(data, a.samplingRate, made.origin), [f"simulated by deepemhancer from {os.path.basename(a.model)}"])
        _log(f"wrote {output}")
    _log(f"noise of the halves' mean: standard deviation {made.noise_std:.4g}")
    return 0


def demo(arguments: Sequence[str]) -> int:
    """`deepemhancer demo [DIR]`"""
    p = argparse.ArgumentParser("deepemhancer demo", description="Simulate half maps of a synthetic protein at 4 A, enhance them, and "
                                "compare with the truth.")
    p.add_argument("directory", nargs="?", default="demo", help="where the maps, the report and before_after.png go (default: %(default)s)")
    p.add_argument("-g", "--gpuIds", dest="gpu")
    p.add_argument("--seed", type=int, default=0)
    a = p.parse_args(arguments)
    folder = _folder(a.directory)
    from deepemhancer_plugin.core import mrc
    from deepemhancer_plugin.core.cli import main
    from deepemhancer_plugin.core.demo import CONDITIONS, picture, table
    from deepemhancer_plugin.core.evaluation import score, soft_mask
    from deepemhancer_plugin.core.simulation import from_structure
    from deepemhancer_plugin.core.simulation import simulate as make
    from deepemhancer_plugin.core.synthetic import build_protein

    _log("building the protein and simulating its half maps at 4 A, with disorder and a micelle")
    structure = build_protein(a.seed)
    made = make(from_structure(structure), CONDITIONS, a.seed, workers=-1)
    structure.write_pdb(str(folder / "protein.pdb"))
    halves = []
    for name, data in (("half1", made.half1), ("half2", made.half2), ("model", made.model)):
        path = str(folder / f"{name}.mrc")
        mrc.write_map(path, data, mrc.new_map(data, made.sampling_rate, made.origin), ["simulated by deepemhancer demo"])
        halves.append(path)
    output = str(folder / "enhanced.mrc")
    status = main(["-i", halves[0], "-i2", halves[1], "-o", output, *(["-g", a.gpu] if a.gpu else [])])
    if status:
        return status
    enhanced = mrc.read_map(output).data
    mean = (made.half1 + made.half2) / 2
    mask = soft_mask(made.model, made.sampling_rate)
    scores = [score(volume, made.model, mask, made.sampling_rate) for volume in (mean, enhanced)]
    print(table(*scores))
    picture(folder / "before_after.png", mean, enhanced, made.model, mask, made.sampling_rate)
    _log(f"wrote {folder / 'before_after.png'}")
    sys.stdout.flush()
    return 0
