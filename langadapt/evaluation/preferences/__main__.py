"""Preference pairs from a model's own answers, for stage: dpo.

    python -m langadapt.evaluation.preferences --config configs/minimind_en_zh_hant/preferences.yaml [key=value ...]

Draws several answers to each prompt of a training file of stage 1, ranks them, and writes the best against the worst
as <name>_dpo_final.json, with held-out pairs, a report that vouches for them, and all candidates for a judge. Run
again, it goes on where it was.
"""

from __future__ import annotations

from langadapt.errors import run_command
from langadapt.recipe.command_line import stage_parser
from langadapt.recipe.pairs import PairSettings
from langadapt.recipe.settings import load_settings


def main() -> None:
    parser = stage_parser(__doc__ or "", PairSettings, "configs/minimind_en_zh_hant/preferences.yaml")
    arguments = parser.parse_intermixed_args()
    settings = load_settings(PairSettings, arguments.config, arguments.overrides)

    from langadapt.evaluation.generation.ranks import join_ranks
    from langadapt.evaluation.preferences.candidates import draw_candidates, read_records
    from langadapt.evaluation.preferences.pairing import make_pairs
    from langadapt.evaluation.preferences.ranking import rank
    from langadapt.evaluation.preferences.writing import check_output, write_candidates, write_pairs

    check_output(settings)
    records = read_records(settings)
    with join_ranks() as ranks:
        candidates, tokenizer = draw_candidates(records, settings, ranks)
        if ranks.rank:
            return
        print(f"{len(records):,} records asked {settings.samples} times: {write_candidates(candidates, settings)}")
        pairs, dropped = make_pairs(rank(candidates, settings), settings)
        report = write_pairs(pairs, dropped, tokenizer, settings)
    for name, file in report["files"].items():
        print(f"{file['records']:>9,} records  {settings.output_dir}/{name}")
    print(f"report: {settings.output_dir}/data_report.md")


if __name__ == "__main__":
    run_command(main)
