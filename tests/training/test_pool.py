"""The pool of cubes, its processes, and batches drawn ahead."""

import itertools
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from deepemhancer_plugin.core.enhancement.orientations import rotate_cube
from deepemhancer_plugin.core.training.cubes import Simulation
from deepemhancer_plugin.core.training.pool import Pool, Prefetch, add_noise_patch


@pytest.mark.parametrize("edge", [8, 16, 32])
def test_corruption_is_a_patch_of_noise_with_an_empty_target(edge):
    for seed in range(20):
        cube, target = (
            np.zeros((edge, edge, edge, 2), np.float16),
            np.ones((edge, edge, edge, 1), np.float16),
        )
        add_noise_patch(cube, target, np.random.default_rng(seed))
        patch = target[..., 0] == 0
        assert patch.any() and not cube[~patch].any()
        extents = [
            np.flatnonzero(patch.any(tuple(b for b in range(3) if b != a))) for a in range(3)
        ]
        assert all(
            len(e) == e[-1] - e[0] + 1 <= edge // 3 for e in extents
        ) and patch.sum() == np.prod([len(e) for e in extents])
        assert (cube[patch] != 0).mean() > 0.9


POOL = """
import os
import numpy as np
from deepemhancer_plugin.core.simulation import from_structure
from deepemhancer_plugin.core.simulation.synthetic import build_protein
from deepemhancer_plugin.core.training.pool import Pool
from deepemhancer_plugin.core.training.cubes import Simulation
with Pool(Simulation([from_structure(build_protein())[:200]]), 8, 32, 2, 1, 0) as pool:
    pool.wait(8)
    processes = pool._processes
    assert all(p.is_alive() for p in processes) and pool.count_made() >= 8
    inputs, targets = pool.draw_batch(5, 24, np.random.default_rng(0))
assert inputs.shape == (5, 24, 24, 24, 2) and targets.shape == (5, 24, 24, 24, 1)
assert inputs.dtype == np.float16
assert np.isfinite(inputs).all() and inputs.std((1, 2, 3)).min() > 0
assert not any(p.is_alive() for p in processes)
try:
    os.waitpid(-1, os.WNOHANG)
except ChildProcessError:
    print("no children")
"""


def test_pool_gives_cubes_and_leaves_no_process():
    done = subprocess.run(
        [sys.executable, "-c", POOL],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0 and done.stdout == "no children\n", done.stderr[-2000:]


def test_batches_are_parts_of_the_cubes_turned():
    """Without processes: the pool's memory filled by hand."""
    pool = Pool(Simulation([]), 8, 12, 1, 1, 0)
    values = np.arange(12**3, dtype=np.float16).reshape(12, 12, 12, 1) / 2
    pool.inputs[:], pool.targets[:], pool.version[:] = values, values + 1, 2
    parts = {
        tuple(rotate_cube(values[a : a + 10, b : b + 10, c : c + 10], i).ravel()[:200])
        for i in range(24)
        for a, b, c in itertools.product(range(3), repeat=3)
    }
    inputs, targets = pool.draw_batch(60, 10, np.random.default_rng(0))
    same = [i for i in range(60) if np.array_equal(inputs[i] + 1, targets[i])]
    assert 45 <= len(same) < 60  # about a tenth is corrupted
    assert (
        all(tuple(inputs[i].ravel()[:200]) in parts for i in same)
        and len({float(inputs[i, 0, 0, 0, 0]) for i in same}) > 10
    )


def test_blur_takes_detail_from_some_inputs_and_none_from_the_targets():
    pool = Pool(Simulation([]), 8, 16, 1, 1, 0)
    pool.inputs[:] = pool.targets[:] = np.random.default_rng(0).standard_normal((8, 16, 16, 16, 1))
    pool.version[:] = 2
    inputs, targets = pool.draw_batch(40, 16, np.random.default_rng(0), blur=0.5)
    assert targets.astype(np.float32).std((1, 2, 3, 4)).min() > 0.9
    blurred = inputs.astype(np.float32).std((1, 2, 3, 4)) < 0.7
    assert 8 <= blurred.sum() <= 32


def test_cubes_are_renewed_as_fast_as_they_are_used(molecule):
    with Pool(Simulation([molecule]), 16, 16, 2, 1, 0) as pool:
        pool.wait(16)
        for drawn, filled in ((0, 16), (3, 24), (8, 32)):  # eight come from one volume
            pool.draw_batch(drawn, 16, np.random.default_rng(0))
            end = time.monotonic() + 60
            while pool.count_made() < filled and time.monotonic() < end:
                time.sleep(0.01)
            time.sleep(0.5)
            assert pool.count_made() == filled


def test_a_dead_worker_is_noticed(molecule):
    with Pool(Simulation([molecule]), 8, 32, 2, 1, 0) as pool:
        pool._processes[0].kill()
        pool._processes[0].join()
        with pytest.raises(RuntimeError, match="died"):
            pool.wait(8)
        pool.version[:] = 2  # once filled, the same cubes would serve for ever
        with pytest.raises(RuntimeError, match="died"):
            pool.draw_batch(1, 32, np.random.default_rng(0))


def test_what_a_thread_of_batches_raises_arrives_at_once():
    def make(rng):
        raise KeyError("a broken pool")

    batches = Prefetch(make, [0], 2)
    started = time.monotonic()
    with pytest.raises(KeyError, match="a broken pool"):
        batches.get()
    batches.close()
    assert time.monotonic() - started < 5
