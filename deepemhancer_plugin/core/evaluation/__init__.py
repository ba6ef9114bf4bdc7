"""How good a map is, judged by its half maps and by the atomic model's own map."""

from deepemhancer_plugin.core.evaluation.metrics import Scores, score, soft_mask

__all__ = ["Scores", "score", "soft_mask"]
