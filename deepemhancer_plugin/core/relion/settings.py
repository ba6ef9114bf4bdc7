"""Options of the hook.

RELION passes a file's name and nothing else, so options are environment variables, or stand in a
TOML file that one of them names.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from deepemhancer_plugin.core.errors import InputError

PREFIX = "DEEPEMHANCER_RELION_"
CHOICES = {
    "variant": ("tightTarget", "wideTarget", "highRes"),
    "precision": ("auto", "float32", "bfloat16", "float16"),
}
MOST_HEALPIX_ORDER = 12


@dataclass(frozen=True)
class Settings:
    """DEEPEMHANCER_RELION_HEALPIX_ORDER and so on, or healpix_order and so on in the TOML file.

    Attributes:
        healpix_order: halves are enhanced from the iteration on that follows one of this order
            (the paper's 4: local searches of 1.8 degrees)
        weights: embedded, official or a file, as --weights
        variant: tightTarget, wideTarget or highRes, as -p
        gpu: numbers as -g; several: half 1 on the first, half 2 on the second; -1: the CPU; not
            given: the first GPU, else the CPU
        precision: auto, float32, bfloat16 or float16
        log: file for a JSON line per call; not given: PREFIX_deepemhancer.jsonl beside RELION's
        lock: file that keeps others from the device; not given: one for each device in the
            system's temporary folder
        reconstruct: the program that makes the map to enhance
    """

    healpix_order: int = 4
    weights: str = "embedded"
    variant: str = "tightTarget"
    gpu: str | None = None
    precision: str = "auto"
    log: str | None = None
    lock: str | None = None
    reconstruct: str = "relion_external_reconstruct"


def read_settings(environment: Mapping[str, str]) -> Settings:
    """Read the settings; variables win over the file that DEEPEMHANCER_RELION_CONFIG names.

    Raises:
        InputError: an unknown name, a wrong value, or a file that cannot be read.
    """
    values: dict[str, tuple[str, Any]] = {}
    config = environment.get(f"{PREFIX}CONFIG")
    if config:
        values = {key: (f"{config}: {key}", value) for key, value in _read_file(config).items()}
    for variable, value in environment.items():
        if variable.startswith(PREFIX) and variable != f"{PREFIX}CONFIG":
            values[variable.removeprefix(PREFIX).lower()] = variable, value
    known = [field.name for field in fields(Settings)]
    for key, (source, _) in values.items():
        if key not in known:
            raise InputError(f"{source}: no such option; there are {', '.join(known)}")
    return Settings(
        **{key: _check_value(key, source, value) for key, (source, value) in values.items()}
    )


def _read_file(path: str) -> dict[str, Any]:
    try:
        with open(path, "rb") as stream:
            return tomllib.load(stream)
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise InputError(
            f"{PREFIX}CONFIG={path}: cannot be read ({reason}); a TOML file is needed"
        ) from error


def _check_value(key: str, source: str, value: Any) -> Any:
    """Return the value with its type; InputError, naming the source, where it is wrong."""
    if key == "healpix_order":
        text = str(value).strip()
        digits = text.isascii() and text.isdecimal() and not isinstance(value, bool)
        if not digits or int(text) > MOST_HEALPIX_ORDER:
            raise InputError(
                f"{source} = {value}: a healpix order, 0 to {MOST_HEALPIX_ORDER}, is needed"
            )
        return int(text)
    if key == "gpu" and isinstance(value, int):
        value = str(value)
    if not isinstance(value, str) or not value:
        raise InputError(f"{source} = {value!r}: a text that is not empty is needed")
    if value not in CHOICES.get(key, (value,)):
        raise InputError(f"{source} = {value}: one of {', '.join(CHOICES[key])} is needed")
    return value
