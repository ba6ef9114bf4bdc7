"""The cubic box that maps are simulated in, and its Fourier transforms."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import fft

from deepemhancer_plugin.core.maps.filters import frequency_axes


@dataclass(frozen=True)
class Grid:
    """A cubic box of voxels.

    Attributes:
        edge: voxels along each axis.
        rate: sampling rate in A/voxel.
        workers: threads of a Fourier transform, -1 for all of the machine.
    """

    edge: int
    rate: float
    workers: int = 1

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along z, y and x."""
        return self.edge, self.edge, self.edge

    @cached_property
    def axes(self) -> list[np.ndarray]:
        """Frequencies in 1/A along z, y and x, which broadcast against the half spectrum."""
        return frequency_axes(self.shape, self.rate)

    @cached_property
    def square(self) -> np.ndarray:
        """|k|^2 in 1/A^2 of each coefficient of the half spectrum."""
        return np.asarray(sum(np.square(axis) for axis in self.axes))

    @cached_property
    def k(self) -> np.ndarray:
        """|k| in 1/A of each coefficient of the half spectrum."""
        return np.asarray(np.sqrt(self.square))

    def forward(self, volume: np.ndarray) -> np.ndarray:
        """Transform a map (z, y, x) to its half spectrum (z, y, x // 2 + 1)."""
        return np.asarray(fft.rfftn(volume, workers=self.workers))

    def back(self, spectrum: np.ndarray) -> np.ndarray:
        """Transform a half spectrum to its map (z, y, x)."""
        return np.asarray(fft.irfftn(spectrum, s=self.shape, workers=self.workers))

    def smooth(self, volume: np.ndarray, length: float) -> np.ndarray:
        """Low-pass a map to about `length` A by a Gaussian, which is 1/e at 1 / length."""
        gauss = np.exp(-self.square * np.float32(length**2))
        return self.back(self.forward(volume) * gauss)

    def measure_power(self, spectrum: np.ndarray, frequency: float) -> float:
        """Average |F|^2 over the shell 10 % wide about `frequency` in 1/A."""
        shell = np.abs(self.k - frequency) < 0.05 * frequency
        return float(np.mean(np.square(np.abs(spectrum[shell])), dtype=np.float64))
