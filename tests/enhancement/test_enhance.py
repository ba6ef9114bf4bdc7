"""The way of a map through the program, with the embedded weights."""

import warnings

import numpy as np
import pytest
from scipy import ndimage

from deepemhancer_plugin.core.devices import select_devices
from deepemhancer_plugin.core.enhancement import windows
from deepemhancer_plugin.core.enhancement.amplitudes import SOLVENT_LEVEL
from deepemhancer_plugin.core.enhancement.enhance import LOW_PASS_EDGE, enhance
from deepemhancer_plugin.core.errors import InputError, MapWarning
from deepemhancer_plugin.core.evaluation import score, soft_mask
from deepemhancer_plugin.core.maps.filters import frequencies
from deepemhancer_plugin.core.maps.spectrum import fsc, resolution
from deepemhancer_plugin.core.noise import directions
from deepemhancer_plugin.core.noise.statistics import noise_from_halves
from deepemhancer_plugin.core.simulation import Conditions, from_structure, simulate_halves
from deepemhancer_plugin.core.simulation.synthetic import build_protein
from deepemhancer_plugin.core.weights.embedded import load_embedded

quiet = pytest.mark.filterwarnings("ignore::deepemhancer_plugin.core.errors.MapWarning")


@pytest.fixture(scope="module")
def model():
    return load_embedded("tightTarget")


@pytest.fixture(scope="module")
def run(model):
    """`enhance` of arrays at 1 A/voxel with the default weights on the CPU."""
    machine = select_devices("-1")

    def run(*maps, sampling_rate=1.0, **options):
        options = {"weights": model, "device": machine} | options
        return enhance(*maps, sampling_rate=sampling_rate, **options)

    return run


def protein(seed=5, **conditions):
    molecule = from_structure(build_protein(1))
    return simulate_halves(molecule, Conditions(**({"margin": 16.0} | conditions)), seed)


@pytest.fixture(scope="module")
def made():
    return protein(resolution=3.5)


@pytest.fixture(scope="module")
def result(made, run):
    return run(made.half1, made.half2).data


def cc(a, b):
    return np.corrcoef(a.ravel(), b.ravel())[0, 1]


def test_result_is_near_the_target(made, result):
    assert cc(result, made.target) > cc((made.half1 + made.half2) / 2, made.target) + 0.15
    assert result.max() > 0.5 and abs(np.median(result)) < 0.01


def test_unit_and_level_of_the_densities_do_not_matter(made, run, result):
    assert cc(run(made.half1 * 700 + 50, made.half2 * 700 + 50).data, result) > 0.99


def test_integer_half_maps_do_not_overflow(made, run, result):
    """Their difference would leave int16."""
    scale = 30000 / max(np.abs(made.half1).max(), np.abs(made.half2).max())
    halves = [np.round(half * scale).astype(np.int16) for half in (made.half1, made.half2)]
    assert cc(run(*halves).data, result) > 0.99


def test_rotated_input_gives_the_rotated_output(made, run, result):
    turned = run(*(np.rot90(half, 1, (0, 2)) for half in (made.half1, made.half2))).data
    assert cc(np.rot90(turned, -1, (0, 2)), result) > 0.99


def test_windows_leave_no_seams(made, model, result):
    """No larger steps where a window begins or ends, and closer windows give the same map."""
    steps = np.abs(np.diff(result, axis=0)).mean((1, 2))
    starts = windows.window_starts(result.shape[0], model.tile, model.stride)
    borders = {start + edge for start in starts for edge in (0, model.tile)}
    at_borders = [
        steps[b - 1] / np.mean(steps[b - 3 : b + 2]) for b in borders if 3 <= b <= len(steps) - 3
    ]
    assert at_borders and max(at_borders) < 1.5
    noise = noise_from_halves(made.half1, made.half2)
    shown = model.prepare((made.half1 + made.half2) / 2, 1.0, noise, None)
    plain, closer = (
        windows.enhance_windows(shown, [model.predictor()], model.tile, stride)
        for stride in (model.stride, 32)
    )
    assert cc(closer, plain) > 0.995


def test_halves_of_noise_alone_are_written_with_a_warning(made, run):
    rng = np.random.default_rng(0)
    halves = [rng.standard_normal(made.half1.shape, np.float32) for _ in range(2)]
    with pytest.warns(MapWarning, match="nothing but noise"):
        noise = run(*halves)
    assert noise.report["halves_agree"] is False and noise.report["sees_molecule"] is False
    assert np.percentile(noise.data, 99.9) < 0.02 * np.percentile(made.target[made.mask > 0.5], 95)


def test_weak_halves_are_not_called_noise(run):
    """The unmasked FSC stays under 0.143 at every frequency, and yet there is signal."""
    weak = protein(1, resolution=9.0, box=96)
    with warnings.catch_warnings():
        warnings.simplefilter("error", MapWarning)
        found = run(weak.half1, weak.half2)
    curve = fsc(weak.half1, weak.half2)[1]
    assert np.convolve(curve[3:], np.ones(5) / 5, "valid").max() < 0.143
    assert found.report["halves_agree"] is True and found.data.any()


@pytest.mark.parametrize("exponent", [0.5, 0.0, -1.0, -2.0])
@quiet
def test_single_map_of_noise_of_any_colour_gives_next_to_nothing(made, run, exponent):
    """Amplitudes that grow with frequency^exponent; the bound is 2 % of a protein's density."""
    shape = made.half1.shape
    spectrum = np.fft.rfftn(np.random.default_rng(1).standard_normal(shape))
    spectrum *= np.maximum(frequencies(shape), 0.5 / shape[0]) ** exponent
    noise = np.fft.irfftn(spectrum, s=shape).astype(np.float32)
    with pytest.warns(MapWarning, match="sees no body"):
        found = run(noise)
    assert found.report["sees_molecule"] is False
    level = np.percentile(made.target[made.mask > 0.5], 95)
    assert 0 < np.percentile(found.data, 99.9) < 0.02 * level


@quiet
def test_single_map_of_a_peptide_is_not_emptied(run):
    """The first 12 % of a protein: too small a body to be called a molecule, and kept."""
    molecule = from_structure(build_protein(1))
    small = simulate_halves(
        molecule[np.arange(len(molecule) // 8)], Conditions(resolution=3.5, box=64), 0
    )
    found = run((small.half1 + small.half2) / 2)
    assert found.report["sees_molecule"] is False
    assert cc(found.data, small.target) > 0.85


def test_map_with_next_to_no_noise(made, run):
    """As one computed from a model: so little noise as no training showed."""
    noise = np.random.default_rng(0).standard_normal(made.model.shape)
    with pytest.warns(MapWarning, match="next to no noise"):
        found = run((made.model + 1e-9 * made.model.std() * noise).astype(np.float32))
    assert found.report["noise"]["std"] == pytest.approx(0.01 * made.model.std(), rel=1e-3)
    assert cc(found.data, made.model) > 0.93


@pytest.mark.parametrize("single", [False, True])
@quiet
def test_map_that_is_masked_to_the_molecule(made, run, result, single):
    """As a lab deposits it, zero outside: the molecule is no solvent, and does not vanish."""
    zone = ndimage.binary_dilation(made.mask > 0.5, iterations=3)
    halves = [np.where(zone, half, 0).astype(np.float32) for half in (made.half1, made.half2)]
    masked = run((halves[0] + halves[1]) / 2).data if single else run(*halves).data
    assert cc(masked[zone], result[zone]) > 0.95
    assert masked[zone].sum() == pytest.approx(result[zone].sum(), rel=0.2)


@pytest.mark.parametrize("rate", [1.0, 1.1])
def test_blank_outside_a_sphere_is_solvent_at_any_sampling_rate(run, rate):
    """A solvent ten standard deviations above the blank corners of the box."""
    made = protein(resolution=4.0, sampling_rate=rate)
    noise = noise_from_halves(made.half1, made.half2)
    n = len(made.half1)
    inside = sum(axis**2 for axis in np.ogrid[-n // 2 : n // 2, -n // 2 : n // 2, -n // 2 : n // 2])
    inside = inside < (0.48 * n) ** 2
    scores = []
    for level in (0, 10):
        halves = [
            np.where(inside, half + level * noise.std, 0).astype(np.float32)
            for half in (made.half1, made.half2)
        ]
        found = run(*halves, sampling_rate=rate).data
        scores.append(score(found, made.model, soft_mask(made.model, rate), rate).cc_mask)
    assert scores[1] > scores[0] - 0.02


def test_nothing_finer_comes_out_than_went_in(run):
    low = protein(resolution=3.0, low_pass=6.0)
    ended, free = (run(low.half1, low.half2, band_limit=limit) for limit in (True, False))
    assert 6.0 <= ended.report["input_ends_at"] < 7.5 and free.report["input_ends_at"] is None
    mask = soft_mask(low.model, 1.0)
    frequency, curve = fsc(ended.data * mask, low.model * mask)
    finest = resolution(*fsc(free.data * mask, low.model * mask), 0.5)
    assert resolution(frequency, curve, 0.5) >= 6.0 / LOW_PASS_EDGE > finest
    assert curve[frequency > 1.2 / 6].max() < 0.3
    inside = low.mask > 0.5
    half_space = np.arange(len(low.model))[:, None, None] < len(low.model) // 2
    users = np.broadcast_to(half_space, inside.shape)
    masked = run(low.half1, low.half2, mask=users).data
    assert not masked[~users].any() and masked[inside & users].any()


def test_blur_is_no_low_pass(run):
    """Signal and noise lose contrast alike, and the detail is still there."""
    blurred = protein(
        resolution=3.5, b_factor=400, disorder=0, pose_error=0, angle_error=0, random_pose=False
    )
    found = run(blurred.half1, blurred.half2)
    assert found.report["input_ends_at"] is None
    before = (blurred.half1 + blurred.half2) / 2
    mask = soft_mask(blurred.model, 1.0)
    first, last = (score(v, blurred.model, mask, 1.0) for v in (before, found.data))
    assert last.cc_mask > first.cc_mask + 0.15 and last.fsc_masked < first.fsc_masked - 0.8


def test_noise_of_preferred_views_is_evened_out(run, made, monkeypatch):
    views = protein(resolution=4.0, preferred=0.8, reconstruction=False)
    after = run(views.half1, views.half2)
    assert after.report["noise_anisotropy"] == pytest.approx(1.02 / 0.22, rel=0.3)
    assert run(made.half1, made.half2).report["noise_anisotropy"] < 1.2
    monkeypatch.setattr(directions, "LEAST_ANISOTROPY", np.inf)
    plain = run(views.half1, views.half2)
    assert cc(after.data, views.model) > cc(plain.data, views.model) + 0.003


def test_sampling_rates_are_left_as_they_were(run):
    """A non-cubic box at 1.7 A/voxel comes back with its shape and its molecule in place."""
    made = protein(6, resolution=5.0, sampling_rate=1.7, margin=8.0)
    halves = [np.ascontiguousarray(half[:, 2:-1, 1:]) for half in (made.half1, made.half2)]
    after = run(*halves, sampling_rate=1.7).data
    target = made.target[:, 2:-1, 1:]
    assert after.shape == halves[0].shape
    shifts = [(z, y, x) for z in (-1, 0, 1) for y in (-1, 0, 1) for x in (-1, 0, 1)]
    best = max(shifts, key=lambda shift: cc(np.roll(after, shift, (0, 1, 2)), target))
    assert best == (0, 0, 0)


def test_result_does_not_depend_on_the_batch(made, run):
    halves = [half[:, 8:72, 8:72] for half in (made.half1, made.half2)]
    one, three = (run(*halves, batch=batch, precision="float32").data for batch in (1, 3))
    assert np.abs(one - three).max() < 1e-4


def test_too_little_memory_is_said_before_anything_is_computed(made, run, monkeypatch):
    monkeypatch.setattr("deepemhancer_plugin.core.devices.free_host_memory", lambda: 2**29)
    with pytest.raises(
        InputError, match=r"not enough memory: a map of 80 x 80 x 80 .*0\.5 GB are free"
    ):
        run(made.half1, made.half2)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"cleaning": 2}, "0 to 1"),
        ({"batch": 0}, "at least 1"),
        ({"classic": True}, "official"),
        ({"precision": "mixed"}, "precision mixed"),
        ({"average": 3}, "are right"),
        ({"classic": True, "average": 4}, "leave them out"),
        ({"classic": True, "symmetry": "C2"}, "leave them out"),
        ({"symmetry": "C2", "helix": (1.0, 2.0)}, "exclude each other"),
        ({"noise": "none"}, "auto, classic"),
        ({"noise": (0.0, -1.0)}, "above 0"),
        ({"weights": "noneOfOurs"}, "no such file"),
    ],
)
def test_options_that_do_not_fit(made, run, options, words):
    with pytest.raises(InputError, match=words):
        run(made.half1, made.half2, **options)


def test_average_over_orientations_turns_with_the_map(made, run):
    """In one window, and turned by a member of the group, exactly; and it changes it but little."""
    middle = tuple(slice((n - 64) // 2, (n + 64) // 2) for n in made.half1.shape)
    small = [half[middle] for half in (made.half1, made.half2)]

    def enhanced(turns, **options):
        options = {"average": 4, "precision": "float32"} | options
        data = run(*(np.rot90(half, turns, (0, 1)) for half in small), **options).data
        return np.rot90(data, -turns, (0, 1))

    output, plain = enhanced(0, amplitudes=False), enhanced(0)
    # Where rounding decides whether the output counts as solvent and becomes 0.
    step = np.abs(output - SOLVENT_LEVEL) < 1e-5
    assert np.mean(step) < 1e-4
    assert np.abs(enhanced(2) - plain)[~step].max() < 1e-3
    assert cc(plain, enhanced(0, average=1)) > 0.98
    assert np.array_equal(plain, enhanced(0, average=None))  # so small a map is shown in four


def test_symmetry_is_imposed_and_a_wrong_one_is_noticed(made, run):
    with pytest.warns(MapWarning, match="correlation of only"):
        symmetric = run(made.half1, made.half2, symmetry="C2")
    assert symmetric.report["symmetry_correlation"] < 0.5
    n = symmetric.data.shape[0]
    start = 1 - n % 2  # in an even box the first plane has no partner about voxel n // 2
    inner = symmetric.data[:, start:, start:]
    assert np.abs(inner - inner[:, ::-1, ::-1]).max() < 1e-3
