"""Files as RELION 3.1, 4.0 and 5.0 write them, and programs in place of its reconstruction."""

import warnings
from pathlib import Path

import mrcfile
import numpy as np

from deepemhancer_plugin.core.maps import mrc

BOX, RATE = 40, 1.5
HEADER = {"3.1": "# version 30001", "4.0": "# version 30001", "5.0": "# version 50001"}


def listed(version: str, name: str, values: dict) -> str:
    return (
        f"\n{HEADER[version]}\n\ndata_{name}\n\n"
        + "".join(f"_{key:<38} {value:>12}\n" for key, value in values.items())
        + " \n"
    )


def write_iteration(
    folder: Path,
    version: str = "3.1",
    root: str = "out/run",
    iteration: int = 7,
    half: int | None = 1,
    kind: str = "class001",
    order: int = 4,
    split: int = 1,
    box: int = BOX,
    rate: float = RATE,
    **general,
) -> str:
    """Write one reconstruction's star file and the metadata of the iteration before.

    Returns the star file's path, relative to `folder`.
    """
    middle = f"_half{half}" if half else ""
    stem = f"{root}_it{iteration:03d}{middle}_{kind}_external_reconstruct"
    (folder / root).parent.mkdir(parents=True, exist_ok=True)
    values = {
        "rlnExtReconsDataReal": f"{stem}_data_real.mrc",
        "rlnExtReconsDataImag": f"{stem}_data_imag.mrc",
        "rlnExtReconsWeight": f"{stem}_weight.mrc",
        "rlnExtReconsResult": f"{stem}.mrc",
        "rlnExtReconsResultStarfile": f"{stem}_out.star",
        "rlnTau2FudgeFactor": 1.0,
        "rlnPaddingFactor": 2.0,
        "rlnReferenceDimensionality": 3,
        "rlnOriginalImageSize": box,
        "rlnCurrentImageSize": box - 4,
        "rlnPixelSize": None if version == "3.1" else rate,
    } | general
    listing = {key: value for key, value in values.items() if value is not None}
    (folder / f"{stem}.star").write_text(
        listed(version, "external_reconstruct_general", listing)
        + f"\n{HEADER[version]}\n\ndata_external_reconstruct_tau2\n{spectra(box)} \n"
    )
    before = f"{root}_it{iteration - 1:03d}"
    write_sampling(folder / f"{before}_sampling.star", version, order)
    optimiser = {
        "rlnOutputRootName": root,
        "rlnCurrentIteration": iteration - 1,
        "rlnDoSplitRandomHalves": split,
        "rlnDoAutoRefine": 1,
        "rlnAutoLocalSearchesHealpixOrder": 4,
    } | ({"rlnDoBlushRegularisation": 0} if version == "5.0" else {})
    (folder / f"{before}_optimiser.star").write_text(
        f"# RELION optimiser; version {version}.0\n# --o {root} --auto_refine\n"
        + listed(version, "optimiser_general", optimiser)
    )
    model = {"rlnOriginalImageSize": box, "rlnPixelSize": rate, "rlnNrClasses": 1}
    for number in (1, 2):
        (folder / f"{before}_half{number}_model.star").write_text(
            listed(version, "model_general", model)
            + f"\n{HEADER[version]}\n\ndata_model_classes\n\nloop_ \n"
            f"_rlnReferenceImage #1 \n_rlnClassDistribution #2 \n{before}_x.mrc 1.0 \n \n"
        )
    return f"{stem}.star"


def spectra(box: int) -> str:
    """A loop of a number of shells, as in the star file of a reconstruction."""
    columns = "\nloop_ \n_rlnSpectralIndex #1 \n_rlnReferenceTau2 #2 \n_rlnGoldStandardFsc #3 \n"
    return columns + "".join(
        f"{i:>12} {1e-3 / (i + 1):>12.6e} {1 / (1 + i / 9):>12.6f} \n" for i in range(box // 2 + 1)
    )


def write_sampling(path: Path, version: str, order: int) -> None:
    """Write the file of an iteration that holds its healpix order."""
    values = {
        "rlnIs3DSampling": 1,
        "rlnHealpixOrder": order,
        "rlnSymmetryGroup": "C1",
        "rlnHealpixOrderOriginal": 2,
    }
    path.write_text(
        listed(version, "sampling_general", values)
        + f"\n{HEADER[version]}\n\ndata_sampling_directions\n\nloop_ \n"
        "_rlnAngleRot #1 \n_rlnAngleTilt #2 \n   45.0    85.2 \n   50.6    80.4 \n \n"
    )


def program(folder: Path, body: str, name: str = "reconstruct") -> str:
    """A shell script in place of relion_external_reconstruct; it knows $star and $result."""
    path = folder / name
    path.write_text(f"""#!/bin/sh
star=$1
result=$(sed -n 's/_rlnExtReconsResult  *//p' "$star")
echo "$star" >>'{folder}/calls'
{body}
""")
    path.chmod(0o755)
    return str(path)


def blob(box: int = BOX) -> np.ndarray:
    """A molecule of sorts in noise (z, y, x), off the centre: a turned map is another one."""
    z, y, x = np.meshgrid(*[np.arange(box) - box / 2] * 3, indexing="ij")
    shape = np.exp(-((z - 3) ** 2 / 30 + (y + 2) ** 2 / 60 + x**2 / 20))
    return (0.3 * shape + np.random.default_rng(0).normal(0, 0.01, shape.shape)).astype(np.float32)


def copying(
    folder: Path, data: np.ndarray | None = None, name: str = "reconstruct", then: str = ""
) -> str:
    """A program whose result is `data`, without a voxel size, as RELION's; then it does `then`."""
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", RuntimeWarning
        )  # of NaN and infinity, which some tests want
        mrcfile.write(
            folder / f"{name}.mrc",
            np.asarray(blob() if data is None else data, np.float32),
            overwrite=True,
            voxel_size=0.0,
        )
    return program(folder, f"cp '{folder}/{name}.mrc' $result\n{then}", name)


def read(path: Path) -> np.ndarray:
    return mrc.read_map(path, RATE).data
