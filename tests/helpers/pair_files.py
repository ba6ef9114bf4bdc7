"""Half maps with a fitted model as files, and tables that name them."""

from dataclasses import replace

from deepemhancer_plugin.core.maps import mrc
from deepemhancer_plugin.core.simulation import Conditions, from_structure, simulate_halves
from deepemhancer_plugin.core.simulation.synthetic import build_protein
from deepemhancer_plugin.core.training.table import Entry

RATE = 1.2
CONDITIONS = Conditions(
    resolution=3.5, sampling_rate=RATE, box=54, disorder=20.0, random_pose=False
)
COLUMNS = "id\thalf1\thalf2\tmodel\tresolution"


def write_pair(folder, conditions=CONDITIONS):
    """Half maps of a piece of a synthetic protein at 1.2 A/voxel with an origin, and its model.

    Returns the simulation that they come from.
    """
    structure = build_protein()
    chain = structure[0][0]
    del chain[60:]
    while len(structure[0]) > 1:
        del structure[0][-1]
    structure.write_pdb(str(folder / "model.pdb"))
    made = simulate_halves(from_structure(structure), conditions, 3)
    for name, data in (("half1", made.half1), ("half2", made.half2)):
        mrc.write_map(str(folder / f"{name}.mrc"), data, mrc.new_map(data, RATE, made.origin))
    return made


def entry_of(folder, **changes):
    """The entry of the files of `write_pair`."""
    half1, half2, model = (folder / name for name in ("half1.mrc", "half2.mrc", "model.pdb"))
    return replace(Entry("one", half1, half2, (model,), 3.5), **changes)


def write_table(folder, *rows, columns=COLUMNS):
    path = folder / "table.tsv"
    path.write_text("\n".join([columns, *("\t".join(row) for row in rows)]) + "\n")
    return path


def row(name="one", resolution="3.5", *rest):
    return (name, "half1.mrc", "half2.mrc", "model.pdb", resolution, *rest)
