"""Numbers that sum up a local-resolution map."""

import numpy as np

PERCENTILES = (5, 20, 25, 50, 75, 80, 95)


def statistics(values: np.ndarray) -> dict[str, float]:
    """Median, percentiles, mean and standard deviation of the voxels' resolutions, in A."""
    percentiles = {
        f"percentile_{p}": round(float(v), 3)
        for p, v in zip(PERCENTILES, np.percentile(values, PERCENTILES), strict=True)
    }
    return {
        "median": round(float(np.median(values)), 3),
        "mean": round(float(values.mean(dtype=np.float64)), 3),
        "std": round(float(values.std(dtype=np.float64)), 3),
        **percentiles,
    }
