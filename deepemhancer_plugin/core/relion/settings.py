"""Options of the hook. RELION passes a file's name and nothing else, so they come from environment variables, or from a TOML file named by one."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from deepemhancer_plugin.core.errors import InputError

PREFIX = "DEEPEMHANCER_RELION_"


@dataclass(frozen=True)
class Settings:
    """DEEPEMHANCER_RELION_HEALPIX_ORDER and so on, or healpix_order and so on in the TOML file.

    healpix_order   halves are enhanced from the iteration on that follows one of this order (paper: 4, local searches of 1.8 degrees)
    weights         embedded, official or a file, as --weights
    variant         tightTarget, wideTarget or highRes, as -p
    gpu             numbers as -g; several: half 1 on the first, half 2 on the second; -1: the CPU; not given: the first GPU, else the CPU
    precision       auto, float32, bfloat16 or float16
    log             file for a JSON line per call; not given: PREFIX_deepemhancer.jsonl beside RELION's files
    lock            file that keeps others from the device; not given: one in the system's temporary folder for each device
    reconstruct     the program that makes the map to enhance
    """

    healpix_order: int = 4
    weights: str = "embedded"
    variant: str = "tightTarget"
    gpu: str | None = None
    precision: str = "auto"
    log: str | None = None
    lock: str | None = None
    reconstruct: str = "relion_external_reconstruct"


CHOICES = {
    "variant": ("tightTarget", "wideTarget", "highRes"),
    "precision": ("auto", "float32", "bfloat16", "float16"),
}


def settings_from(environment: Mapping[str, str]) -> Settings:
    """The settings: variables win over the file named by DEEPEMHANCER_RELION_CONFIG. InputError for unknown names and wrong values."""
    values: dict[str, tuple[str, Any]] = {}
    config = environment.get(f"{PREFIX}CONFIG")
    if config:
        try:
            with open(config, "rb") as stream:
                table = tomllib.load(stream)
        except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
            raise InputError(
                f"{PREFIX}CONFIG={config}: cannot be read ({reason}); a TOML file is needed"
            ) from error
        values = {key: (f"{config}: {key}", value) for key, value in table.items()}
    for variable, value in environment.items():
        if variable.startswith(PREFIX) and variable != f"{PREFIX}CONFIG":
            values[variable.removeprefix(PREFIX).lower()] = variable, value
    known = [field.name for field in fields(Settings)]
    for key, (source, _) in values.items():
        if key not in known:
            raise InputError(f"{source}: no such option; there are {', '.join(known)}")
    return Settings(
        **{key: _checked(key, source, value) for key, (source, value) in values.items()}
    )


def _checked(key: str, source: str, value: Any) -> Any:
    if key == "healpix_order":
        if (
            isinstance(value, bool)
            or not str(value).strip().isdecimal()
            or not 0 <= int(value) <= 12
        ):
            raise InputError(f"{source} = {value}: a healpix order, 0 to 12, is needed")
        return int(value)
    if isinstance(value, int) and key == "gpu":
        value = str(value)
    if not isinstance(value, str) or not value:
        raise InputError(f"{source} = {value!r}: a text that is not empty is needed")
    if value not in CHOICES.get(key, (value,)):
        raise InputError(f"{source} = {value}: one of {', '.join(CHOICES[key])} is needed")
    return value
