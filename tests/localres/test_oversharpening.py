"""Claims of a map against its halves, with a stand-in for the network whose readings are known."""

import json

import numpy as np
import pytest
from half_maps import half_maps
from hypothesis import given
from hypothesis import strategies as st

from deepemhancer_plugin.core import devices
from deepemhancer_plugin.core.errors import InputError
from deepemhancer_plugin.core.localres import oversharpening
from deepemhancer_plugin.core.localres.blocres import local_fsc
from deepemhancer_plugin.core.localres.oversharpening import (
    Scan,
    compare,
    find_limit,
    judge_output,
    measure_oversharpening,
    scan_b_factors,
    sharpen,
    weight_mean,
)
from deepemhancer_plugin.core.maps import filters, mrc, spectrum

SHAPE, RATE = (40, 40, 40), 1.0
CPU = devices.select_devices("-1")


@pytest.fixture(scope="module")
def halves():
    return half_maps(SHAPE, RATE, 4.0, b_factor=80.0)


@pytest.fixture(scope="module")
def volume(halves):
    return (halves[0] + halves[1]) / 2


@pytest.fixture(scope="module")
def mask():
    inside = np.zeros(SHAPE, bool)
    inside[10:30, 10:30, 10:30] = True
    return inside


@pytest.fixture
def reader(monkeypatch, halves, mask):
    """Puts a reader of known answers in the network's place, and the mask in the map's."""

    def put(factor, part=1.0):
        read = claiming(factor, halves, mask, part)
        monkeypatch.setattr(oversharpening, "load_reader", lambda *_: read)
        monkeypatch.setattr(oversharpening, "auto_mask", lambda *_: mask.copy())

    return put


def b_factor_of(volume):
    """Guinier's slope between 10 and 5 A, in A^2; every sharpening adds exactly to it."""
    power = spectrum.power(np.fft.rfftn(volume), volume.shape, RATE)
    k = np.arange(len(power)) * filters.shell_width(volume.shape, RATE)
    fitted = (k > 0.1) & (k < 0.2)
    return -2 * np.polyfit(k[fitted] ** 2, np.log(power[fitted]), 1)[0]


def claiming(factor, halves, mask, part=1.0):
    """Make a reader that finds `factor` times what the halves support.

    It does so in the first `part` of the mask's planes; else it finds exactly that.
    """
    supported = local_fsc(*halves, RATE, mask, threshold=0.143)

    def read(volume, rate, inside):
        result = supported.copy()
        result[: 10 + round(20 * part)] *= factor
        return np.where(inside, result, 0)

    return read


@pytest.mark.parametrize(
    "factor, part, expected, beyond, words",
    [
        (1.0, 1.0, 0, False, "at the limit"),
        (0.97, 1.0, 0, False, "at the limit"),
        (0.85, 1.0, 0, True, "beyond"),
        (0.75, 0.5, 50, True, "beyond"),
        (0.75, 1.0, 100, True, "beyond"),
        (1.3, 1.0, 0, False, "within what"),
    ],
)
def test_excess_and_verdict(volume, halves, mask, factor, part, expected, beyond, words):
    found = compare(volume, *halves, RATE, mask, claiming(factor, halves, mask, part))
    assert 100 * found.excess == pytest.approx(expected, abs=1e-6)
    sentence = f"the map claims more than the halves support in {expected} % of the mask"
    assert words in found.verdict() and sentence in found.verdict()
    assert found.oversharpened is beyond
    values = np.sort(found.claimed[mask])
    assert found.claimed_percentile == pytest.approx(values[len(values) // 5], abs=0.02)
    assert np.array_equal(found.supported, local_fsc(*halves, RATE, mask, threshold=0.143))


def test_tolerance_and_threshold_matter(volume, halves, mask):
    read = claiming(0.75, halves, mask)
    assert compare(volume, *halves, RATE, mask, read, tolerance=0.3).excess == 0
    assert (
        compare(volume, *halves, RATE, mask, read, threshold=0.5).supported_percentile
        > compare(volume, *halves, RATE, mask, read).supported_percentile + 0.2
    )


def test_scan_finds_the_b_factor(halves, mask):
    """The crossing is arithmetic.

    The reader finds 10 A at the mean's own B and 0.01 A less for every A^2 of sharpening, coarser
    towards one side.
    """

    def read(volume, rate, inside):
        ramp = np.broadcast_to(np.linspace(0, 1, SHAPE[0])[:, None, None], SHAPE)
        return np.where(inside, 10 + ramp + 0.01 * (b_factor_of(volume) - start), 0)

    start = b_factor_of(np.fft.irfftn(weight_mean(*halves, RATE, mask), s=SHAPE))
    at_zero = np.percentile(
        (10 + np.broadcast_to(np.linspace(0, 1, 40)[:, None, None], SHAPE))[mask], 20
    )
    found = scan_b_factors(*halves, RATE, mask, read, at_zero - 0.87)
    assert found.limit == pytest.approx(-87, abs=3)
    assert found.b_factors == [-25.0 * i for i in range(len(found.b_factors))]
    assert found.b_factors[-1] < found.limit - 25
    assert found.supported_percentile == at_zero - 0.87
    assert np.diff(found.percentiles) == pytest.approx(-0.25, abs=0.01)


def test_scan_ends_where_there_is_no_limit(halves, mask):
    def scan(resolution):
        read = lambda volume, rate, inside: np.where(inside, resolution, 0)  # noqa: E731
        return scan_b_factors(*halves, RATE, mask, read, 4.0)

    found = scan(9.0)
    assert found.limit is None and found.b_factors[-1] == -400
    assert scan(3.0).limit == 0


@pytest.mark.parametrize(
    "limit, words",
    [(None, "does not reach the limit (4.50 A) by B = -50"), (0, "before any"), (-12, "B = -12 A")],
)
def test_scan_in_words(limit, words):
    scan = Scan([0.0, -25.0, -50.0], [5.0, 4.0, 3.0], limit, 4.5)
    assert words in scan.verdict()
    assert scan.summarize()["limit_b_factor"] == limit


def test_what_is_sharpened_has_no_noise_beyond_the_resolution(volume, halves, mask):
    weighted, mean = weight_mean(*halves, RATE, mask), np.fft.rfftn(volume)
    gain = np.abs(weighted) / np.maximum(np.abs(mean), 1e-30)
    k = filters.frequencies(SHAPE, RATE)
    assert np.median(gain[(k > 0) & (k < 1.5 / 40)]) == pytest.approx(1, abs=0.02)
    end = k[gain > 1e-6].max()
    assert 1 / end == pytest.approx(3.5, rel=0.15)
    sharp = np.fft.rfftn(sharpen(np.fft.rfftn(halves[0]), SHAPE, RATE, -100.0))
    ratio = np.abs(sharp[4, 3, 0]) / np.abs(np.fft.rfftn(halves[0])[4, 3, 0])  # k = 5 / 40
    assert ratio == pytest.approx(np.exp(25 * (5 / 40) ** 2), rel=1e-3)


@given(st.floats(2, 12), st.lists(st.floats(0.01, 1), min_size=1, max_size=12), st.floats(1, 13))
def test_limit_is_where_the_line_crosses(first, falls, level):
    percentiles = list(first - np.concatenate([[0], np.cumsum(falls)]))
    b_factors = [-25.0 * i for i in range(len(percentiles))]
    found = find_limit(b_factors, percentiles, level)
    if found is None:
        assert percentiles[-1] > level
    elif found == 0:
        assert first <= level
    else:
        between = np.interp(-found, [-b for b in b_factors], percentiles)
        assert between == pytest.approx(level, abs=1e-6)


@pytest.mark.parametrize(
    "changes",
    [
        {"tolerance": -0.1},
        {"tolerance": 1.0},
        {"tolerance": float("nan")},
        {"threshold": 0.0},
        {"volume": np.ones((8, 8, 8), np.float32)},
    ],
)
def test_refusals(halves, mask, changes):
    arguments = {
        "volume": halves[0],
        "half1": halves[0],
        "half2": halves[1],
        "rate": RATE,
        "mask": mask,
        "reader": None,
        **changes,
    }
    with pytest.raises(InputError) as error:
        compare(**arguments)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("network", ["auto", "0.5"])
def test_arrays_give_a_report_of_json_values(volume, halves, mask, reader, network):
    reader(0.75, 0.5)
    found = measure_oversharpening(
        volume, halves, mask=mask, sampling_rate=RATE, network=network, scan=True, device="-1"
    )
    report = json.loads(json.dumps(found.report))
    assert report == found.report and report["verdict"] == found.comparison.verdict()
    assert report["claims_more_percent"] == pytest.approx(50)
    # The halves' FSC falls to 0.143 at 3.5 A, too coarse for the network at 0.5 A/voxel.
    assert report["network"] == ("1.0" if network == "auto" else "0.5")
    assert report["scan"] == found.scan.summarize()


def test_halves_elsewhere_are_refused(volume, halves, mask):
    elsewhere = mrc.new_map(volume, RATE, (50.0, 0.0, 0.0))
    with pytest.raises(InputError, match="first voxel lies at"):
        measure_oversharpening(elsewhere, [mrc.new_map(half, RATE) for half in halves], mask=mask)


@pytest.mark.parametrize("network", ["3.0", "none.npz"])
def test_networks_that_are_not_there_are_refused_before_any_work(network):
    with pytest.raises(InputError, match="no such network"):
        measure_oversharpening("missing.mrc", ["missing.mrc"] * 2, network=network)


def test_output_of_the_enhancer(volume, halves, mask, reader):
    reader(0.75, 0.25)
    output = mrc.new_map(volume, RATE)
    report = judge_output(output, halves, device=CPU)
    assert report["claims_more_percent"] == pytest.approx(25) and report["voxels"] == 8000
    assert report["verdict"].startswith(
        "the output claims more than the halves support in 25 % of the mask"
    )
    half = mask.copy()
    half[:20] = False  # the user's mask leaves the other planes
    assert judge_output(output, halves, mask=half, device=CPU)["voxels"] == 4000


def test_an_empty_output_claims_nothing(halves):
    empty = mrc.new_map(np.zeros(SHAPE, np.float32), RATE)
    assert judge_output(empty, halves, device=CPU) == {"verdict": oversharpening.NO_DENSITY}
