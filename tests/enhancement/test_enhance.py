"""The way of a map through the program, with the embedded weights: what must not change the result, and what must empty it."""

import numpy as np
import pytest
from scipy import ndimage

from deepemhancer_plugin.core.devices import select_devices
from deepemhancer_plugin.core.enhancement import enhance as enhance_module
from deepemhancer_plugin.core.enhancement import windows
from deepemhancer_plugin.core.enhancement.amplitudes import NOTHING
from deepemhancer_plugin.core.enhancement.enhance import Options, enhance
from deepemhancer_plugin.core.errors import InputError, MapWarning
from deepemhancer_plugin.core.evaluation import soft_mask
from deepemhancer_plugin.core.maps.spectrum import fsc, resolution
from deepemhancer_plugin.core.maps.symmetry import point_group
from deepemhancer_plugin.core.noise.statistics import noise_from_halves
from deepemhancer_plugin.core.simulation import Conditions, from_structure, simulate_halves
from deepemhancer_plugin.core.simulation.synthetic import build_protein
from deepemhancer_plugin.core.weights.embedded import load_embedded
from deepemhancer_plugin.core.weights.prepare import prepare


@pytest.fixture(scope="module")
def where():
    return select_devices("-1")


@pytest.fixture(scope="module")
def model():
    return load_embedded("tightTarget")


@pytest.fixture(scope="module")
def made():
    return simulate_halves(
        from_structure(build_protein(1)), Conditions(resolution=3.5, margin=16.0), 5
    )


@pytest.fixture(scope="module")
def result(made, model, where):
    return enhance([made.half1.copy(), made.half2.copy()], 1.0, model, where).data


def cc(a, b):
    return np.corrcoef(a.ravel(), b.ravel())[0, 1]


def test_result_is_near_the_target(made, result):
    assert cc(result, made.target) > cc((made.half1 + made.half2) / 2, made.target) + 0.15
    assert result.max() > 0.5 and abs(np.median(result)) < 0.01


def test_unit_and_level_of_the_densities_do_not_matter(made, model, where, result):
    other = enhance([made.half1 * 700 + 50, made.half2 * 700 + 50], 1.0, model, where).data
    assert cc(other, result) > 0.99


def test_rotated_input_gives_the_rotated_output(made, model, where, result):
    turned = enhance(
        [np.rot90(h, 1, (0, 2)).copy() for h in (made.half1, made.half2)], 1.0, model, where
    ).data
    assert cc(np.rot90(turned, -1, (0, 2)), result) > 0.99


def test_windows_leave_no_seams(made, model, where, result):
    """Steps between neighbouring voxels are no larger where a window begins or ends than elsewhere, and closer windows give the same map."""
    steps = np.abs(np.diff(result, axis=0)).mean((1, 2))
    borders = {
        s + d
        for s in windows.window_starts(result.shape[0], model.tile, model.stride)
        for d in (0, model.tile)
    }
    at_borders = [
        steps[b - 1] / np.mean(steps[b - 3 : b + 2]) for b in borders if 3 <= b <= len(steps) - 3
    ]
    assert at_borders and max(at_borders) < 1.5
    noise = noise_from_halves(made.half1, made.half2)
    inputs = prepare((made.half1 + made.half2) / 2, noise.mean, noise.std)
    plain, closer = (
        windows.enhance_windows(inputs, [model.predictor()], model.tile, stride)
        for stride in (model.stride, 32)
    )
    assert cc(closer, plain) > 0.995


def test_halves_of_noise_alone_give_nothing(made, model, where):
    rng = np.random.default_rng(0)
    shape = made.half1.shape
    with pytest.warns(MapWarning, match="nothing but noise"):
        empty = enhance(
            [rng.standard_normal(shape, np.float32) for _ in range(2)], 1.0, model, where
        ).data
    assert not empty.any()


@pytest.mark.parametrize("exponent", [0.5, 0.0, -1.0, -2.0])
@pytest.mark.filterwarnings(
    "ignore::deepemhancer_plugin.core.errors.MapWarning"
)  # that such noise is hard to measure
def test_single_map_of_noise_of_any_colour_gives_next_to_nothing(made, model, where, exponent):
    """Amplitudes that grow with frequency^exponent; the bound is 2 % of a protein's density."""
    edge = made.half1.shape[0]
    k = np.sqrt(
        sum(
            f**2
            for f in np.meshgrid(
                np.fft.fftfreq(edge), np.fft.fftfreq(edge), np.fft.rfftfreq(edge), indexing="ij"
            )
        )
    )
    spectrum = (
        np.fft.rfftn(np.random.default_rng(1).standard_normal((edge,) * 3))
        * np.maximum(k, 0.5 / edge) ** exponent
    )
    noise = np.fft.irfftn(spectrum, s=(edge,) * 3).astype(np.float32)
    made_up = enhance([noise.copy()], 1.0, model, where, Options(amplitudes=False)).data
    assert 0 < np.percentile(made_up, 99.9) < 0.02 * np.percentile(made.target[made.mask > 0.5], 95)
    with pytest.warns(MapWarning, match="sees no molecule"):
        assert not enhance([noise], 1.0, model, where).data.any()


def test_map_with_next_to_no_noise(made, model, where):
    """As one computed from a model: its noise, a billionth of the density here, is no measure for what the network was trained on."""
    noise = np.random.default_rng(0).standard_normal(made.model.shape)
    with pytest.warns(MapWarning, match="next to no noise"):
        found = enhance(
            [(made.model + 1e-9 * made.model.std() * noise).astype(np.float32)], 1.0, model, where
        )
    assert found.report["noise"]["std"] == pytest.approx(0.01 * made.model.std(), rel=1e-3)
    assert cc(found.data, made.model) > 0.93  # 0.924 with the noise as found


@pytest.mark.parametrize("single", [False, True])
@pytest.mark.filterwarnings(
    "ignore::deepemhancer_plugin.core.errors.MapWarning"
)  # that there is no solvent
def test_map_that_is_masked_to_the_molecule(made, model, where, result, single):
    """As a lab deposits it, zero outside: the molecule is no solvent, and does not vanish."""
    zone = ndimage.binary_dilation(made.mask > 0.5, iterations=3)
    halves = [np.where(zone, half, 0).astype(np.float32) for half in (made.half1, made.half2)]
    masked = enhance([(halves[0] + halves[1]) / 2] if single else halves, 1.0, model, where).data
    assert cc(masked[zone], result[zone]) > 0.95
    assert masked[zone].sum() == pytest.approx(result[zone].sum(), rel=0.2)


def test_nothing_finer_comes_out_than_went_in(model, where):
    low = simulate_halves(
        from_structure(build_protein(1)), Conditions(resolution=3.0, margin=16.0, low_pass=6.0), 5
    )
    halves = [low.half1, low.half2]
    ended, free = (
        enhance([h.copy() for h in halves], 1.0, model, where, Options(band_limit=limit))
        for limit in (True, False)
    )
    assert 6.0 <= ended.report["input_ends_at"] < 7.5 and free.report["input_ends_at"] is None
    mask = soft_mask(low.model, 1.0)
    frequency, curve = fsc(ended.data * mask, low.model * mask)
    assert (
        resolution(frequency, curve, 0.5)
        >= 6.0
        > resolution(*fsc(free.data * mask, low.model * mask), 0.5)
    )
    assert curve[frequency > 1.2 / 6].max() < 0.3
    inside = low.mask > 0.5
    outside = np.broadcast_to(
        np.arange(len(low.model))[:, None, None] < len(low.model) // 2, inside.shape
    )
    masked = enhance([h.copy() for h in halves], 1.0, model, where, Options(mask=outside)).data
    assert not masked[~outside].any() and masked[inside & outside].any()


def test_noise_of_preferred_views_is_evened_out(model, where, made, monkeypatch):
    views = simulate_halves(
        from_structure(build_protein(1)),
        Conditions(resolution=4.0, margin=16.0, preferred=0.8, reconstruction=False),
        5,
    )
    run = lambda: enhance([views.half1.copy(), views.half2.copy()], 1.0, model, where)  # noqa: E731
    after = run()
    assert after.report["noise_anisotropy"] == pytest.approx(1.02 / 0.22, rel=0.3)
    assert (
        enhance([made.half1.copy(), made.half2.copy()], 1.0, model, where).report[
            "noise_anisotropy"
        ]
        < 1.2
    )
    monkeypatch.setattr(enhance_module, "UNEVEN", np.inf)
    assert cc(after.data, views.model) > cc(run().data, views.model) + 0.003


def test_sampling_rates_are_left_as_they_were(model, where):
    """A non-cubic box at 1.7 A/voxel comes back with its shape and its molecule in place."""
    made = simulate_halves(
        from_structure(build_protein(1)),
        Conditions(resolution=5.0, sampling_rate=1.7, margin=8.0),
        6,
    )
    halves = [np.ascontiguousarray(h[:, 2:-1, 1:]) for h in (made.half1, made.half2)]
    after = enhance(list(halves), 1.7, model, where).data
    target = made.target[:, 2:-1, 1:]
    assert after.shape == halves[0].shape
    best = max(
        ((dz, dy, dx) for dz in (-1, 0, 1) for dy in (-1, 0, 1) for dx in (-1, 0, 1)),
        key=lambda d: cc(np.roll(after, d, (0, 1, 2)), target),
    )
    assert best == (0, 0, 0)


def test_too_little_memory_is_said_before_anything_is_computed(made, model, where, monkeypatch):
    monkeypatch.setattr("deepemhancer_plugin.core.devices.free_host_memory", lambda: 2**29)
    with pytest.raises(
        InputError, match=r"not enough memory: a map of 80 x 80 x 80 .*0\.5 GB are free"
    ):
        enhance([made.half1.copy(), made.half2.copy()], 1.0, model, where)


def test_options_that_do_not_fit(made, model, where):
    for options, word in (
        (Options(cleaning=2), "0 to 1"),
        (Options(batch=0), "at least 1"),
        (Options(classic=True), "official"),
        (Options(precision="mixed"), "precision mixed"),
    ):
        with pytest.raises(InputError, match=word):
            enhance([made.half1.copy(), made.half2.copy()], 1.0, model, where, options)


def test_average_over_orientations_turns_with_the_map(made, model, where, result):
    """In one window, and turned by a member of the group, exactly; and it changes the map but little."""
    middle = tuple(slice((n - 64) // 2, (n + 64) // 2) for n in made.half1.shape)
    small = [h[middle] for h in (made.half1, made.half2)]

    def enhanced(turns, amplitudes=True, average=4):
        options = Options(average=average, precision="float32", amplitudes=amplitudes)
        return np.rot90(
            enhance(
                [np.rot90(h, turns, (0, 1)).copy() for h in small], 1.0, model, where, options
            ).data,
            -turns,
            (0, 1),
        )

    output, plain = enhanced(0, amplitudes=False), enhanced(0)
    step = (
        np.abs(output - NOTHING) < 1e-5
    )  # where rounding decides whether the output is NOTHING, and becomes 0
    assert np.mean(step) < 1e-4
    assert np.abs(enhanced(2) - plain)[~step].max() < 1e-3
    assert cc(plain, enhanced(0, average=1)) > 0.98
    assert np.array_equal(
        plain, enhanced(0, average=None)
    )  # so small a map is shown in four anyway


def test_symmetry_is_imposed_and_a_wrong_one_is_noticed(made, model, where, result):
    with pytest.warns(MapWarning, match="correlation of only"):
        symmetric = enhance(
            [made.half1.copy(), made.half2.copy()],
            1.0,
            model,
            where,
            Options(symmetry=point_group("C2")),
        )
    assert symmetric.report["symmetry_correlation"] < 0.5
    n = symmetric.data.shape[0]
    start = 1 - n % 2  # in an even box the first plane has no partner about voxel n // 2
    inner = symmetric.data[:, start:, start:]
    assert np.abs(inner - inner[:, ::-1, ::-1]).max() < 1e-3


def test_average_and_symmetry_are_not_for_the_original_steps(made, where, model):
    for options in (
        Options(classic=True, average=4),
        Options(classic=True, symmetry=point_group("C2")),
        Options(average=3),
    ):
        with pytest.raises(InputError, match=r"leave them out|are right"):
            enhance([made.half1.copy()], 1.0, model, where, options)
