"""The files that stage 1 writes, by name, so that no source is overwritten by what is made of it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from langadapt.corpus.lengths import cutoff_suffix
from langadapt.corpus.storing import source_files
from langadapt.errors import UserError
from langadapt.recipe.preprocess import PreprocessSettings

CHARTS = ("data_flow.png", "data_lengths.png", "data_tokenizers.png")
_REPORT = ("data_report.json", "data_report.md", *CHARTS, "quarantine.jsonl")


def output_names(settings: PreprocessSettings) -> list[str]:
    """Return the names of all files that a run writes into the output folder."""
    filtered = f"filtered_{cutoff_suffix(settings.cutoff_len)}"
    cpt = ["cpt_final", "cpt_test", f"cpt_test_{filtered}"]
    sft = ["sft_final", f"sft_{filtered}", "sft_test", f"sft_test_{filtered}"]
    dpo = [part.replace("sft", "dpo", 1) for part in sft] if settings.dpo else []
    valid = ["sft_valid", f"sft_valid_{filtered}"] if settings.validation is not None else []
    return [*(f"{settings.name}_{part}.json" for part in cpt + sft + valid + dpo), *_REPORT]


def check_sources_are_kept(settings: PreprocessSettings, stale: Iterable[str]) -> None:
    """Raise `UserError` if a run would write over, or delete as ``stale``, a file that it reads.

    So too where its new tokenizer would take the place of a model's.
    """
    new = settings.new_tokenizer
    if new is not None and (Path(new.output_dir) / "config.json").exists():
        raise UserError(
            f"new_tokenizer.output_dir={new.output_dir} holds a model, whose tokenizer this run would replace. Choose "
            "another folder."
        )
    folder = Path(settings.output_dir)
    replaced = {(folder / name).resolve() for name in [*output_names(settings), *stale]}
    read = {f"sources.{name}": source_files(source, settings.data_dir) for name, source in settings.sources.items()}
    for key, paths in (read | {"decontaminate": settings.test_set_paths}).items():
        for path in paths:
            if path.resolve() in replaced:
                raise UserError(
                    f"{path} of `{key}` is a file that this run would replace or delete. Choose another output_dir, or "
                    "move the file to another folder."
                )
