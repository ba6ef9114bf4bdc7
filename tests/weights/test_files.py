"""The format of weights files, with stand-ins for networks: no Keras."""

import zipfile
from types import SimpleNamespace

import numpy as np
import pytest

from deepemhancer_plugin.core.errors import InputError
from deepemhancer_plugin.core.weights import files
from deepemhancer_plugin.core.weights.files import load_network, write_difference, write_weights

COMMAND = "deepemhancer train"


class Variable:
    """A Keras variable, as far as files need one."""

    def __init__(self, path, values):
        self.path, self.values = path, np.asarray(values, np.float32)
        self.shape = self.values.shape

    def __array__(self, dtype=None, copy=None):
        return self.values

    def assign(self, values):
        self.values = np.asarray(values, np.float32)


def variables(seed=0, size=40):
    rng = np.random.default_rng(seed)
    shapes = {"first/kernel": (3, size), "first/bias": (size,), "last/bias": ()}
    return [Variable(path, rng.standard_normal(shape)) for path, shape in shapes.items()]


def build(architecture):
    """A network that keeps the architecture it was made of."""
    model = SimpleNamespace(trainable_variables=variables(1, architecture["size"]))
    return SimpleNamespace(model=model, architecture=architecture)


def load(path):
    return load_network(path, build, COMMAND)


def values_of(network):
    return {v.path: v.values for v in network.model.trainable_variables}


def refused(path, match=None):
    with pytest.raises(InputError, match=match) as caught:
        load(path)
    assert "\n" not in str(caught.value) and str(caught.value).startswith(str(path))


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "weights.npz"
    write_weights(path, variables(), {"size": 40}, {"step": 7})
    return path


@pytest.fixture
def difference(saved, tmp_path):
    """Weights near those of `saved`, and their difference from them."""
    tuned = variables()
    rng = np.random.default_rng(2)
    for variable in tuned:
        variable.assign(variable.values + 0.02 * rng.standard_normal(variable.shape))
    write_weights(tmp_path / "tuned.npz", tuned, {"size": 40}, {"step": 8})
    path = tmp_path / "difference.npz"
    write_difference(path, tmp_path / "tuned.npz", saved)
    return path


def test_round_trip(saved):
    network, facts = load(saved)
    assert network.architecture == {"size": 40} and facts == {"step": 7}
    for variable in variables():
        found = values_of(network)[variable.path]
        np.testing.assert_array_equal(found, variable.values.astype(np.float16))
        assert found.dtype == np.float32
    assert files.read_architecture(saved) == {"size": 40}
    assert [p.name for p in saved.parent.iterdir()] == ["weights.npz"]


@pytest.mark.parametrize(("value", "said"), [(7e4, "70000"), (np.nan, "nan"), (-np.inf, "-inf")])
def test_value_out_of_float16s_range_is_not_written(saved, value, said):
    before, diverged = saved.read_bytes(), variables()
    diverged[0].values[1, 2] = value
    with pytest.raises(InputError, match=f"first/kernel holds {said}, which float16") as caught:
        write_weights(saved, diverged, {"size": 40}, {})
    assert "\n" not in str(caught.value)
    assert saved.read_bytes() == before and [p.name for p in saved.parent.iterdir()] == [saved.name]


def test_largest_float16_is_written(tmp_path):
    extreme = variables()
    extreme[0].values[0, :2] = 65504, -65504
    write_weights(tmp_path / "w.npz", extreme, {"size": 40}, {})
    assert values_of(load(tmp_path / "w.npz")[0])["first/kernel"][0, :2].tolist() == [65504, -65504]


def test_interrupted_writing_leaves_the_old_file(saved, monkeypatch):
    before = saved.read_bytes()

    def interrupted(path, **arrays):
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(files.np, "savez", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_weights(saved, variables(), {"size": 40}, {})
    assert saved.read_bytes() == before and [p.name for p in saved.parent.iterdir()] == [saved.name]


def test_difference_comes_back_within_its_step(difference, tmp_path):
    network, facts = load(difference)
    tuned, _ = load(tmp_path / "tuned.npz")
    assert facts == {"step": 8} and network.architecture == {"size": 40}
    for path, values in values_of(network).items():
        with np.load(difference) as data:
            step = float(data[f"{path} step"])
            assert data[path].dtype == np.int8
        np.testing.assert_allclose(values, values_of(tuned)[path], atol=0.501 * step)


def test_difference_of_a_file_from_itself(saved, tmp_path):
    write_difference(tmp_path / "same.npz", saved, saved)
    same, base = (values_of(load(path)[0]) for path in (tmp_path / "same.npz", saved))
    for path, values in base.items():
        np.testing.assert_array_equal(same[path], values)


def test_difference_needs_the_base_it_was_made_from(difference, saved):
    write_weights(saved, variables(5), {"size": 40}, {})
    refused(difference, "missing or has changed")
    saved.unlink()
    refused(difference, "missing or has changed")


def test_difference_of_files_that_do_not_match(difference, saved, tmp_path):
    other = tmp_path / "other.npz"
    write_weights(other, variables(0, 50), {"size": 50}, {})
    for weights, base in ((other, saved), (difference, saved), (saved, difference)):
        with pytest.raises(InputError, match="two whole files of one architecture"):
            write_difference(tmp_path / "out.npz", weights, base)
    other.write_text("no weights")
    with pytest.raises(InputError, match=r"other\.npz: not a weights file"):
        write_difference(tmp_path / "out.npz", saved, other)
    assert not (tmp_path / "out.npz").exists()


def test_damaged_compressed_array_is_refused(difference):
    """What zlib raises is no error that NumPy documents."""
    content = bytearray(difference.read_bytes())
    with zipfile.ZipFile(difference) as archive:
        entry = archive.getinfo("first/kernel.npy")
    start = entry.header_offset + 30 + len(entry.filename) + 20
    for i in range(start, start + entry.compress_size // 2):
        content[i] ^= 0xFF
    difference.write_bytes(content)
    refused(difference, "not a weights file")


def test_damaged_array_header_is_refused(tmp_path):
    """Of an array larger than the blocks that are checked, NumPy parses the header first."""
    path = tmp_path / "large.npz"
    write_weights(path, variables(0, 5000), {"size": 5000}, {})
    content = path.read_bytes().replace(b"(3, 5000), }", b"(3, 5000), {")
    path.write_bytes(content)
    refused(path, "not a weights file")


def test_missing_file_and_folder(tmp_path):
    refused(tmp_path / "absent.npz", "No such file")
    refused(tmp_path, "Is a directory")


@pytest.mark.parametrize("text", ["", "[1]", "3", "null", "{", '{"size": "x"}', '{"size": 41}'])
def test_damaged_architecture_is_refused(saved, text):
    with np.load(saved) as data:
        arrays = dict(data)
    np.savez(saved, **(arrays | {"architecture": text}))
    refused(saved)


@pytest.mark.parametrize(
    "values", [np.zeros(3), np.full((), np.nan), np.array("text"), np.array(1e300)]
)
@pytest.mark.filterwarnings("ignore:overflow")
def test_wrong_array_is_refused(saved, values):
    with np.load(saved) as data:
        arrays = dict(data)
    np.savez(saved, **(arrays | {"last/bias": values}))
    refused(saved)
    del arrays["last/bias"]
    np.savez(saved, **arrays)
    refused(saved, "last/bias")
