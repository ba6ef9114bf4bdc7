"""Local resolution of a map, for the command line and for people who write Python."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from deepemhancer_plugin.core.devices import Devices
from deepemhancer_plugin.core.localres.arguments import (
    prepare_device,
    read_halves,
    read_or_make_mask,
)
from deepemhancer_plugin.core.localres.blocres import local_fsc
from deepemhancer_plugin.core.localres.predict import (
    Progress,
    choose_network,
    find_network,
    load_reader,
)
from deepemhancer_plugin.core.localres.statistics import summarize
from deepemhancer_plugin.core.maps.mrc import Map, MapLike, as_map, write_map
from deepemhancer_plugin.version import __version__

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class LocalResolution:
    """The local resolution of a map.

    Attributes:
        data: resolution in A as a network reads it off the map, float32 (z, y, x) on the map's
            grid, zero outside the mask.
        local_fsc: resolution in A where the half maps' local FSC falls to 0.5, likewise; None
            without half maps.
        mask: boolean (z, y, x).
        report: version, network, device, mask, grid and statistics, as JSON values.
        geometry: the map's header and place; its data is empty.
    """

    data: np.ndarray
    local_fsc: np.ndarray | None
    mask: np.ndarray
    report: dict[str, Any]
    geometry: Map

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write `data` with the map's header and geometry, whole or not at all.

        Raises:
            InputError: the file cannot be written.
        """
        self._write(path, self.data, f"local resolution, network {self.report['network']}")

    def save_local_fsc(self, path: str | os.PathLike[str]) -> None:
        """Write `local_fsc` likewise.

        Raises:
            InputError: the file cannot be written.
            ValueError: there is none.
        """
        if self.local_fsc is None:
            raise ValueError("no local FSC: it needs half maps")
        self._write(path, self.local_fsc, "local FSC of the half maps")

    def _write(self, path: str | os.PathLike[str], data: np.ndarray, what: str) -> None:
        write_map(path, data, self.geometry, [f"deepemhancer {__version__} {what}"])


def local_resolution(
    map: MapLike,
    *,
    halves: Sequence[MapLike] | None = None,
    mask: MapLike | None = None,
    sampling_rate: float | None = None,
    network: str = "auto",
    device: str | Devices | None = None,
    progress: Progress | None = None,
) -> LocalResolution:
    """Find how fine the detail of a map looks around each of its voxels.

    A network reads it off the map alone, after DeepRes (Ramirez-Aportela et al. 2019, IUCrJ 6,
    1054), and so it follows sharpening. Half maps say besides what the data support, by their FSC
    in small windows (Cardone, Heymann & Steven 2013, J. Struct. Biol. 184, 226).

    Args:
        map: path, map or array (z, y, x), sharpened as it will be interpreted; not changed.
        halves: the two half maps, likewise, unfiltered and on the map's grid.
        mask: path, map or array of the map's box; None: where the map, or the halves' mean, stands
            out of its noise.
        sampling_rate: A/voxel; needed for an array, wins over a file's header.
        network: "1.0" finds 2.5-13 A and sees the map at 1 A/voxel; "0.5" 1.5-6 A, at 0.5 A/voxel;
            "auto": "0.5" where "1.0" finds a median near its fine end; or the file of one.
        device: GPUs, such as "0" or "0,1"; "-1" is the CPU; None: a GPU where there is one.
        progress: called with a step's name, how much of it is done, and of how much.

    Returns:
        The resolution of every voxel in the mask.

    Raises:
        InputError: maps, mask, network or device cannot be used, or do not fit each other; nothing
            in the map stands out of its noise. One line that names the value and what would be
            right.

    Warns:
        MapWarning: something about a file makes the result less trustworthy.

    Examples:
        Half maps of a synthetic protein at 4 A, as arrays:

        >>> from deepemhancer_plugin.core import local_resolution, simulate
        >>> from deepemhancer_plugin.core.simulation import from_structure
        >>> from deepemhancer_plugin.core.simulation.synthetic import build_protein
        >>> made = simulate(from_structure(build_protein(0)), resolution=4, box=64)
        >>> halves = made.half1, made.half2
        >>> mean = (halves[0] + halves[1]) / 2
        >>> found = local_resolution(mean, halves=halves, sampling_rate=1.0, device="-1")
        >>> found.data.shape, found.report["network"], found.report["mask"]["source"]
        ((64, 64, 64), '1.0', 'halves')
        >>> bool(2.5 < found.report["local_resolution"]["median"] < 6)
        True
    """
    if network != "auto":
        find_network(network)  # a missing file is said before any work
    volume = as_map(map, sampling_rate)
    pair = None if halves is None else read_halves(halves, volume, sampling_rate)
    inside, source = read_or_make_mask(mask, volume, pair, sampling_rate)
    machine = prepare_device(device)
    data, network = _predict(volume, inside, network, machine.names[0], progress)
    report: dict[str, Any] = {
        "version": __version__,
        "network": network,
        "device": machine.description,
        "mask": {"source": source, "voxels": int(inside.sum())},
        "local_resolution": summarize(data[inside]),
    }
    fsc = None
    if pair is not None:
        first, second = (half.data for half in pair)
        fsc = local_fsc(first, second, volume.sampling_rate, inside, progress=progress)
        report["local_fsc"] = summarize(fsc[inside])
    report |= {
        "sampling_rate": volume.sampling_rate,
        "box": list(volume.data.shape),
        "origin": list(volume.origin),
    }
    geometry = replace(volume, data=np.empty((0, 0, 0), np.float32))
    return LocalResolution(data, fsc, inside, report, geometry)


def _predict(
    volume: Map, mask: np.ndarray, network: str, device: str, progress: Progress | None
) -> tuple[np.ndarray, str]:
    """The local resolution, and the network that was right for it."""
    rate = volume.sampling_rate
    name = "1.0" if network == "auto" else network
    data = load_reader(name, device, progress)(volume.data, rate, mask)
    if network == "auto":
        name = choose_network(float(np.median(data[mask])), rate)
        if name != "1.0":
            data = load_reader(name, device, progress)(volume.data, rate, mask)
    logger.info("network: %s", name)
    return data, name
