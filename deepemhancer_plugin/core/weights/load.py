"""Weights by name or by file."""

import os

from deepemhancer_plugin.core.errors import InputError
from deepemhancer_plugin.core.weights.embedded import load_embedded, load_file
from deepemhancer_plugin.core.weights.model import Model
from deepemhancer_plugin.core.weights.official.checkpoint import load_official, official_path

NAMES = ("tightTarget", "wideTarget", "highRes", "masked")
OFFICIAL = "official:"


def load_weights(
    weights: str | os.PathLike[str] = "tightTarget",
    folder: str | os.PathLike[str] | None = None,
) -> Model:
    """Load weights for `enhance`.

    Args:
        weights: a name (tightTarget, wideTarget, highRes, masked), "official:NAME" for a checkpoint
            of the authors, or a file of either kind.
        folder: where the authors' checkpoints lie, or one of them; None: where `deepemhancer
            download` puts them.

    Raises:
        InputError: no such name or file, or a file that holds no weights.

    Examples:
        >>> load_weights("highRes").kind
        'embedded'
    """
    name = os.fspath(weights)
    if name in NAMES:
        return load_embedded(name)
    if name.startswith(OFFICIAL):
        location = None if folder is None else os.fspath(folder)
        return load_official(official_path(location, name.removeprefix(OFFICIAL)))
    if not os.path.isfile(name):
        raise InputError(
            f"weights {name}: no such file; {', '.join(NAMES)}, {OFFICIAL}NAME or a weights file "
            "is needed"
        )
    return load_file(name) if name.endswith(".npz") else load_official(name)
