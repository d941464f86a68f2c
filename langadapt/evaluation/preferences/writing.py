"""The pairs as files that stage: dpo takes, and a report that vouches for them."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from langadapt.errors import UserError
from langadapt.evaluation.preferences.candidates import Candidates
from langadapt.evaluation.preferences.pairing import Dropped, Pair
from langadapt.files import read_json_object, sha256_of, staged_folder, write_json, write_json_array, write_text
from langadapt.files.provenance import REPORT
from langadapt.models import conversation, user_turn
from langadapt.models.chat import encode_conversations
from langadapt.recipe.pairs import PairSettings

Report = dict[str, Any]

_MAKER = "langadapt.evaluation.preferences"
_QUANTILES = (0, 10, 25, 50, 75, 90, 100)
_BINS = 10


def check_output(settings: PairSettings) -> None:
    """Raise `UserError` where the report would replace one of stage 1, whose files nothing would vouch for any more."""
    path = Path(settings.output_dir) / REPORT
    if path.is_file() and read_json_object(path).get("made_by") != _MAKER:
        raise UserError(f"{path} is stage 1's. Give the pairs a folder of their own: output_dir.")


def write_candidates(candidates: Sequence[Candidates], settings: PairSettings) -> Path:
    """Write <name>_candidates.jsonl for a judge: id, source, reference and the candidates, by number from 0."""
    path = Path(settings.output_dir) / f"{settings.name}_candidates.jsonl"
    lines = [
        {
            "id": one.record["id"],
            "source": one.source,
            "reference": one.record["output"],
            "candidates": [answer.text for answer in one.answers],
        }
        for one in candidates
    ]
    write_text(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    return path


def write_pairs(
    pairs: Sequence[Pair], dropped: Dropped, tokenizer: PreTrainedTokenizerBase, settings: PairSettings
) -> Report:
    """Write <name>_dpo_final.json, <name>_dpo_test.json and the report, all or none; return the report.

    A pair of which one conversation takes more than ``cutoff_len`` tokens is dropped. Pairs about one question are all
    held out, or none. Raises `UserError` when no pair is left.
    """
    fitting = _fitting(pairs, tokenizer, settings, dropped)
    if not fitting:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in dropped.counts.items())
        raise UserError(f"no pair is left ({reasons}). Lower min_margin, or draw more samples at a higher temperature.")
    test = _held_out(fitting, settings)
    parts = {"final": [p for p in fitting if user_turn(p.record) not in test]}
    parts["test"] = [p for p in fitting if user_turn(p.record) in test]
    with staged_folder(settings.output_dir, last=REPORT) as folder:
        files: Report = {}
        for part, some in parts.items():
            path = folder / f"{settings.name}_dpo_{part}.json"
            write_json_array(path, [pair.record for pair in some])
            files[path.name] = {"records": len(some), "bytes": path.stat().st_size, "sha256": sha256_of(path)}
        report = {
            "made_by": _MAKER,
            "name": settings.name,
            "settings": settings.model_dump(mode="json"),
            "dataset_sha256": sha256_of(settings.dataset),
            "pairs": len(fitting),
            "dropped": dropped.counts,
            "examples": dropped.examples,
            "margins": _distribution([pair.margin for pair in fitting]),
            "files": files,
        }
        write_text(folder / "data_report.md", _as_markdown(report))
        write_json(folder / REPORT, report)
    return report


def _fitting(
    pairs: Sequence[Pair], tokenizer: PreTrainedTokenizerBase, settings: PairSettings, dropped: Dropped
) -> list[Pair]:
    fitting = []
    for pair in pairs:
        both = [conversation({**pair.record, "output": pair.record[key]}) for key in ("chosen", "rejected")]
        if max(map(len, encode_conversations(tokenizer, both))) > settings.cutoff_len:
            dropped.add("record: longer than cutoff_len", pair.record, pair.record["chosen"])
        else:
            fitting.append(pair)
    return fitting


def _held_out(pairs: Sequence[Pair], settings: PairSettings) -> set[str]:
    """Return the questions whose pairs are held out."""
    wanted = min(settings.held_out, math.floor(settings.max_share * len(pairs)))
    asked = sorted({user_turn(pair.record) for pair in pairs})
    return set(random.Random(settings.seed).sample(asked, min(wanted, len(asked))))


def _distribution(margins: Sequence[float]) -> Report:
    counts, edges = np.histogram(margins, _BINS)
    quantiles = np.percentile(margins, _QUANTILES)
    return {
        "mean": float(np.mean(margins)),
        "quantiles": {f"{q} %": float(value) for q, value in zip(_QUANTILES, quantiles, strict=True)},
        "edges": edges.tolist(),
        "counts": counts.tolist(),
    }


def _as_markdown(report: Report) -> str:
    settings, margins = report["settings"], report["margins"]
    lines = [
        f"# Preference pairs: {report['name']}",
        "",
        f"`{settings['model_path']}` answered each prompt of `{settings['dataset']}` {settings['samples']} times "
        f"(temperature {settings['temperature']}, top_p {settings['top_p']}, seed {settings['seed']}); ranked by "
        f"{settings['rank_by']}; {settings['chosen']} against {settings['rejected']}.",
        "",
        f"## Pairs: {report['pairs']:,}",
        "",
        "| file | records | sha256 |",
        "|---|---:|---|",
        *(f"| {name} | {file['records']:,} | {file['sha256'][:16]}… |" for name, file in report["files"].items()),
        "",
        "## Margins",
        "",
        f"Mean {margins['mean']:.3f}; " + ", ".join(f"{q}: {v:.3f}" for q, v in margins["quantiles"].items()) + ".",
        "",
        "| from | to | pairs |",
        "|---:|---:|---:|",
    ]
    edges = margins["edges"]
    for low, high, count in zip(edges, edges[1:], margins["counts"], strict=False):
        lines.append(f"| {low:.3f} | {high:.3f} | {count:,} |")
    lines += ["", "## Dropped", ""]
    for reason, count in report["dropped"].items():
        lines.append(f"- {reason}: {count:,}")
        lines += [f"  - {name}: `{text}`" for name, text in report["examples"][reason]]
    return "\n".join([*lines, ""])
