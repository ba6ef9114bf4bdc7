"""Weights files: an .npz of float16 arrays by the paths of a network's variables, and two texts.

The texts are JSON: `architecture` says which network the arrays are for, `facts` how it was
trained. A file may hold 8-bit differences from another weights file instead, which `base` names.
"""

import hashlib
import json
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from deepemhancer_plugin.core.errors import InputError
from deepemhancer_plugin.core.files import StrPath, replacing

# What NumPy, zipfile, json and Keras raise on foreign and damaged files; no documentation says so.
UNREADABLE = (
    OSError,
    EOFError,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    RuntimeError,
    ArithmeticError,
    SyntaxError,
    struct.error,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)
_TEXTS = ("architecture", "facts", "base")
_LEVELS = 127  # of an 8-bit difference, on either side of zero
_SMALLEST_DIFFERENCE = 1e-30  # keeps the step of two equal arrays above zero


class _Network(Protocol):
    """A network with its Keras model."""

    model: Any


N = TypeVar("N", bound=_Network)


def write_weights(
    path: StrPath,
    variables: Iterable[Any],
    architecture: Mapping[str, Any],
    facts: Mapping[str, Any],
) -> None:
    """Write a network's variables as float16, whole or not at all.

    Args:
        path: the file; it is replaced where it exists.
        variables: Keras variables, such as a model's `trainable_variables`.
        architecture: what the network is, for JSON.
        facts: how it was trained, for JSON.

    Raises:
        InputError: a value is not finite, or is out of float16's range.
    """
    arrays: dict[str, Any] = {v.path: _to_float16(v, path) for v in variables}
    texts: dict[str, Any] = {"architecture": json.dumps(architecture), "facts": json.dumps(facts)}
    with replacing(path) as temporary:
        np.savez(temporary, **texts, **arrays)


def _to_float16(variable: Any, path: StrPath) -> np.ndarray:
    values = np.asarray(variable)
    with np.errstate(over="ignore"):
        result = values.astype(np.float16)
    wrong = values[~np.isfinite(result)]
    if wrong.size:
        raise InputError(
            f"{path}: not written: {variable.path} holds {wrong[0]:g}, which float16 (up to 65504) "
            "cannot hold; the training has diverged, a lower learning rate is needed"
        )
    return result


def write_difference(path: StrPath, weights: StrPath, base: StrPath) -> None:
    """Write a weights file as its difference from another one, which it then needs beside it.

    A fine-tuned network takes a quarter of the space. Each array is stored in 8 bits, in steps of a
    127th of its largest difference.

    Args:
        path: the file to write.
        weights: a file of `write_weights`.
        base: the file of `write_weights` that the network was fine-tuned from.

    Raises:
        InputError: one of the files is no weights file, or they hold different arrays.
    """
    with refuse_unreadable(base, "deepemhancer train"):
        old = _read_all(base)
    with refuse_unreadable(weights, "deepemhancer train"):
        new = _read_all(weights)
    shapes = {name: array.shape for name, array in new.items() if name not in _TEXTS}
    of_base = {name: array.shape for name, array in old.items() if name not in _TEXTS}
    if shapes != of_base or "base" in old or "base" in new:
        raise InputError(f"{weights} and {base}: two whole files of one architecture are needed")
    arrays: dict[str, Any] = {name: new[name] for name in ("architecture", "facts")}
    for name in shapes:
        difference = new[name].astype(np.float32) - old[name].astype(np.float32)
        largest = max(float(np.abs(difference).max()), _SMALLEST_DIFFERENCE)
        step = np.float32(largest / _LEVELS)
        arrays[name] = np.round(difference / step).astype(np.int8)
        arrays[f"{name} step"] = step
    arrays["base"] = json.dumps({"name": Path(base).name, "sha256": _sha256(base)})
    with replacing(path) as temporary:
        np.savez_compressed(temporary, **arrays)


def load_network(
    path: StrPath, build: Callable[[dict[str, Any]], N], command: str
) -> tuple[N, dict[str, Any]]:
    """Load a network from a weights file.

    Args:
        path: a file of `write_weights` or `write_difference`.
        build: makes the network from the file's architecture.
        command: the command that writes such files, for the error.

    Returns:
        The network with the file's weights, and the file's facts.

    Raises:
        InputError: the file is missing, damaged, foreign, or of another kind of network.
    """
    with refuse_unreadable(path, command):
        contents = _read_all(path)
        network = build(_parse(contents, "architecture"))
        facts = _parse(contents, "facts")
        arrays = _add_base(contents, path) if "base" in contents else contents
        _assign(network.model.trainable_variables, arrays, path)
        return network, facts


def read_architecture(path: StrPath) -> dict[str, Any]:
    """Read what network a weights file holds, without its arrays.

    Raises:
        One of `UNREADABLE` where the file is no weights file; see `refuse_unreadable`.
    """
    with np.load(path, allow_pickle=False) as data:
        return _parse(data, "architecture")


@contextmanager
def refuse_unreadable(path: StrPath, command: str) -> Iterator[None]:
    """Turn what a foreign or damaged file raises into an InputError of one line.

    Args:
        path: the file that is read inside the context.
        command: the command that writes such files.

    Yields:
        Nothing.

    Raises:
        InputError: whatever of `UNREADABLE` was raised inside the context.
    """
    try:
        yield
    except InputError:
        raise
    except (*UNREADABLE, MemoryError) as error:
        if isinstance(error, OSError) and error.strerror:
            raise InputError(f"{path}: cannot be read ({error.strerror})") from error
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"{path}: not a weights file of this program ({reason}); give one written by "
            f"`{command}`"
        ) from error


def _read_all(path: StrPath) -> dict[str, np.ndarray]:
    """All arrays and texts of a file."""
    with np.load(path, allow_pickle=False) as data:
        return {name: data[name] for name in data.files}


def _parse(contents: Mapping[str, np.ndarray], name: str) -> dict[str, Any]:
    """One of the texts, which holds an object of JSON."""
    values = json.loads(str(contents[name]))
    if not isinstance(values, dict):
        raise ValueError(f"{name} is no object of JSON")
    return values


def _add_base(contents: Mapping[str, np.ndarray], path: StrPath) -> dict[str, np.ndarray]:
    """The arrays of a file of differences, with those of its base added: float32."""
    named = _parse(contents, "base")
    base = Path(path).with_name(named["name"])
    if not base.is_file() or _sha256(base) != named["sha256"]:
        raise InputError(
            f"{path}: weights that build on {base}, which is missing or has changed; both files of "
            "one release are needed side by side"
        )
    return {
        name: array.astype(np.float32) + contents[name] * contents[f"{name} step"]
        for name, array in _read_all(base).items()
        if f"{name} step" in contents
    }


def _sha256(path: StrPath) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _assign(variables: Iterable[Any], arrays: Mapping[str, np.ndarray], path: StrPath) -> None:
    """Give each variable the array of its path, of the right shape and finite."""
    for variable in variables:
        values = arrays[variable.path].astype(np.float32)
        if values.shape != tuple(variable.shape) or not np.isfinite(values).all():
            raise InputError(
                f"{path}: {variable.path} has shape {values.shape} or non-finite values; "
                f"{tuple(variable.shape)} is right"
            )
        variable.assign(values)
