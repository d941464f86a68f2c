"""Sources of stage 1 as rows: every container, every layout, one record at a time, in the languages' normal form."""

from langadapt.corpus.reading.languages import convert_script, language_of, prepare
from langadapt.corpus.reading.layouts import files_matching, read_rows
from langadapt.corpus.reading.rows import Dropped, TextRow, TurnRow
from langadapt.files import Bad

__all__ = [
    "Bad",
    "Dropped",
    "TextRow",
    "TurnRow",
    "convert_script",
    "files_matching",
    "language_of",
    "prepare",
    "read_rows",
]
