"""Stage 5: what training changed in the weights - distances between three checkpoints, charts, a summary in words."""
