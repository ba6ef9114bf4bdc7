"""Numbers that sum up a local-resolution map."""

import numpy as np

PERCENTILES = (5, 20, 25, 50, 75, 80, 95)


def summarize(values: np.ndarray) -> dict[str, float]:
    """Give median, mean, standard deviation and percentiles of the voxels' resolutions, in A."""
    numbers = {
        "median": np.median(values),
        "mean": values.mean(dtype=np.float64),
        "std": values.std(dtype=np.float64),
    }
    for p, value in zip(PERCENTILES, np.percentile(values, PERCENTILES), strict=True):
        numbers[f"percentile_{p}"] = value
    return {name: round(float(value), 3) for name, value in numbers.items()}
