"""Proof that nothing held out stands in training, from the written files alone.

    python -m langadapt.corpus.check hf_data/tibetan_datasets              the folder that stage 1 wrote
    python -m langadapt.corpus.check FOLDER --against flores.txt mm.json   test sets from elsewhere as well

Prints what was compared. Where a training record is a twin of a held-out one, ends with exit code 2 and names both.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from langadapt.corpus.progress import Advance, Progress
from langadapt.corpus.reading import Bad, convert_script
from langadapt.corpus.records import comparable_texts, document_of, quoting_texts
from langadapt.corpus.templates import Templates
from langadapt.corpus.twins import TwinIndex
from langadapt.errors import UserError, run_command
from langadapt.files import check_vouched, iter_json_array, read_json_object, require_file, strings_in
from langadapt.files.containers import Item, iter_lines, iter_records, open_bytes
from langadapt.files.records import Record
from langadapt.files.suffixes import container_of

KINDS, VALIDATION = ("cpt", "sft", "dpo"), "sft_valid"
_AT_ONCE = 256  # records


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="what stage 1 wrote, data_report.json among it")
    parser.add_argument("--against", nargs="*", default=[], metavar="FILE", help="test sets from elsewhere")
    arguments = parser.parse_args()
    report = read_json_object(arguments.folder / "data_report.json", "Name the folder that stage 1 wrote.")
    for name in report["files"]:
        check_vouched(arguments.folder / name)
    templates = Templates.of(report["templates"])
    sources = report["settings"]["sources"].values()
    conversions = {configuration for source in sources for configuration in source["convert"].values()}
    test_sets = templates.without_templates(read_test_sets(arguments.against, sorted(conversions)))
    with Progress({"checking": 1}) as progress, progress.phase("checking") as advance:
        proof = prove_disjoint(arguments.folder, report, templates, test_sets, advance)
    for what, count in proof.items():
        print(f"{count:>9,} {what}")


def prove_disjoint(
    folder: Path,
    report: Mapping[str, Any],
    templates: Templates,
    test_sets: Sequence[tuple[str, str]],
    advance: Advance,
) -> dict[str, Any]:
    """Read the written files and look for held-out text, and that of other test sets, in the training files.

    Validation records are compared with the test sets, and training records with both. Of the data report only the name
    and the counts of records are used. Returns what was compared. Raises `UserError` naming both records if one is a
    twin of the other, or of the same document: nothing of such a dataset must be used.
    """
    kinds = [kind for kind in KINDS if f"{report['name']}_{kind}_final.json" in report["files"]]
    tests, training = [f"{kind}_test" for kind in kinds], [f"{kind}_final" for kind in kinds]
    files = {part: f"{report['name']}_{part}.json" for part in (*tests, VALIDATION, *training)}
    records = {part: report["files"][file]["records"] for part, file in files.items() if file in report["files"]}
    to_compare = sum(records[part] for part in training) or 1
    held_out = _HeldOut(templates)
    held_out.index.add_all(test_sets)
    for part in tests:
        held_out.add(folder / files[part], part)
    proof = {"held-out records": sum(records[part] for part in tests), "texts of other test sets": len(test_sets)}
    if VALIDATION in records:
        for _ in held_out.compare(folder / files[VALIDATION], VALIDATION):
            pass
        held_out.add(folder / files[VALIDATION], VALIDATION)
        proof["validation records, compared with them"] = records[VALIDATION]
    for part in training:
        for compared in held_out.compare(folder / files[part], part):
            advance(compared / to_compare)
    return proof | {
        "training records compared with them": sum(records[part] for part in training),
        "twins found": 0,
    }


class _HeldOut:
    """What is held out so far, and who holds it: texts, and the documents that they are of."""

    def __init__(self, templates: Templates) -> None:
        self.index = TwinIndex()
        self._templates = templates
        self._documents: dict[tuple[str, str], str] = {}

    def add(self, path: Path, part: str) -> None:
        for records in _batched(iter_json_array(path)):
            owned = [(f"{record['id']} of {part}", record) for record in records]
            self.index.add_all(
                [(owner, text) for owner, record in owned for text in comparable_texts(record, self._templates)]
            )
            self._documents |= {document: owner for owner, record in owned if (document := document_of(record))}
        self.index.settle()

    def compare(self, path: Path, part: str) -> Iterator[int]:
        """Yield how many records were compared now; raise `UserError` for one that shares text or a document."""
        for records in _batched(iter_json_array(path)):
            texts = [[*comparable_texts(record, self._templates), *quoting_texts(record)] for record in records]
            twins = iter(self.index.find_all([text for some in texts for text in some]))
            for record, some in zip(records, texts, strict=True):
                found = [twin for twin in itertools.islice(twins, len(some)) if twin is not None]
                document = document_of(record)
                owner = self._documents.get(document) if document else None
                if found or owner:
                    alike = f"is a twin of {found[0]}" if found else f"is of the document of {owner}"
                    raise UserError(
                        f"leak: record {record['id']} of {part} {alike}. Do not use this data set. Run "
                        "stage 1 again; if it ends here too, please report it with the settings and both records."
                    )
            yield len(records)


def read_test_sets(files: Sequence[str | Path], conversions: Iterable[str] = ()) -> list[tuple[str, str]]:
    """Return every text of some test sets with the name of its file and line, and what OpenCC's ``conversions`` make.

    A file without a known suffix is text with one sentence a line. Of records every text counts, at whatever depth,
    ids and labels too: they are short, and short texts are twins of equal ones only. Raises `UserError` for what
    cannot be read.
    """
    found = []
    for file in map(Path, files):
        for item in _items(file, "Check the path (of a recipe: `decontaminate`)."):
            if isinstance(item, Bad):
                raise UserError(f"{file}, line {item.line}: {item.reason}. A test set has to be read whole; mend it.")
            number, record = item
            for text in strings_in(record):
                others = (convert_script(text, configuration) for configuration in conversions)
                found += [(f"{file.name}:{number}", form) for form in dict.fromkeys((text, *others))]
    return found


def _items(file: Path, way_out: str) -> Iterator[Item]:
    if container_of(file.name) is not None:
        yield from iter_records(file, way_out)
        return
    with open_bytes(require_file(file, way_out)) as handle:
        for item in iter_lines(file, handle):
            yield item if isinstance(item, Bad) else (item[0], {"text": item[1]})


def _batched(records: Iterator[Record]) -> Iterator[list[Record]]:
    while batch := list(itertools.islice(records, _AT_ONCE)):
        yield batch


if __name__ == "__main__":
    run_command(main)
