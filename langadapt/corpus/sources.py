"""Opening the sources of a recipe: whatever their layout, an indexed collection of texts or of instruction records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from langadapt.corpus.alignment import align, features
from langadapt.corpus.line_files import LineFile
from langadapt.errors import UserError
from langadapt.files import read_json_array, read_jsonl
from langadapt.recipe.language import load_language
from langadapt.recipe.preprocess import InstructionsSource, JsonlSource, LinesSource, PreprocessSettings, Source
from langadapt.text import normalize, script_share

Texts = dict[str, str]  # language code: the text in that language

# From this share of the letters on, a text is in the language of a script and not only quoting it. It is small: names
# in another script may take nine tenths of a sentence.
_NOTICEABLE = 0.05
_ENOUGH = 500  # characters that show which script a document is in


@dataclass
class TextCollection:
    """Documents in one or more languages: ``read(k)`` gives the k-th, normalised, with an id that names its line."""

    name: str
    languages: list[str]
    size: int
    read: Callable[[int], tuple[str, Texts]]
    report: dict[str, Any]


@dataclass
class InstructionCollection:
    """Instruction records by direction (``bo-bo``, ``zh-bo`` ...), in the order of the file."""

    name: str
    by_direction: dict[str, list[dict[str, str]]] = field(default_factory=dict)
    report: dict[str, Any] = field(default_factory=dict)


def open_sources(settings: PreprocessSettings, command: str) -> dict[str, TextCollection | InstructionCollection]:
    """Open every source of a recipe; ``command`` is what a user runs to get a file that is missing.

    Raises `UserError` for missing or empty files, bytes that are no UTF-8, and broken records, naming the line.
    """
    way_out = f"Get it with: {command}" if settings.download else "Check `data_dir` and `sources`."
    return {name: _open_source(name, source, settings.data_dir, way_out) for name, source in settings.sources.items()}


def _open_source(name: str, source: Source, data_dir: str, way_out: str) -> TextCollection | InstructionCollection:
    root = Path(data_dir)
    if isinstance(source, LinesSource):
        return _open_lines(name, {code: LineFile(root / file, way_out) for code, file in source.files.items()})
    if isinstance(source, JsonlSource):
        return _open_jsonl(name, source, root / source.file, way_out)
    return _open_instructions(name, source, root / source.file, way_out)


def _open_lines(name: str, files: dict[str, LineFile]) -> TextCollection:
    """Pair the lines of one file a language; a blank line in one of them drops that document and shifts nothing."""
    pivot, *others = files
    lines: dict[str, Any] = {code: len(file) for code, file in files.items()}
    report: dict[str, Any] = {"lines": lines, "dropped": {}}
    rows: list[tuple[int, ...]] = [(index,) for index in range(len(files[pivot]))]
    if others:
        rows, report["pairing"] = _pair_lines(files)
        report["dropped"]["unpaired: cannot be told which lines belong together"] = len(files[pivot]) - len(rows)
    normalized = _normalizers(list(files))

    def read(k: int) -> tuple[str, Texts]:
        texts = {c: normalized[c](files[c][index]) for c, index in zip(files, rows[k], strict=True)}
        return f"{name}:{rows[k][0] + 1}", texts

    checked = [_reason_to_drop({c: files[c][i] for c, i in zip(files, row, strict=True)}) for row in rows]
    present = [k for k, reason in enumerate(checked) if reason is None]
    report["dropped"] |= Counter(filter(None, checked))
    report["documents"] = len(present)
    return TextCollection(name, list(files), len(present), lambda k: read(present[k]), report)


def _pair_lines(files: dict[str, LineFile]) -> tuple[list[tuple[int, ...]], dict[str, Any]]:
    """Return the line numbers that belong together in all files, and how each file was paired with the first."""
    pivot, *others = files
    of_pivot = [features(files[pivot][i]) for i in range(len(files[pivot]))]
    partners: list[dict[int, int]] = []
    how = {}
    for code in others:
        file = files[code]
        alignment = align(of_pivot, [features(file[i]) for i in range(len(file))])
        partners.append(dict(alignment.pairs))
        how[f"{pivot}-{code}"] = {
            "by": "line number" if alignment.by_number else "re-alignment",
            "anchors": alignment.anchors,
            "pairs": len(alignment.pairs),
            "lines left out, line counts differ between anchors": alignment.ambiguous,
            "pairs left out, lengths or numbers do not fit": alignment.implausible,
        }
    rows = [
        (i, *(partner[i] for partner in partners))
        for i in range(len(of_pivot))
        if all(i in partner for partner in partners)
    ]
    return rows, how


def _open_jsonl(name: str, source: JsonlSource, path: Path, way_out: str) -> TextCollection:
    normalized = _normalizers(list(source.fields))
    rows: list[tuple[str, Texts]] = []
    dropped: Counter[str] = Counter()
    total = 0
    for number, record in read_jsonl(path, way_out):
        total += 1
        texts = {}
        for code, key in source.fields.items():
            value = record.get(key) or ""  # null is blank too
            if not isinstance(value, str):
                raise UserError(f"{path}, line {number}: the field {key!r} is {value!r}, expected a text.")
            texts[code] = normalized[code](value)
        reason = _reason_to_drop(texts)
        if reason is None:
            rows.append((f"{name}:{number}", texts))
        else:
            dropped[reason] += 1
    if not rows:
        why = ", ".join(f"{count} {reason}" for reason, count in dropped.items())
        raise UserError(f"{path}: no record can be used ({why}). Check `sources.{name}.fields`.")
    report = {"records": total, "dropped": dict(dropped), "documents": len(rows)}
    return TextCollection(name, list(source.fields), len(rows), rows.__getitem__, report)


def _open_instructions(name: str, source: InstructionsSource, path: Path, way_out: str) -> InstructionCollection:
    collection = InstructionCollection(name)
    normalized = _normalizers(source.languages)
    dropped: Counter[str] = Counter()
    records = read_json_array(path, way_out)
    for position, record in enumerate(records, start=1):
        parts = {key: record.get(key) or "" for key in ("instruction", "input", "output")}
        for key, value in parts.items():
            if not isinstance(value, str):
                raise UserError(f"{path}, record {position}: {key!r} is {value!r}, expected a text.")
        if not parts["instruction"].strip() + parts["input"].strip():
            dropped["no instruction"] += 1
        elif not parts["output"].strip():
            dropped["no output"] += 1
        else:
            asked = language_of(parts["instruction"] + parts["input"], source.languages)
            answered = language_of(parts["output"], source.languages)
            if asked is None or answered is None:
                dropped[f"not routed: asked in {asked or '?'}, answered in {answered or '?'}"] += 1
                continue
            parts = {key: normalized[asked](parts[key]) for key in ("instruction", "input")} | {
                "output": normalized[answered](parts["output"])
            }
            if not parts["instruction"]:
                parts = {"instruction": parts["input"], "input": "", "output": parts["output"]}
            record_id = f"{name}:{position}"
            collection.by_direction.setdefault(f"{asked}-{answered}", []).append({"id": record_id, **parts})
    directions = {direction: len(routed) for direction, routed in sorted(collection.by_direction.items())}
    collection.report = {"records": len(records), "dropped": dict(sorted(dropped.items())), "by direction": directions}
    return collection


def _reason_to_drop(texts: Texts) -> str | None:
    """Say why a document cannot be used in all its languages, or None: blank, or written in other scripts."""
    for code, text in texts.items():
        if not normalize(text):
            return "blank in at least one language"
        if script_share(text[:_ENOUGH], load_language(code).scripts) < _NOTICEABLE:
            return f"{code} text in another script"
    return None


def language_of(text: str, languages: list[str]) -> str | None:
    """Return the one language whose scripts have a noticeable share in a text; None if there is none or more than one.

    Letters of other scripts do not count against it: a Chinese question about an English sentence is Chinese.
    """
    noticeable = [code for code in languages if script_share(text, load_language(code).scripts) >= _NOTICEABLE]
    return noticeable[0] if len(noticeable) == 1 else None


def _normalizers(languages: list[str]) -> dict[str, Callable[[str], str]]:
    return {code: partial(normalize, form=load_language(code).normalization) for code in languages}
