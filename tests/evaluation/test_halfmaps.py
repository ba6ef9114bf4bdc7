"""FSC of half maps: phases, closed forms, and relion_postprocess on the same halves and mask."""

import shutil
import subprocess

import gemmi
import numpy as np
import pytest

from deepemhancer_plugin.core.evaluation.halfmaps import half_map_fsc, randomise_phases
from deepemhancer_plugin.core.evaluation.profile import amplitude_profile
from deepemhancer_plugin.core.maps import mrc
from deepemhancer_plugin.core.maps.filters import soft_edge


def frequencies(shape, rate):
    return np.sqrt(
        sum(g**2 for g in np.meshgrid(*(np.fft.fftfreq(n, rate) for n in shape), indexing="ij"))
    )


def white(shape, seed):
    return np.random.default_rng(seed).standard_normal(shape)


def ball(shape, rate, radius, edge):
    grid = np.meshgrid(*((np.arange(n) - n // 2) * rate for n in shape), indexing="ij")
    return soft_edge(sum(g**2 for g in grid) < radius**2, rate, 0.0, edge)


@pytest.fixture(scope="module")
def halves():
    """A structure in a ball, whose signal falls with B = 120 A^2, and noise that does not."""
    shape, rate = (60, 60, 60), 1.3
    signal = white(shape, 0) * ball(shape, rate, 18, 4)
    signal = np.fft.ifftn(np.fft.fftn(signal) * np.exp(-30 * frequencies(shape, rate) ** 2)).real
    return (
        [(signal + 0.08 * white(shape, seed)).astype(np.float32) for seed in (1, 2)],
        ball(shape, rate, 21, 8),
        rate,
    )


@pytest.mark.parametrize("shape", [(24, 24, 24), (21, 30, 25)])
def test_random_phases_beyond_and_the_amplitudes_everywhere(shape):
    volume = white(shape, 0).astype(np.float32)
    got = randomise_phases(volume, 1.4, 0.19, np.random.default_rng(0))
    before, after = np.fft.fftn(volume), np.fft.fftn(got)
    np.testing.assert_allclose(np.abs(after), np.abs(before), atol=1e-3 * np.abs(before).max())
    beyond = frequencies(shape, 1.4) >= 0.19
    np.testing.assert_allclose(after[~beyond], before[~beyond], atol=1e-3 * np.abs(before).max())
    turned = (after * before.conj())[beyond]
    assert abs(turned.sum()) < 4 * np.sqrt((np.abs(turned) ** 2).sum())


def test_without_a_mask_there_is_the_unmasked_curve_alone(halves):
    (half1, half2), _, rate = halves
    fsc = half_map_fsc(half1, half2, rate)
    assert list(fsc.curves) == ["unmasked"] and fsc.randomised_from is None
    assert fsc.resolution(0.143) > 2 * rate


def test_correction_is_its_formula_and_randomises_where_the_unmasked_curve_falls_under_08(halves):
    (half1, half2), mask, rate = halves
    fsc = half_map_fsc(half1, half2, rate, mask)
    first = int(np.argmax(fsc.unmasked < 0.8))
    assert fsc.randomised_from == pytest.approx(first / (60 * rate))
    np.testing.assert_array_equal(fsc.corrected[: first + 2], fsc.masked[: first + 2])
    t, n = fsc.masked[first + 2 :], fsc.randomised[first + 2 :]
    np.testing.assert_allclose(fsc.corrected[first + 2 :], (t - n) / (1 - n), rtol=1e-9)
    assert fsc.resolution(0.143) == pytest.approx(
        1 / np.interp(-0.143, -fsc.corrected[first:], fsc.frequency[first:]), rel=0.02
    )


def test_what_the_mask_brings_in_is_taken_out():
    """Halves that share nothing beyond 12 A are correlated by a mask with a steep edge.

    The correction removes that, in the mean of six pairs.
    """
    shape, rate = (48, 48, 48), 2.0
    k, mask = frequencies(shape, rate), ball(shape, rate, 18, 1.0)
    low = 60 * np.fft.ifftn(np.fft.fftn(white(shape, 0) + 2) * (k < 1 / 12)).real
    curves = []
    for seed in range(1, 13, 2):
        halves = [
            low + 10 * np.fft.ifftn(np.fft.fftn(white(shape, s)) * (k >= 1 / 12)).real
            for s in (seed, seed + 1)
        ]
        fsc = half_map_fsc(*halves, rate, mask)
        curves.append(
            [
                curve[fsc.frequency > 1 / 12 + 3 / (48 * rate)].mean()
                for curve in (fsc.unmasked, fsc.masked, fsc.corrected)
            ]
        )
    unmasked, masked, corrected = np.mean(curves, 0)
    assert abs(unmasked) < 0.01 and masked > 0.2 and abs(corrected) < 0.04


def test_equal_halves_leave_nothing_to_randomise(halves):
    (half1, _), mask, rate = halves
    fsc = half_map_fsc(half1, half1.copy(), rate, mask)
    assert fsc.randomised_from is None and fsc.randomised is None
    np.testing.assert_array_equal(fsc.corrected, fsc.masked)
    assert fsc.resolution(0.143) == pytest.approx(2 * rate)


def test_random_phases_repeat_with_their_seed(halves):
    (half1, half2), mask, rate = halves
    one, same, other = (
        half_map_fsc(half1, half2, rate, mask, seed).randomised for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)


@pytest.mark.skipif(
    not shutil.which("relion_postprocess"), reason="RELION is not installed (as root: .ci/relion)"
)
def test_curves_and_amplitudes_are_those_of_relion_postprocess(halves, tmp_path):
    """RELION's curves differ by its random phases, and in the first shells by its counting.

    It counts the coefficients with kx = 0 twice.
    """
    (half1, half2), mask, rate = halves
    for name, data in (("half1", half1), ("half2", half2), ("mask", mask)):
        mrc.write_map(tmp_path / f"{name}.mrc", data, mrc.new_map(data, rate))
    run = subprocess.run(
        [
            "relion_postprocess",
            "--i",
            "half1.mrc",
            "--i2",
            "half2.mrc",
            "--mask",
            "mask.mrc",
            "--angpix",
            f"{rate}",
            "--o",
            "./out",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert (tmp_path / "out.star").is_file(), run.stderr
    star = gemmi.cif.read(str(tmp_path / "out.star"))

    def column(block, name):
        return np.array(list(star.find_block(block).find_loop(name)), float)

    fsc = half_map_fsc(half1, half2, rate, mask)
    relion = {
        "unmasked": column("fsc", "_rlnFourierShellCorrelationUnmaskedMaps"),
        "masked": column("fsc", "_rlnFourierShellCorrelationMaskedMaps"),
        "randomised": column(
            "fsc", "_rlnCorrectedFourierShellCorrelationPhaseRandomizedMaskedMaps"
        ),
        "corrected": column("fsc", "_rlnFourierShellCorrelationCorrected"),
    }
    for kind, first, most in (
        ("unmasked", 0, 0.04),
        ("unmasked", 6, 0.01),
        ("masked", 0, 0.04),
        ("masked", 6, 0.01),
        ("randomised", 0, 0.15),
        ("corrected", 0, 0.06),
    ):
        np.testing.assert_allclose(
            fsc.curves[kind][first:], relion[kind][first:], atol=most, err_msg=kind
        )
    assert relion["masked"].min() < 0.1 and relion["randomised"].min() < 0.1
    shell = 1 / (60 * rate)
    last = (
        int(np.argmax(relion["corrected"] < 0.143)) - 1
    )  # RELION's resolution: the last shell over it
    assert 1 / fsc.resolution(0.143) == pytest.approx((last + 0.5) * shell, abs=shell)
    square, log_amplitude = amplitude_profile((half1 + half2) / 2, rate)
    their_square, theirs = (
        column("guinier", "_rlnResolutionSquared"),
        column("guinier", "_rlnLogAmplitudesOriginal"),
    )
    used = slice(6, len(square))
    np.testing.assert_allclose(their_square[: len(square)], square, atol=1e-6)
    np.testing.assert_allclose(log_amplitude[used], theirs[used], atol=0.03)
