"""What a translation is worth: corpus metrics, diagnostics, contamination, meaning, significance."""
