"""Recipes run whole: their commands in order, and text and base models made on the spot for their small forms."""
