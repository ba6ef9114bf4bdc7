"""The loader of official checkpoints against a forward pass in float64, and hostile files."""

import fcntl
import hashlib
import json
import os
import pwd
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from official_checkpoint import CheckpointWriter, norm_fun, write_small

from deepemhancer_plugin.core.errors import InputError
from deepemhancer_plugin.core.weights.official.checkpoint import load_official, official_path


def pads(size, kernel, stride, padding):
    """Output length and padding (before, after) of one axis, TensorFlow's "same" and "valid"."""
    if padding == "valid":
        return (size - kernel) // stride + 1, (0, 0)
    out = -(-size // stride)
    missing = max((out - 1) * stride + kernel - size, 0)
    return out, (missing // 2, missing - missing // 2)


def conv3d(x, kernel, stride, padding):
    k, out = kernel.shape[0], []
    geometry = [pads(n, k, stride, padding) for n in x.shape[:3]]
    padded = np.pad(x, [before_after for _, before_after in geometry] + [(0, 0)])
    shape = [n for n, _ in geometry]
    out = np.zeros((*shape, kernel.shape[-1]))
    for i, j, m in np.ndindex(k, k, k):
        cut = padded[
            i : i + stride * shape[0] : stride,
            j : j + stride * shape[1] : stride,
            m : m + stride * shape[2] : stride,
        ]
        out += cut[: shape[0], : shape[1], : shape[2]] @ kernel[i, j, m]
    return out


def conv3d_transposed(x, kernel, stride, padding):
    """The adjoint of the convolution that would bring the output to the input."""
    k = kernel.shape[0]
    size = [n * stride + (max(k - stride, 0) if padding == "valid" else 0) for n in x.shape[:3]]
    geometry = [pads(n, k, stride, padding)[1] for n in size]
    out = np.zeros(
        [n + sum(pad) for n, pad in zip(size, geometry, strict=True)] + [kernel.shape[-2]]
    )
    for i, j, m in np.ndindex(k, k, k):
        for z, y, w in np.ndindex(x.shape[:3]):
            out[z * stride + i, y * stride + j, w * stride + m] += kernel[i, j, m] @ x[z, y, w]
    return out[
        tuple(slice(before, before + n) for n, (before, _) in zip(size, geometry, strict=True))
    ]


def group_norm(x, groups, epsilon, gamma, beta):
    """keras-contrib: a reshape, no transpose."""
    width = x.shape[-1] // groups
    y = x.reshape(groups, *x.shape[:3], width)
    mean, variance = y.mean((1, 2, 3, 4), keepdims=True), y.var((1, 2, 3, 4), keepdims=True)
    y = (y - mean) / np.sqrt(variance + epsilon)
    return (
        y * gamma.reshape(groups, 1, 1, 1, width) + beta.reshape(groups, 1, 1, 1, width)
    ).reshape(x.shape)


ACTIVATIONS = {
    "linear": lambda x: x,
    "relu": lambda x: np.maximum(x, 0),
    "elu": lambda x: np.where(x > 0, x, np.expm1(x)),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "tanh": np.tanh,
    "softplus": lambda x: np.log1p(np.exp(x)),
}


def pooled(x, size, reduce):
    n = x.shape
    return reduce(
        x.reshape(n[0] // size, size, n[1] // size, size, n[2] // size, size, n[3]), axis=(1, 3, 5)
    )


def reference(writer, output, window):
    """The forward pass of one window (tile, tile, tile) in float64."""
    values = {}
    for layer in writer.layers:
        kind, config = layer["class_name"], layer["config"]
        x = [values[i[0]] for i in (layer["inbound_nodes"] or [[]])[0]]
        w = {key: value.astype(float) for key, value in writer.weights[layer["name"]].items()}
        if kind == "InputLayer":
            y = window[..., None].astype(float)
        elif kind in ("Conv3D", "Conv3DTranspose"):
            function = conv3d if kind == "Conv3D" else conv3d_transposed
            y = function(x[0], w["kernel"], config["strides"][0], config["padding"]) + w.get(
                "bias", 0
            )
            y = ACTIVATIONS[config["activation"]](y)
        elif kind == "GroupNormalization":
            y = group_norm(x[0], config["groups"], config["epsilon"], w["gamma"], w["beta"])
        elif kind == "BatchNormalization":
            y = (x[0] - w["moving_mean"]) / np.sqrt(w["moving_variance"] + config["epsilon"]) * w[
                "gamma"
            ] + w["beta"]
        elif kind == "PReLU":
            y = np.where(x[0] > 0, x[0], w["alpha"] * x[0])
        elif kind in ("LeakyReLU", "ReLU"):
            y = np.where(x[0] > 0, x[0], config.get("alpha", 0) * x[0])
        elif kind == "Activation":
            y = ACTIVATIONS[config["activation"]](x[0])
        elif kind == "MaxPooling3D":
            y = pooled(x[0], 2, np.max)
        elif kind == "AveragePooling3D":
            y = pooled(x[0], 2, np.mean)
        elif kind == "UpSampling3D":
            y = x[0].repeat(2, 0).repeat(2, 1).repeat(2, 2)
        elif kind == "Concatenate":
            y = np.concatenate(x, -1)
        elif kind == "Add":
            y = sum(x)
        else:
            y = x[0]
        values[layer["name"]] = y
    return values[output][..., 0]


def windows(tile, count=2):
    return np.random.default_rng(1).normal(0.2, 0.5, (count, tile, tile, tile)).astype(np.float32)


def assert_like_reference(path, writer, output, x, precision="float32", tolerance=2e-6):
    predicted = load_official(path).predictor(precision)(x)
    expected = np.stack([reference(writer, output, window) for window in x])
    assert predicted.dtype == np.float32 and predicted.shape == x.shape
    assert np.abs(predicted - expected).max() < tolerance * np.ptp(expected)


@pytest.mark.parametrize(
    "shared", [(1, 2, 3), None, (1, 2)], ids=["shared", "unshared", "partly shared"]
)
def test_unet_like_reference(tmp_path, shared):
    writer = CheckpointWriter(16)
    output = writer.unet((8, 16), convolutions=2, groups=4, shared=shared)
    assert_like_reference(writer.write(tmp_path / "a.hd5", output), writer, output, windows(16))


def test_groups_that_end_inside_a_voxel(tmp_path):
    """10^3 voxels, halved to 5^3: 125 voxels do not divide into 4 slabs of whole voxels."""
    writer = CheckpointWriter(10)
    output = writer.unet((8,), convolutions=1, groups=4)
    assert_like_reference(writer.write(tmp_path / "a.hd5", output), writer, output, windows(10))


def test_every_other_layer(tmp_path):
    writer = CheckpointWriter(8)
    x = writer.conv(writer.input, 4, kernel=3, use_bias=False, activation="elu")
    weights = {
        "gamma": [1, 2, 0.5, 1],
        "beta": [0, 0.1, -0.1, 0.2],
        "moving_mean": [0.1, 0, 0.2, 0],
        "moving_variance": [1, 0.5, 2, 1],
    }
    x = writer.add(
        "BatchNormalization",
        [x],
        4,
        weights,
        axis=[4],
        momentum=0.99,
        epsilon=1e-3,
        center=True,
        scale=True,
    )
    x = writer.add("LeakyReLU", [x], 4, alpha=0.1)
    a = writer.add(
        "MaxPooling3D",
        [x],
        4,
        pool_size=[2, 2, 2],
        strides=[2, 2, 2],
        padding="valid",
        data_format="channels_last",
    )
    b = writer.add(
        "AveragePooling3D",
        [x],
        4,
        pool_size=[2, 2, 2],
        strides=None,
        padding="same",
        data_format="channels_last",
    )
    x = writer.add("Add", [a, b], 4)
    x = writer.group_norm(writer.add("SpatialDropout3D", [x], 4, rate=0.5), 2)
    c = writer.add("ReLU", [x], 4, max_value=None, negative_slope=0.0, threshold=0.0)
    x = writer.add("Add", [c, x], 4)  # a normalisation read by two layers
    x = writer.conv(x, 4, kernel=2, stride=1, padding="valid", activation="softplus")
    x = writer.conv(x, 4, kernel=2, transposed=True, padding="valid", activation="tanh")
    x = writer.add("UpSampling3D", [x], 4, size=[2, 2, 2], data_format="channels_last")
    x = writer.add(
        "GaussianNoise", [writer.add("Activation", [x], 4, activation="relu")], 4, stddev=1.0
    )
    output = writer.conv(x, 1, kernel=1, activation="sigmoid")
    assert_like_reference(writer.write(tmp_path / "a.hd5", output), writer, output, windows(8))


@pytest.mark.parametrize(
    ("precision", "tolerance"), [("mixed", 5e-3), ("bfloat16", 3e-2), ("float16", 4e-3)]
)
def test_reduced_precision(tmp_path, precision, tolerance):
    writer = CheckpointWriter(16)
    output = writer.unet((8, 16), convolutions=1, groups=4)
    path, x = writer.write(tmp_path / "a.hd5", output), windows(16)
    assert_like_reference(path, writer, output, x, precision, tolerance)
    exact, reduced = (load_official(path).predictor(p)(x) for p in ("float32", precision))
    assert not np.array_equal(exact, reduced)


def test_statistics_are_not_reduced(tmp_path):
    """In bfloat16, a sum over 4,096 equal values would stop at 256 of them."""
    writer = CheckpointWriter(16)
    x = writer.group_norm(writer.input, 1)
    output = writer.conv(x, 1, kernel=1)
    path = writer.write(tmp_path / "a.hd5", output)
    assert_like_reference(path, writer, output, windows(16) + 2, "bfloat16", 5e-3)


def test_any_backend_like_tensorflow(tmp_path, monkeypatch):
    """The way without TensorFlow's own operations and XLA, run on TensorFlow."""
    from deepemhancer_plugin.core.weights.official import network as official_network

    writer = CheckpointWriter(16)
    output = writer.unet((8,), convolutions=1, groups=4)
    path, x = writer.write(tmp_path / "a.hd5", output), windows(16)
    exact = load_official(path).predictor()(x)
    monkeypatch.setattr(official_network.keras.backend, "backend", lambda: "other")
    np.testing.assert_allclose(load_official(path).predictor()(x), exact, atol=1e-5)


def test_what_is_read_from_the_file(tmp_path):
    path = write_small(tmp_path / "deepEMhancer_highRes.hd5", stride=4)
    model = load_official(path)
    assert (model.name, model.tile, model.stride, model.normalization, model.mask_rule) == (
        "highRes",
        16,
        4,
        "noise",
        None,
    )
    assert model.sha256 == hashlib.sha256(Path(path).read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("inputNormalizationWithMask", 1),
        ("inputNormalizationWithMask_2", 2),
        ("inputNormalizationWithMask_3", 3),
    ],
)
def test_mask_normalisation_by_name(tmp_path, name, rule):
    model = load_official(write_small(tmp_path / "a.hd5", normalization=norm_fun(name)))
    assert (model.normalization, model.mask_rule) == ("mask", rule)


def test_normalisation_is_what_normfun_is_set_to(tmp_path):
    functions = (f"def inputNormalization_{i}(x):\n  pass\n" for i in (2, 3))
    text = "".join(functions) + "normFun = inputNormalization_3\n"
    assert (
        load_official(write_small(tmp_path / "a.hd5", normalization=text)).normalization == "noise"
    )


def test_loading_imports_no_tensorflow(tmp_path):
    """The command answers -h, and refuses a file, in less time than TensorFlow takes to import."""
    path = write_small(tmp_path / "a.hd5")
    code = (
        "import sys; import deepemhancer_plugin.core.weights.official.checkpoint as c; "
        "early = {'h5py', 'keras', 'tensorflow'} & set(sys.modules); "
        f"c.load_official({path!r}); print(early, 'tensorflow' in sys.modules)"
    )
    root = Path(__file__).parents[3]
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True
    )
    assert result.stdout.strip() == "set() False"


@pytest.fixture
def no_variables(monkeypatch):
    for name in ("DEEPEMHANCER_MODELS", "XMIPP_HOME"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("no_variables")
def test_path_of_a_variant(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    conventional = tmp_path / ".local/share/deepEMhancerModels/production_checkpoints"
    conventional.mkdir(parents=True)
    file = conventional / "deepEMhancer_highRes.hd5"
    file.touch()
    assert official_path(None, "highRes") == str(file)
    assert official_path(str(conventional), "highRes") == str(file)
    assert official_path("~/.local/share/deepEMhancerModels", "highRes") == str(file)
    assert official_path(str(file), "tightTarget") == str(file)
    with pytest.raises(
        InputError, match=r"no deepEMhancer_tightTarget\.hd5 in it; `deepemhancer download` fetches"
    ):
        official_path(None, "tightTarget")
    with pytest.raises(
        InputError, match="no such file or directory; `deepemhancer download /nowhere` fetches"
    ):
        official_path("/nowhere", "tightTarget")


@pytest.mark.usefixtures("no_variables")
def test_path_by_the_environment(tmp_path, monkeypatch):
    """A variable of our own, the conventional directory, what Xmipp downloaded: in this order."""
    monkeypatch.setenv("HOME", str(tmp_path))
    places = [
        tmp_path / "xmipp/models/deepEMhancer_v016/production_checkpoints",
        tmp_path / ".local/share/deepEMhancerModels/production_checkpoints",
        tmp_path / "own/production_checkpoints",
    ]
    monkeypatch.setenv("XMIPP_HOME", str(tmp_path / "xmipp"))
    monkeypatch.setenv("DEEPEMHANCER_MODELS", str(tmp_path / "own"))
    with pytest.raises(InputError, match=f"{tmp_path}/own: no such file or directory"):
        official_path(None, "highRes")
    for place in places:
        place.mkdir(parents=True)
        (place / "deepEMhancer_highRes.hd5").touch()
        assert official_path(None, "highRes") == str(place / "deepEMhancer_highRes.hd5")
    for location in (places[0].parent, places[0].parents[1], places[0].parents[2]):
        found = official_path(str(location), "highRes")
        assert found == str(places[0] / "deepEMhancer_highRes.hd5")


@pytest.mark.usefixtures("no_variables")
def test_no_home_directory(monkeypatch):
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", lambda uid: {}[uid])
    for location in (None, "~/models"):
        with pytest.raises(InputError, match="no such home directory; set HOME, or give") as caught:
            official_path(location, "highRes")
        assert "\n" not in str(caught.value)


def assert_refused(path, match):
    with pytest.raises(InputError, match=match) as caught:
        load_official(str(path))
    message = str(caught.value)
    assert "\n" not in message and len(message) < 600 and str(path) in message


def changed_graph(tmp_path, change):
    """A small checkpoint whose model_config `change` has changed in place."""
    path = write_small(tmp_path / "bad.hd5")
    with h5py.File(path, "r+") as file:
        graph = json.loads(file.attrs["model_config"])
        layers = {
            layer["class_name"]: layer for layer in reversed(graph["config"]["layers"])
        }  # the first of each class
        change(graph["config"], layers)
        file.attrs["model_config"] = json.dumps(graph)
    return path


def settings(kind, **values):
    return lambda graph, layers: layers[kind]["config"].update(values)


def replace_class(kind, new):
    return lambda graph, layers: layers[kind].update(class_name=new)


def cyclic(graph, layers):
    layers["Conv3D"]["inbound_nodes"] = [[[graph["layers"][-1]["name"], 0, 0, {}]]]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (replace_class("PReLU", "Lambda"), "unknown class 'Lambda'"),
        (replace_class("PReLU", "TFOpLambda"), "unknown class 'TFOpLambda'"),
        (replace_class("PReLU", ["Lambda"]), "unknown class"),
        (settings("PReLU", function=["4wEAAAAAAAAA", None, None]), "function = "),
        (settings("Conv3D", activation="exec"), "activation = exec"),
        (settings("Conv3D", activation={"class_name": "Lambda"}), "activation = "),
        (settings("Conv3D", kernel_size=[10**9] * 3), "kernel_size = "),
        (settings("Conv3D", filters=True), "filters = True"),
        (settings("Conv3D", filters=4096), "its settings need float"),
        (settings("Conv3D", dilation_rate=[2, 2, 2]), "dilation_rate = "),
        (settings("Conv3D", data_format="channels_first"), "data_format = "),
        (settings("Conv3D", strides=[0, 1, 1]), "strides = "),
        (settings("GroupNormalization", groups=3), "groups = 3 for 8 channels"),
        (settings("GroupNormalization", epsilon=float("nan")), "epsilon = nan"),
        (settings("GroupNormalization", axis=1), "axis = 1"),
        (
            settings("InputLayer", batch_input_shape=[None, 10**6, 10**6, 10**6, 1]),
            "batch_input_shape = ",
        ),
        (settings("InputLayer", batch_input_shape=[None, 16, 16, 32, 1]), "batch_input_shape = "),
        (
            settings("InputLayer", batch_input_shape=[None, None, None, None, 1]),
            "batch_input_shape = ",
        ),
        (cyclic, "in a circle"),
        (
            lambda graph, layers: layers["Conv3D"].update(inbound_nodes=[[["nobody", 0, 0, {}]]]),
            "does not exist",
        ),
        (
            lambda graph, layers: layers["Conv3D"].update(
                inbound_nodes=layers["Conv3D"]["inbound_nodes"] * 2
            ),
            "not used exactly once",
        ),
        (
            lambda graph, layers: layers["Conv3D"]["inbound_nodes"][0][0].__setitem__(
                3, {"training": True}
            ),
            "reads",
        ),
        (lambda graph, layers: layers["Conv3D"].update(name="../../x"), "is called"),
        (
            lambda graph, layers: graph["layers"].append(graph["layers"][-1]),
            "two layers are called",
        ),
        (lambda graph, layers: graph.update(output_layers=[]), "output_layers"),
        (
            lambda graph, layers: graph.update(layers=[graph["layers"][0]] * 2000),
            "list of 2 to 1000 layers",
        ),
        (lambda graph, layers: graph.update(layers=None), "list of 2 to 1000 layers"),
        (lambda graph, layers: graph["layers"].insert(0, None), "without settings"),
    ],
)
def test_hostile_graph_is_refused(tmp_path, change, match):
    assert_refused(changed_graph(tmp_path, change), match)


def first(file, kind):
    """Group and dataset name of a layer's kernel."""
    return file["model_weights"][f"{kind}_1"], f"{kind}_1/kernel:0"


def reshape_kernel(file):
    group, name = first(file, "conv3d")
    data = group[name][()]
    del group[name]
    group[name] = data.reshape(-1)


def remove_kernel(file):
    group, name = first(file, "conv3d")
    del group[name]


def nan_kernel(file):
    group, name = first(file, "conv3d")
    group[name][0] = np.nan


def huge_kernel(file):
    group, name = first(file, "conv3d")
    del group[name]
    group.create_dataset(name, (1 << 40,), "f4", chunks=(1 << 20,))


def linked_kernel(file):
    group, name = first(file, "conv3d")
    del group[name]
    group[name] = h5py.ExternalLink("/etc/hostname", "/x")


def external_kernel(file):
    group, name = first(file, "conv3d")
    shape = group[name].shape
    del group[name]
    group.create_dataset(name, shape, "f4", external=[("/etc/passwd", 0, 4 * int(np.prod(shape)))])


def without(path):
    return lambda file: file.__delitem__(path)


def code(name, text):
    def change(file):
        file["code"][name][0] = text

    return change


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (reshape_kernel, r"needs? float \(3, 3, 3, 1, 8\)"),
        (remove_kernel, "no conv3d_1/kernel:0"),
        (nan_kernel, "not finite"),
        (huge_kernel, r"needs? float \(3, 3, 3, 1, 8\)"),
        (linked_kernel, "is a link"),
        (external_kernel, "not a plain dataset"),
        (without("model_weights"), "no weights for layer"),
        (without("model_weights/p_re_lu_1"), "no weights for layer 'p_re_lu_1'"),
        (without("code/normFun"), "no code/normFun"),
        (without("configParams"), "no configParams/NNET_INPUT_STRIDE"),
        (
            lambda file: file["configParams/NNET_INPUT_STRIDE"].__setitem__(0, 0),
            "stride 0 is not between 1 and the window's 16",
        ),
        (lambda file: file.attrs.__delitem__("model_config"), "model_config"),
        (lambda file: file.attrs.__setitem__("model_config", "{"), "not JSON"),
        (lambda file: file.attrs.__setitem__("model_config", "[" * 100_000), "not"),
        (lambda file: file.attrs.__setitem__("model_config", np.zeros(3)), "not a text"),
        (
            code(
                "normFun", "def inputNormalization_7(x): return x\nnormFun = inputNormalization_7"
            ),
            "unknown normalisation",
        ),
        (code("normFun", "def f(x): return x"), "names no normalisation"),
        (
            code("normFun", "inputNormalization_3, inputNormalization_2"),
            "names several normalisations",
        ),
    ],
)
def test_hostile_file_is_refused(tmp_path, change, match):
    path = write_small(tmp_path / "bad.hd5")
    with h5py.File(path, "r+") as file:
        change(file)
    assert_refused(path, match)


@pytest.mark.parametrize("dataset", ["normFun", "custom_objects"])
@pytest.mark.parametrize(
    "attack",
    [
        "open({0!r}, 'w').write('ran')",
        "import os; os.system('touch ' + {0!r})",
        "__import__('pathlib').Path({0!r}).touch()",
    ],
)
def test_code_of_a_checkpoint_never_runs(tmp_path, dataset, attack):
    written = tmp_path / "written"
    path = write_small(tmp_path / "a.hd5")
    with h5py.File(path, "r+") as file:
        file["code"][dataset][0] = norm_fun() + attack.format(str(written)) + "\n"
    load_official(path).predictor()(windows(16, 1))
    assert not written.exists()


def test_checkpoint_that_another_process_has_locked(tmp_path):
    """As on file systems whose locks do not work: reading needs none."""
    path = write_small(tmp_path / "a.hd5")
    with open(path, "r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert load_official(path).tile == 16


@pytest.mark.parametrize("keep", [0, 10, 700, 5000, 0.5, 0.98])
def test_truncated_file(tmp_path, keep):
    data = Path(write_small(tmp_path / "good.hd5")).read_bytes()
    path = tmp_path / "bad.hd5"
    path.write_bytes(data[: keep if keep > 1 else int(len(data) * keep)])
    assert_refused(path, "not a readable HDF5 checkpoint")


def test_not_hdf5(tmp_path):
    path = tmp_path / "bad.hd5"
    path.write_bytes(os.urandom(10_000))
    assert_refused(path, "not a readable HDF5 checkpoint")
    path.write_bytes(b"")
    assert_refused(path, "not a readable HDF5 checkpoint")
    assert_refused(tmp_path, "not a readable HDF5 checkpoint")
    assert_refused(tmp_path / "missing.hd5", "no such file")
