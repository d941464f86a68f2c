"""Results side by side: which figures compare, and which differences are more than chance."""
