"""Checkpoints in the format of the authors' files, with random weights.

Keras 2 names, the group normalisation of keras-contrib, texts of source code. Written by h5py from
the format, without Keras, so that the loader is not tested against itself.
"""

import json

import h5py
import numpy as np

CUSTOM_OBJECTS = """
from keras.layers import Layer
class GroupNormalization(Layer):
    def call(self, inputs):
        raise RuntimeError("this text must never run")
custom_objects = {"GroupNormalization": GroupNormalization}
"""


def norm_fun(name="inputNormalization_3"):
    return f"""
import numpy as np
def {name}(x, noise_stats=None):
    raise RuntimeError("this text must never run")
normFun = {name}
"""


class CheckpointWriter:
    """A graph, layer by layer, with random weights of ordinary size.

    Each method adds a layer and returns its name.
    """

    def __init__(self, tile, seed=0):
        self.tile, self.layers, self.weights, self.channels = tile, [], {}, {}
        self.rng = np.random.default_rng(seed)
        self.counts = {}
        self.input = self.add(
            "InputLayer",
            [],
            1,
            batch_input_shape=[None, tile, tile, tile, 1],
            dtype="float32",
            sparse=False,
        )

    def add(self, kind, inputs, channels, weights=None, **config):
        stem = {
            "InputLayer": "input",
            "GroupNormalization": "group_normalization",
            "PReLU": "p_re_lu",
        }.get(kind, kind.lower())
        self.counts[stem] = self.counts.get(stem, 0) + 1
        name = f"{stem}_{self.counts[stem]}"
        self.layers.append(
            {
                "name": name,
                "class_name": kind,
                "config": {"name": name, "trainable": True} | config,
                "inbound_nodes": [[[i, 0, 0, {}] for i in inputs]] if inputs else [],
            }
        )
        self.weights[name] = {k: np.asarray(v, np.float32) for k, v in (weights or {}).items()}
        self.channels[name] = channels
        return name

    def conv(
        self,
        x,
        filters,
        kernel=3,
        stride=1,
        transposed=False,
        padding="same",
        use_bias=True,
        activation="linear",
    ):
        channels = self.channels[x]
        shape = (kernel,) * 3 + ((filters, channels) if transposed else (channels, filters))
        limit = np.sqrt(6 / (kernel**3 * channels))
        weights = {"kernel": self.rng.uniform(-limit, limit, shape)}
        if use_bias:
            weights["bias"] = self.rng.normal(0, 0.05, filters)
        extra = {"output_padding": None} if transposed else {}
        initializer = {
            "class_name": "VarianceScaling",
            "config": {"scale": 1.0, "mode": "fan_avg", "seed": None},
        }
        return self.add(
            "Conv3DTranspose" if transposed else "Conv3D",
            [x],
            filters,
            weights,
            filters=filters,
            kernel_size=[kernel] * 3,
            strides=[stride] * 3,
            padding=padding,
            data_format="channels_last",
            dilation_rate=[1, 1, 1],
            activation=activation,
            use_bias=use_bias,
            kernel_initializer=initializer,
            bias_initializer={"class_name": "Zeros", "config": {}},
            kernel_regularizer=None,
            bias_regularizer=None,
            activity_regularizer=None,
            kernel_constraint=None,
            bias_constraint=None,
            **extra,
        )

    def group_norm(self, x, groups):
        channels = self.channels[x]
        weights = {
            "gamma": self.rng.normal(1, 0.2, channels),
            "beta": self.rng.normal(0, 0.2, channels),
        }
        ones = {"class_name": "Ones", "config": {}}
        return self.add(
            "GroupNormalization",
            [x],
            channels,
            weights,
            groups=groups,
            axis=-1,
            epsilon=1e-5,
            center=True,
            scale=True,
            beta_initializer=ones,
            gamma_initializer=ones,
            beta_regularizer=None,
            gamma_regularizer=None,
            beta_constraint=None,
            gamma_constraint=None,
        )

    def prelu(self, x, grid, shared=(1, 2, 3)):
        channels = self.channels[x]
        shape = [
            1 if axis in (shared or ()) else n
            for axis, n in enumerate((grid,) * 3 + (channels,), start=1)
        ]
        return self.add(
            "PReLU",
            [x],
            channels,
            {"alpha": self.rng.uniform(0, 0.4, shape)},
            shared_axes=list(shared) if shared else None,
            alpha_initializer={"class_name": "Zeros", "config": {}},
            alpha_regularizer=None,
            alpha_constraint=None,
        )

    def unet(self, filters=(32, 64, 128), convolutions=3, groups=8, shared=(1, 2, 3)):
        """The published network: a U-Net of convolution, group normalisation and PReLU.

        Strided convolutions lead down, transposed ones up.
        """

        def block(x, count, grid):
            for _ in range(convolutions):
                x = self.prelu(self.group_norm(self.conv(x, count), groups), grid, shared)
            return x

        x, grid, skips = self.input, self.tile, []
        for count in filters:
            x = block(x, count, grid)
            skips.append(x)
            x, grid = self.conv(x, count, stride=2), grid // 2
        x = block(x, filters[-1], grid)
        for count in reversed(filters):
            x, grid = self.conv(x, count, stride=2, transposed=True), grid * 2
            skip = skips.pop()
            x = block(
                self.add("Concatenate", [x, skip], self.channels[x] + count, axis=-1), count, grid
            )
        return self.conv(
            self.add("Dropout", [x], self.channels[x], rate=0.2, noise_shape=None, seed=None),
            1,
            kernel=1,
        )

    def graph(self, output):
        return {
            "class_name": "Model",
            "config": {
                "name": "model_1",
                "layers": self.layers,
                "input_layers": [[self.input, 0, 0]],
                "output_layers": [[output, 0, 0]],
            },
        }

    def write(self, path, output, stride=None, normalization=None, custom_objects=CUSTOM_OBJECTS):
        """The file, at `path`; `normalization` is the text of code/normFun."""
        with h5py.File(path, "w") as file:
            file.attrs["model_config"] = json.dumps(self.graph(output)).encode()
            file.attrs["keras_version"], file.attrs["backend"] = b"2.2.4", b"tensorflow"
            root = file.create_group("model_weights")
            root.attrs["layer_names"] = [name.encode() for name in self.weights]
            for name, weights in self.weights.items():
                group = root.create_group(name)
                group.attrs["weight_names"] = [f"{name}/{key}:0".encode() for key in weights]
                for key, value in weights.items():
                    group.create_dataset(f"{name}/{key}:0", data=value)
            file["configParams/NNET_INPUT_SIZE"] = np.array([self.tile])
            file["configParams/NNET_INPUT_STRIDE"] = np.array(
                [self.tile // 4 if stride is None else stride]
            )
            code = file.create_group("code")
            code.create_dataset("custom_objects", (1,), h5py.string_dtype())[0] = custom_objects
            code.create_dataset("normFun", (1,), h5py.string_dtype())[0] = (
                norm_fun() if normalization is None else normalization
            )
        return str(path)


def write_published(path, seed=0):
    """A checkpoint of the published size, 64^3 windows, with random weights."""
    writer = CheckpointWriter(64, seed)
    return writer.write(path, writer.unet())


def write_small(path, tile=16, filters=(8, 16), groups=4, seed=0, **options):
    """The published kind of network, small enough for tests."""
    writer = CheckpointWriter(tile, seed)
    return writer.write(path, writer.unet(filters, convolutions=1, groups=groups), **options)
