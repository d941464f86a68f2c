"""Preference pairs made from a model: its own answers, drawn several times, ranked, the best against the worst."""
