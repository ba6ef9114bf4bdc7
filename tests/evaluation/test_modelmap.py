"""The model in the map's place: geometry, its own map, its least ordered part."""

from dataclasses import replace

import gemmi
import numpy as np
import pytest

from deepemhancer_plugin.core.errors import InputError, MapWarning
from deepemhancer_plugin.core.evaluation import modelmap
from deepemhancer_plugin.core.maps import mrc
from deepemhancer_plugin.core.simulation import Molecule


def atoms(positions, b=30.0, element="C"):
    positions = np.array(positions, float)
    n = len(positions)
    return Molecule(np.full(n, element), positions, np.resize(np.asarray(b, float), n), np.ones(n))


def volume(shape=(20, 24, 28), rate=1.2, origin=(0.0, 0.0, 0.0), nstart=(0, 0, 0)):
    return replace(mrc.new_map(np.zeros(shape), rate, origin, "map.mrc"), nstart=nstart)


@pytest.mark.parametrize(
    ("origin", "nstart", "first"),
    [
        ((10.0, -5.0, 3.0), (0, 0, 0), (10.0, -5.0, 3.0)),
        ((0.0, 0.0, 0.0), (10, -5, 3), (12.0, -6.0, 3.6)),
        ((10.0, -5.0, 3.0), (7, 7, 7), (10.0, -5.0, 3.0)),
    ],
)
def test_atoms_lie_where_origin_or_start_say(origin, nstart, first):
    place = np.add(first, (4.8, 6.0, 7.2))
    got = modelmap.place_in_map(atoms([place]), volume(origin=origin, nstart=nstart), "model.pdb")
    np.testing.assert_allclose(got.positions, [(4.8, 6.0, 7.2)])
    peak = modelmap.compute_model_map(got, (20, 24, 28), 1.2)
    assert np.unravel_index(peak.argmax(), peak.shape) == (6, 5, 4)  # z, y, x


def test_atoms_outside_are_left_out_with_a_warning_and_a_model_outside_is_an_error():
    inside, outside = (5.0, 5.0, 5.0), (5.0, 5.0, 50.0)
    with pytest.warns(MapWarning, match=r"model\.pdb: 1 of 3 atoms"):
        assert (
            len(modelmap.place_in_map(atoms([inside, outside, inside]), volume(), "model.pdb")) == 2
        )
    with pytest.raises(
        InputError,
        match=r"model\.pdb: the model, \(5, 5, 50\) to \(5, 5, 50\) A .* lies outside of map\.mrc, "
        r"\(0, 0, 0\) to",
    ):
        modelmap.place_in_map(atoms([outside]), volume(), "model.pdb")


def test_model_map_is_the_sum_of_form_factors_up_to_its_end():
    """F(k) = sum f(k) exp(-B k^2 / 4 - 2 pi i k x) up to 0.37 / rate, nothing at Nyquist.

    Form factors: Peng et al. 1996.
    """
    shape, rate = (20, 24, 18), 1.1
    given = atoms([(5.1, 7.9, 8.4), (9.0, 6.6, 10.9)], (8.0, 60.0))
    k = np.meshgrid(*(np.fft.fftfreq(n, rate) for n in shape), indexing="ij")
    square = sum(g**2 for g in k)
    c = gemmi.Element("C").c4322
    form = sum(a * np.exp(-b * square / 4) for a, b in zip(c.a, c.b, strict=True))
    expected = sum(
        form
        * np.exp(-b * square / 4 - 2j * np.pi * sum(g * x for g, x in zip(k, p[::-1], strict=True)))
        for p, b in zip(given.positions, given.b_factors, strict=True)
    )
    got = np.fft.fftn(modelmap.compute_model_map(given, shape, rate)) * rate**3
    passed, stopped = np.sqrt(square) < 0.37 / rate, np.sqrt(square) > 0.5001 / rate
    assert np.abs(got - expected)[passed].max() < 0.01 * expected[0, 0, 0].real
    assert np.abs(got[stopped]).max() < 1e-4 * expected[0, 0, 0].real


def test_least_ordered_are_a_fifth_that_lies_together():
    """Not the single atoms that stand out, but the end of the rod that is mobile as a whole."""
    n = 200
    rod = atoms([(i, 0, 0) for i in range(n)], np.where(np.arange(n) < n // 5, 80.0, 30.0))
    rod.b_factors[100] = 200.0
    found = modelmap.find_least_ordered(rod)
    assert len(found) == n // 5 and np.mean(found < n // 5) > 0.9


def test_least_ordered_is_the_mean_of_the_surroundings():
    rng = np.random.default_rng(0)
    cloud = atoms(rng.uniform(0, 40, (300, 3)), rng.uniform(10, 100, 300))
    near = np.linalg.norm(cloud.positions[:, None] - cloud.positions, axis=2) <= 8.0
    means = (near * cloud.b_factors).sum(1) / near.sum(1)
    assert set(modelmap.find_least_ordered(cloud)) == set(np.argsort(means)[-60:])


def test_mask_of_an_atom_is_one_to_3_angstrom_and_zero_from_9():
    rate, shape = 0.8, (40, 40, 40)
    centre = np.array([15.9, 16.1, 16.0])
    mask = modelmap.mask_molecule(atoms([centre]), shape, rate)
    grid = np.stack(np.meshgrid(*(np.arange(n) * rate for n in shape), indexing="ij"), -1)[
        ..., ::-1
    ]
    distance = np.linalg.norm(grid - centre, axis=-1)
    expected = 0.5 + 0.5 * np.cos(np.pi * np.clip((distance - 3) / 6, 0, 1))
    np.testing.assert_allclose(
        mask, expected, atol=0.27 * rate
    )  # the edge starts at a voxel, not between two: slope pi / 12 per A
    assert mask[distance < 3].min() == 1 and mask[distance > 9 + 2 * rate].max() == 0
