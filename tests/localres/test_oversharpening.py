"""What a map claims against what its halves support, with a reader of resolutions in the network's place whose answers are known."""

import json
from dataclasses import replace

import numpy as np
import pytest
from half_maps import half_maps
from hypothesis import given
from hypothesis import strategies as st

from deepemhancer_plugin.core import devices
from deepemhancer_plugin.core.commands import main as cli
from deepemhancer_plugin.core.commands import oversharpening as oversharpening_command
from deepemhancer_plugin.core.errors import InputError
from deepemhancer_plugin.core.localres import oversharpening
from deepemhancer_plugin.core.localres.blocres import local_fsc
from deepemhancer_plugin.core.localres.oversharpening import compare, limit, picture, scan
from deepemhancer_plugin.core.maps import filters, mrc, spectrum

SHAPE, RATE = (40, 40, 40), 1.0


@pytest.fixture(scope="module")
def halves():
    return half_maps(SHAPE, RATE, 4.0, b_factor=80.0)


@pytest.fixture(scope="module")
def mask():
    inside = np.zeros(SHAPE, bool)
    inside[10:30, 10:30, 10:30] = True
    return inside


def b_factor_of(volume):
    """Guinier's slope between 10 and 5 A, A^2; the mean of the halves has some value, every sharpening adds to it exactly."""
    power = spectrum.power(np.fft.rfftn(volume), volume.shape, RATE)
    k = np.arange(len(power)) * filters.shell_width(volume.shape, RATE)
    fitted = (k > 0.1) & (k < 0.2)
    return -2 * np.polyfit(k[fitted] ** 2, np.log(power[fitted]), 1)[0]


def claiming(factor, halves, mask, share=1.0):
    """A reader that finds `factor` times the resolution that the halves support in the first `share` of the mask's planes, else exactly that."""
    supported = local_fsc(*halves, RATE, mask, threshold=0.143)

    def read(volume, rate, inside):
        result = supported.copy()
        result[: 10 + round(20 * share)] *= factor
        return np.where(inside, result, 0)

    return read


@pytest.mark.parametrize(
    "factor, share, expected, beyond, words",
    [
        (1.0, 1.0, 0, False, "at the limit"),
        (0.97, 1.0, 0, False, "at the limit"),
        (0.85, 1.0, 0, True, "beyond"),
        (0.75, 0.5, 50, True, "beyond"),
        (0.75, 1.0, 100, True, "beyond"),
        (1.3, 1.0, 0, False, "within what"),
    ],
)
def test_share_and_verdict(halves, mask, factor, share, expected, beyond, words):
    volume = (halves[0] + halves[1]) / 2
    found = compare(volume, *halves, RATE, mask, claiming(factor, halves, mask, share))
    assert 100 * found.share == pytest.approx(expected, abs=1e-6)
    assert (
        words in found.verdict()
        and f"the map claims more than the halves support in {expected} % of the mask"
        in found.verdict()
    )
    assert found.oversharpened is beyond
    values = np.sort(found.claimed[mask])
    assert found.claimed_percentile == pytest.approx(values[len(values) // 5], abs=0.02)
    assert np.array_equal(found.supported, local_fsc(*halves, RATE, mask, threshold=0.143))


def test_tolerance_and_threshold_matter(halves, mask):
    volume = (halves[0] + halves[1]) / 2
    read = claiming(0.75, halves, mask)
    assert compare(volume, *halves, RATE, mask, read, tolerance=0.3).share == 0
    assert (
        compare(volume, *halves, RATE, mask, read, threshold=0.5).supported_percentile
        > compare(volume, *halves, RATE, mask, read).supported_percentile + 0.2
    )


def test_scan_finds_the_b_factor(halves, mask):
    """A reader of 10 A at the mean's own B, 0.01 A less for every A^2 of sharpening, coarser towards one side: the crossing is arithmetic."""

    def read(volume, rate, inside):
        ramp = np.broadcast_to(np.linspace(0, 1, SHAPE[0])[:, None, None], SHAPE)
        return np.where(inside, 10 + ramp + 0.01 * (b_factor_of(volume) - start), 0)

    weighted = np.fft.rfftn((halves[0] + halves[1]) / 2)
    filters.apply_gain(weighted, oversharpening._weights(*halves, RATE, mask), SHAPE, RATE)
    start = b_factor_of(np.fft.irfftn(weighted, s=SHAPE))
    at_zero = np.percentile(
        (10 + np.broadcast_to(np.linspace(0, 1, 40)[:, None, None], SHAPE))[mask], 20
    )
    found = scan(*halves, RATE, mask, read, at_zero - 0.87)
    assert found.limit == pytest.approx(-87, abs=3)
    assert found.b_factors == [-25.0 * i for i in range(len(found.b_factors))]
    assert found.b_factors[-1] < found.limit - 25 and found.level == at_zero - 0.87
    assert np.diff(found.percentiles) == pytest.approx(-0.25, abs=0.01)


def test_scan_ends_where_there_is_no_limit(halves, mask):
    found = scan(*halves, RATE, mask, lambda volume, rate, inside: np.where(inside, 9.0, 0), 4.0)
    assert found.limit is None and found.b_factors[-1] == -400
    assert (
        scan(*halves, RATE, mask, lambda volume, rate, inside: np.where(inside, 3.0, 0), 4.0).limit
        == 0
    )


def test_what_is_sharpened_has_no_noise_beyond_the_resolution(halves, mask):
    gain = oversharpening._weights(*halves, RATE, mask)
    k = np.arange(len(gain)) * filters.shell_width(SHAPE, RATE)
    assert (
        gain[1] == pytest.approx(1, abs=0.02)
        and gain[-1] == 0
        and 1 / k[-1] == pytest.approx(3.5, rel=0.15)
    )
    transform = np.fft.rfftn(halves[0])
    sharp = np.fft.rfftn(oversharpening._sharpened(transform, SHAPE, RATE, -100.0))
    ratio = np.abs(sharp[4, 3, 0]) / np.abs(transform[4, 3, 0])  # k = 5 / 40
    assert ratio == pytest.approx(np.exp(25 * (5 / 40) ** 2), rel=1e-3)


@given(st.floats(2, 12), st.lists(st.floats(0.01, 1), min_size=1, max_size=12), st.floats(1, 13))
def test_limit_is_where_the_line_crosses(first, falls, level):
    percentiles = list(first - np.concatenate([[0], np.cumsum(falls)]))
    b_factors = [-25.0 * i for i in range(len(percentiles))]
    found = limit(b_factors, percentiles, level)
    if found is None:
        assert percentiles[-1] > level
    elif found == 0:
        assert first <= level
    else:
        assert np.interp(-found, [-b for b in b_factors], percentiles) == pytest.approx(
            level, abs=1e-6
        )


@pytest.mark.parametrize(
    "changes",
    [
        {"tolerance": -0.1},
        {"tolerance": 1.0},
        {"tolerance": float("nan")},
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
        "deepres": None,
        **changes,
    }
    with pytest.raises(InputError) as error:
        compare(**arguments)
    assert "\n" not in str(error.value)


def test_picture(halves, mask, tmp_path):
    volume = (halves[0] + halves[1]) / 2
    found = compare(volume, *halves, RATE, mask, claiming(0.75, halves, mask, 0.5))
    scanned = oversharpening.Scan([0.0, -25.0, -50.0], [5.0, 4.0, 3.0], -12.5, 4.5)
    for name, curve in (("three.png", None), ("four.png", scanned)):
        picture(tmp_path / name, volume, found, curve, RATE)
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


@pytest.fixture
def files(halves, mask, tmp_path):
    """Two halves, their mean and a mask as files, with an origin."""
    paths = []
    for name, data in (
        ("map", (halves[0] + halves[1]) / 2),
        ("half1", halves[0]),
        ("half2", halves[1]),
        ("mask", mask),
    ):
        paths.append(str(tmp_path / f"{name}.mrc"))
        mrc.write_map(
            paths[-1], np.asarray(data, np.float32), mrc.new_map(data, RATE, (3.0, -2.0, 7.5))
        )
    return paths


@pytest.fixture
def reader(monkeypatch, halves, mask):
    """Puts a reader of known answers in the network's place."""

    def put(factor, share=1.0):
        read = claiming(factor, halves, mask, share)
        monkeypatch.setattr(oversharpening_command, "network", lambda *a, **k: (read, "1.0"))
        monkeypatch.setattr(oversharpening_command, "auto_mask", lambda *a, **k: mask)

    return put


def test_command(files, reader, tmp_path, capsys):
    reader(0.75, 0.5)
    volume, half1, half2, mask = files
    prefix = str(tmp_path / "out")
    assert (
        cli.main(
            [
                "oversharpening",
                volume,
                "--halves",
                half1,
                half2,
                "--mask",
                mask,
                "-o",
                prefix,
                "--scan",
                "-g",
                "-1",
            ]
        )
        == 0
    )
    report = json.loads((tmp_path / "out.json").read_text())
    assert (
        report["claims_more_percent"] == pytest.approx(50)
        and report["verdict"] in capsys.readouterr().out
    )
    assert report["scan"]["b_factors"][0] == 0 and report["mask"]["voxels"] == 8000
    assert (tmp_path / "out.png").stat().st_size > 10000
    claimed, supported = (mrc.read_map(f"{prefix}_{name}.mrc") for name in ("claimed", "supported"))
    assert claimed.origin == (3.0, -2.0, 7.5)
    np.testing.assert_allclose(
        (claimed.data / np.maximum(supported.data, 1))[10:20, 10:30, 10:30], 0.75, atol=1e-5
    )
    assert report["supported"]["percentile_20"] == pytest.approx(
        np.percentile(supported.data[supported.data > 0], 20), abs=1e-3
    )


def test_exit_status(files, reader, tmp_path, capsys):
    volume, half1, half2, _ = files
    arguments = [
        "oversharpening",
        volume,
        "--halves",
        half1,
        half2,
        "-o",
        str(tmp_path / "out"),
        "-g",
        "-1",
    ]
    reader(0.7)
    assert cli.main(arguments) == 0 and cli.main([*arguments, "--strict"]) == 3
    reader(1.0)
    assert cli.main([*arguments, "--strict"]) == 0
    assert cli.main([*arguments[:3], half1, half1, *arguments[5:]]) == 1
    assert "same map" in capsys.readouterr().err
    with pytest.raises(SystemExit) as usage:
        cli.main(arguments[:2])
    assert usage.value.code == 2


@pytest.mark.parametrize(
    "extra, word",
    [
        (["--tolerance", "-1"], "--tolerance -1"),
        (["--threshold", "2"], "--threshold 2"),
        (["--network", "none.npz"], "none.npz"),
        (["-o", "/nowhere/out"], "no folder"),
    ],
)
def test_bad_input_leaves_nothing_behind(files, tmp_path, capsys, extra, word):
    volume, half1, half2, _ = files
    assert (
        cli.main(
            [
                "oversharpening",
                volume,
                "--halves",
                half1,
                half2,
                "-o",
                str(tmp_path / "out"),
                *extra,
            ]
        )
        == 1
    )
    error = capsys.readouterr().err
    assert word in error and error.count("\n") == 1
    assert not list(tmp_path.glob("out*"))


def test_a_map_on_another_grid_is_refused(files, tmp_path, capsys):
    small = str(tmp_path / "small.mrc")
    data = np.random.default_rng(0).standard_normal((20, 20, 20)).astype(np.float32)
    mrc.write_map(small, data, mrc.new_map(data, 2.0))
    assert (
        cli.main(["oversharpening", small, "--halves", *files[1:3], "-o", str(tmp_path / "out")])
        == 1
    )
    assert "grid" in capsys.readouterr().err


def test_trust_in_the_enhancers_report(files, reader, mask, halves, tmp_path):
    reader(0.75, 0.25)
    volume, where = mrc.read_map(files[0]), devices.select_devices("-1")
    said = oversharpening_command.trust(volume, files[1:3], None, None, where)
    assert said["claims_more_percent"] == pytest.approx(25) and said["voxels"] == 8000
    assert said["verdict"].startswith(
        "the output claims more than the halves support in 25 % of the mask"
    )
    half = mask.copy()
    half[:20] = False  # the user's mask leaves the other planes
    mrc.write_map(files[3], half.astype(np.float32), volume)
    assert oversharpening_command.trust(volume, files[1:3], None, files[3], where)["voxels"] == 4000


def test_an_empty_output_claims_nothing(files):
    volume = mrc.read_map(files[0])
    said = oversharpening_command.trust(
        replace(volume, data=np.zeros(SHAPE, np.float32)),
        files[1:3],
        None,
        None,
        devices.select_devices("-1"),
    )
    assert said == {"verdict": oversharpening_command.NOTHING}


def test_trust_needs_both_halves(files, capsys):
    with pytest.raises(SystemExit) as usage:
        cli.main(["-i", files[1], "-o", "unused.mrc", "--trust"])
    assert usage.value.code == 2 and "-i2" in capsys.readouterr().err
