"""How long stage 1 will take, phase by phase, for the progress bar to know before it begins."""

from __future__ import annotations

from langadapt.corpus.storing import source_files
from langadapt.files.suffixes import COMPRESSED
from langadapt.recipe.preprocess import PreprocessSettings
from langadapt.recipe.sources import LinesSource

# Seconds a gigabyte on two cores (docs/RESULTS.md); only how they compare matters.
_READING, _SCANNING, _PAIRING, _DUPLICATES, _HOLDING_OUT, _DRAWING, _CHECKING = 15.0, 30.0, 12.0, 1.5, 5.0, 12.0, 3.0
_LEARNING, _HELD_OUT = 9.0, 10.0  # seconds, whatever the size
_MERGING = 1.3  # seconds a megabyte that a new tokenizer is trained on
_UNPACKED = 4  # bytes that a byte of compressed text makes


def expected_seconds(settings: PreprocessSettings) -> dict[str, float]:
    """Return about how long each phase of stage 1 will take, by the size of the files that a recipe reads."""
    records = text = pairs = 0.0
    for source in settings.sources.values():
        sizes = [
            path.stat().st_size * (_UNPACKED if path.suffix in COMPRESSED else 1) / 1e9
            for path in source_files(source, settings.data_dir)
        ]
        text += sum(sizes)
        if not isinstance(source, LinesSource):
            records += sum(sizes)
        elif len(source.files) > 1 and source.align == "auto":
            pairs += sum(sizes)
    new = settings.new_tokenizer
    return {
        "reading records": records * _READING,
        "scanning text": text * _SCANNING,
        "pairing lines": _LEARNING * (pairs > 0) + pairs * _PAIRING,
        "finding duplicates": text * _DUPLICATES,
        "drawing held-out sets": _HELD_OUT + text * _HOLDING_OUT,
        "training the tokenizer": min(1e3 * text, 1e-6 * new.sample_bytes) * _MERGING if new is not None else 0.0,
        "drawing training sets": text * _DRAWING,
        "checking": text * _CHECKING,
    }
