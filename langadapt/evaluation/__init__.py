"""Stage 4: likelihood of held-out text, translation quality, and the comparison of models."""
