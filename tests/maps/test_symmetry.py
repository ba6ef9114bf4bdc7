"""Operators against group theory and RELION's own list; averages of maps against closed forms."""

import itertools
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from deepemhancer_plugin.core.errors import InputError
from deepemhancer_plugin.core.maps import symmetry
from deepemhancer_plugin.core.maps.symmetry import helix, impose_symmetry, point_group

GROUPS = {
    "C1": 1,
    "c4": 4,
    "C17": 17,
    "D2": 4,
    "D7": 14,
    "T": 12,
    "O": 24,
    "I": 60,
    "I1": 60,
    "I2": 60,
    "I3": 60,
    "I4": 60,
}


def blobs(shape, centres, width=2.0):
    """Gaussians (width in voxels) at x, y, z in voxels from the box's centre."""
    grid = np.meshgrid(*(np.arange(n) - n // 2 for n in shape), indexing="ij")
    return sum(
        np.exp(-sum((g - c) ** 2 for g, c in zip(grid, centre[::-1], strict=True)) / (2 * width**2))
        for centre in centres
    ).astype(np.float32)


@pytest.mark.parametrize("name, order", GROUPS.items())
def test_group_has_its_order_and_is_closed(name, order):
    matrices = [o.matrix for o in point_group(name)]
    assert len(matrices) == order and np.array_equal(matrices[0], np.eye(3))
    assert np.allclose([np.linalg.det(m) for m in matrices], 1)
    known = {tuple(np.round(m, 5).ravel() + 0.0) for m in matrices}
    assert all(
        tuple(np.round(a @ b, 5).ravel() + 0.0) in known
        for a, b in itertools.islice(itertools.product(matrices, matrices), 0, None, 7)
    )


@pytest.mark.skipif(
    not shutil.which("relion_refine"), reason="RELION is not installed (as root: .ci/relion)"
)
@pytest.mark.parametrize("name", ["C4", "D3", "T", "O", "I", "I1", "I2", "I3", "I4"])
def test_operators_are_relions(name):
    text = subprocess.run(
        ["relion_refine", "--print_symmetry_ops", "--sym", name], capture_output=True, text=True
    ).stdout
    theirs = [
        np.array(re.findall(r"[-+.\de]+", block.split("Euler")[0].split("R(")[0]), float)[
            :9
        ].reshape(3, 3)
        for block in re.split(r"R\(\d+\)=", text)[1:]
    ]
    ours = [o.matrix for o in point_group(name)]
    assert len(theirs) == len(ours)
    assert all(any(np.allclose(m, t, atol=1e-4) for m in ours) for t in theirs)


@pytest.mark.parametrize("name", ["", "C", "C0", "D", "X3", "I5", "C-2", "H", "T2"])
def test_unknown_names_are_refused(name):
    with pytest.raises(InputError, match="is right"):
        point_group(name)


@pytest.mark.parametrize(
    "rise, twist", [(0, 10), (-1, 10), (float("nan"), 0), (4, 181), (4, float("nan"))]
)
def test_impossible_helices_are_refused(rise, twist):
    with pytest.raises(InputError, match="helical rise"):
        helix(rise, twist)


@given(
    st.sampled_from(["C2", "C3", "D2", "D3", "T", "O"]),
    st.tuples(*[st.integers(28, 33)] * 3),
    st.integers(0, 10**6),
)
@settings(max_examples=12, deadline=None)
def test_one_subunit_becomes_its_whole_assembly(name, shape, seed):
    """The mean of one blob over the group is the assembly's blobs over their number.

    So it is wherever the box's centre is.
    """
    direction = Rotation.random(rng=np.random.default_rng(seed)).apply([6.0, 0, 0])
    operators = point_group(name)
    result, _ = impose_symmetry(blobs(shape, [direction]), operators, 1.3)
    expected = blobs(shape, [o.matrix @ direction for o in operators]) / len(operators)
    assert np.abs(result - expected).max() < 0.02


def test_a_symmetric_map_stays_and_is_known_as_such():
    operators = point_group("C4")
    volume = blobs((32, 32, 32), [o.matrix @ (6, 3, 4) for o in operators])
    result, before = impose_symmetry(volume, operators, 1.0)
    assert np.abs(result - volume).max() < 1e-4  # quarter turns about a voxel need no interpolation
    assert before > 0.999
    assert impose_symmetry(blobs((32, 32, 32), [(6, 3, 4)]), operators, 1.0)[1] < 0.5


def test_noise_falls_with_the_number_of_copies():
    noise = np.random.default_rng(0).standard_normal((33, 33, 33)).astype(np.float32)
    result, _ = impose_symmetry(noise, point_group("D2"), 1.0)
    assert result[8:-8, 8:-8, 8:-8].std() == pytest.approx(0.5, rel=0.05)


def test_helix():
    """A right-handed helix: subunits turn from x to y as they rise.

    Its ends come from the subunits that reach them.
    """
    rate, rise, twist = 1.5, 6.0, 40.0
    subunits = [
        (7 * np.cos(np.deg2rad(i * twist)), 7 * np.sin(np.deg2rad(i * twist)), i * rise / rate)
        for i in range(-8, 9)
    ]
    volume = blobs((48, 32, 32), subunits, 1.7)
    result, before = impose_symmetry(volume, helix(rise, twist), rate)
    assert before > 0.99 and np.abs(result - volume).max() < 0.03
    _, wrong = impose_symmetry(volume, helix(rise, -twist), rate)
    assert wrong < 0.7


def test_identity_alone():
    volume = np.random.default_rng(0).standard_normal((8, 9, 10)).astype(np.float32)
    result, before = impose_symmetry(volume, point_group("C1"), 1.0)
    np.testing.assert_allclose(result, volume, atol=1e-5)
    assert before == pytest.approx(1)


@pytest.mark.parametrize("workers", [1, 3, 40])
def test_the_number_of_threads_changes_nothing(workers):
    volume = np.random.default_rng(0).standard_normal((40, 33, 34)).astype(np.float32)
    expected = impose_symmetry(volume, point_group("D3"), 1.0)
    result = impose_symmetry(volume, point_group("D3"), 1.0, workers=workers)
    np.testing.assert_array_equal(result[0], expected[0])
    assert result[1] == expected[1]


def test_threads_are_as_many_as_cores(monkeypatch):
    asked = []

    def pool(workers):
        asked.append(workers)
        return ThreadPoolExecutor(workers)

    monkeypatch.setattr(symmetry, "cpu_cores", lambda: 5)
    monkeypatch.setattr(symmetry, "ThreadPoolExecutor", pool)
    impose_symmetry(blobs((16, 16, 16), [(0, 0, 0)]), point_group("C2"), 1.0)
    assert asked == [5]
