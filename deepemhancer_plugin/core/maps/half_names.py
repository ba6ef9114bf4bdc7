"""The names that programs give to the two half maps of a refinement."""

import os
import re

from deepemhancer_plugin.core.errors import InputError

# RELION: run_half1_class001_unfil.mrc; cryoSPARC: J12_volume_map_half_A.mrc; EMDB:
# emd_1234_half_map_1.map.gz; EMAN: threed_05_even.hdf.
_HALF = re.compile(
    r"(?<![a-z])(?P<word>half[-_. ]?(?:map|vol|volume)?[-_. ]?)(?P<one>[12ab])(?![a-z0-9])"
    r"|(?<![a-z])(?P<number>even|odd)(?![a-z])",
    re.IGNORECASE,
)
_OTHERS = {"1": "2", "2": "1", "a": "b", "b": "a", "even": "odd", "odd": "even"}


def name_other_halves(path: str) -> list[str]:
    """Name the files that may be the other half of a half map.

    Args:
        path: A half map, by whose name, or whose folder's, it can be told.

    Returns:
        Paths, the likeliest first; none where the name says nothing of halves.
    """
    folder, name = os.path.split(path)
    in_name = [os.path.join(folder, other) for other in _exchange(name)]
    parent, last = os.path.split(folder)
    return in_name + [os.path.join(parent, other, name) for other in _exchange(last)]


def find_other_half(path: str) -> str:
    """Find the other half of a half map by its name.

    Args:
        path: A half map.

    Returns:
        The path of the other one.

    Raises:
        InputError: There is none, or there are several; it names those that were tried.
    """
    tried = name_other_halves(path)
    if not tried:
        raise InputError(
            f"{path}: the name tells no half (half1, half_A, half_map_1, even ...): pass the "
            "second half map itself (-i2)"
        )
    found = [other for other in tried if os.path.isfile(other)]
    if len(found) == 1:
        return found[0]
    if found:
        raise InputError(f"{path}: several may be its second half: {', '.join(found)}: pass one")
    raise InputError(
        f"{path}: its second half was not found; tried: {', '.join(tried)}: pass it (-i2)"
    )


def _exchange(name: str) -> list[str]:
    """A name with one of its halves exchanged, the last one first."""
    results = []
    for match in reversed(list(_HALF.finditer(name))):
        group = "one" if match["one"] else "number"
        old = match[group]
        new = _OTHERS[old.lower()]
        new = new.upper() if old.isupper() else new.title() if old.istitle() else new
        results.append(name[: match.start(group)] + new + name[match.end(group) :])
    return results
