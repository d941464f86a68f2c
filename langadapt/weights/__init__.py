"""Stage 5: what training changed in the weights - distances between three checkpoints, charts, a summary in words."""

from langadapt.weights.checkpoints import Checkpoint, open_checkpoints
from langadapt.weights.comparison import compare

__all__ = ["Checkpoint", "compare", "open_checkpoints"]
