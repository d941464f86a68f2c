"""Scores by meaning, from encoders that the user names: COMET, and LaBSE where COMET's encoder is blind.

An encoder gives some number for any text, also in a language of which it has seen nothing. So both refuse such
languages, source and target alike. Nothing is downloaded.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from sacrebleu.significance import estimate_ci
from safetensors import SafetensorError
from transformers import AutoTokenizer, BertModel

from langadapt.errors import UserError
from langadapt.evaluation.results import Interval, Score
from langadapt.files import require_file
from langadapt.models import check_model_folder, pick_device

# Profile codes of the languages in the training data: XLM-R's by Conneau et al. 2020, appendix A; LaBSE's by its model
# card. A profile with a code of its own, for another script say, is another language here.
_XLM_R = (
    "af am ar as az be bg bn br bs ca cs cy da de el en eo es et eu fa fi fr fy ga gd gl gu ha he hi hr hu hy id is it "
    "ja jv ka kk km kn ko ku ky la lo lt lv mg mk ml mn mr ms my ne nl no om or pa pl ps pt ro ru sa sd si sk sl so sq "
    "sr su sv sw ta te th tl tr ug uk ur uz vi xh yi zh zh_hant"
)
_LABSE = (
    "af am ar as az be bg bn bo bs ca ceb co cs cy da de el en eo es et eu fa fi fr fy ga gd gl gu ha haw he hi hmn hr "
    "ht hu hy id ig is it ja jv ka kk km kn ko ku ky la lb lo lt lv mg mi mk ml mn mr ms mt my ne nl no ny or pa pl pt "
    "ro ru rw si sk sl sm sn so sq sr st su sv sw ta te tg th tk tl tr tt ug uk ur uz vi wo xh yi yo zh zh_hant zu"
)
_LABSE_TOKENS = 512
_SEED = 12345  # sacrebleu's
# torchrun's, under which another program would take itself for a rank of this run
_TORCHRUN = ("TORCHELASTIC_", "RANK", "LOCAL_RANK", "GROUP_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_")


class Adequacy(Protocol):
    """A metric of meaning: `Labse` or `Comet`."""

    name: str  # the key in `Translation.scores`
    signature: str

    def refusal(self, source: str, target: str) -> str | None:
        """Say why a direction cannot be scored, by language codes; None where it can."""

    def items(
        self, sources: Sequence[str], systems: Sequence[Sequence[str]], references: Sequence[str]
    ) -> list[NDArray[np.float64]]:
        """Return the scores of every item for each of several lists of hypotheses."""


class Labse:
    """LaBSE (Feng et al. 2022): the cosine of hypothesis and source, 1 at most. It needs no reference.

    A text's vector is that of the [CLS] token after the last layer, through the pooler (a dense layer with tanh), at
    length one. A copied source gets 1: read the score beside that floor and the count of copies.
    """

    name = "labse"
    signature = f"labse|cos:hypothesis-source|tokens:{_LABSE_TOKENS}"

    def __init__(self, folder: str | Path, device: str | torch.device = "auto", token_budget: int = 16384) -> None:
        """Open a folder of LaBSE; raise `UserError` without safetensors, or without the weights of the pooler."""
        check_model_folder(folder)
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
            model, loading = BertModel.from_pretrained(
                folder, dtype=torch.float32, use_safetensors=True, output_loading_info=True
            )
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
            raise UserError(f"labse_model={folder}: {str(error).strip().splitlines()[0]}") from None
        if missing := sorted(loading["missing_keys"]):
            raise UserError(
                f"labse_model={folder}: no LaBSE, weights are missing: {missing[0]} ({len(missing)} in all)."
            )
        self._model = model.to(pick_device(str(device))).eval()
        self._token_budget = token_budget
        self._vectors: dict[str, torch.Tensor] = {}

    def refusal(self, source: str, target: str) -> str | None:
        """See `Adequacy`."""
        return _refusal("LaBSE", _LABSE, source, target)

    def items(
        self, sources: Sequence[str], systems: Sequence[Sequence[str]], references: Sequence[str]
    ) -> list[NDArray[np.float64]]:
        """See `Adequacy`. Texts are cut after 512 tokens."""
        origin = self.embed(sources)
        return [(origin * self.embed(system)).sum(-1).double().numpy() for system in systems]

    @torch.inference_mode()
    def embed(self, texts: Sequence[str]) -> torch.Tensor:
        """Return the vectors of texts, [texts, dimensions], each of length one; a text is encoded once only."""
        new = [text for text in dict.fromkeys(texts) if text not in self._vectors]
        encoded = self._tokenizer(new, truncation=True, max_length=_LABSE_TOKENS)["input_ids"] if new else []
        order = sorted(range(len(new)), key=lambda index: len(encoded[index]), reverse=True)
        while order:
            rows = max(1, self._token_budget // len(encoded[order[0]]))
            batch, order = order[:rows], order[rows:]
            inputs = self._tokenizer.pad({"input_ids": [encoded[index] for index in batch]}, return_tensors="pt")
            pooled = self._model(**inputs.to(self._model.device)).pooler_output
            for index, vector in zip(batch, torch.nn.functional.normalize(pooled, dim=-1).cpu(), strict=True):
                self._vectors[new[index]] = vector
        return torch.stack([self._vectors[text] for text in texts])


class Comet:
    """COMET (Rei et al. 2020, 2022) on source, hypothesis and reference, by its own command ``comet-score``.

    The package needs an older numpy and transformers than training does, so it lives in an environment of its own. The
    checkpoint is unpickled there, by that command: name one that you trust.
    """

    name = "comet"

    def __init__(self, checkpoint: str | Path, device: str | torch.device = "auto") -> None:
        """Find command and checkpoint; raise `UserError` where either is not there."""
        self._checkpoint = require_file(checkpoint, "comet_model is the file model.ckpt of a COMET model.").resolve()
        if self._checkpoint.suffix != ".ckpt" or not (self._checkpoint.parents[1] / "hparams.yaml").is_file():
            raise UserError(
                f"comet_model={checkpoint}: expected checkpoints/model.ckpt in the folder of a COMET model, beside "
                "its hparams.yaml."
            )
        command = shutil.which("comet-score")
        if command is None:
            raise UserError(
                f"comet_model={checkpoint}: no command comet-score here. Its package does not go with this one's numpy "
                "and transformers; install it apart, e.g. pipx install unbabel-comet. Or leave the key out."
            )
        self._command = command
        self._gpus = int(pick_device(str(device)).type == "cuda")
        self.signature = f"comet|model:{self._checkpoint.parents[1].name}"

    def refusal(self, source: str, target: str) -> str | None:
        """See `Adequacy`. COMET's encoders are XLM-R and what was made from it, so its languages are theirs."""
        return _refusal("COMET", _XLM_R, source, target)

    def items(
        self, sources: Sequence[str], systems: Sequence[Sequence[str]], references: Sequence[str]
    ) -> list[NDArray[np.float64]]:
        """See `Adequacy`. One run of the command for all systems; raises `UserError` with its last line if it fails."""
        with tempfile.TemporaryDirectory() as folder:
            names = [f"{number}.txt" for number in range(len(systems))]
            for name, texts in zip(("source", "reference", *names), (sources, references, *systems), strict=True):
                lines = "".join(" ".join(text.split()) + "\n" for text in texts)
                Path(folder, name).write_text(lines, encoding="utf-8", errors="replace")
            command = [self._command, "-s", "source", "-r", "reference", "-t", *names, "--to_json", "scores.json"]
            command += ["--model", str(self._checkpoint), "--gpus", str(self._gpus), "--quiet", "--only_system"]
            alone = {name: value for name, value in os.environ.items() if not name.startswith(_TORCHRUN)}
            offline = alone | {"HF_HUB_OFFLINE": "1"}
            done = subprocess.run(command, cwd=folder, env=offline, capture_output=True, text=True, check=False)
            if done.returncode:
                said = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
                raise UserError(f"comet-score failed ({said}). To see all of it: {' '.join(command)}")
            scores = json.loads(Path(folder, "scores.json").read_text(encoding="utf-8"))
        return [np.array([item["COMET"] for item in scores[name]], np.float64) for name in names]


def score_meaning(
    metric: Adequacy,
    sources: Sequence[str],
    hypotheses: Sequence[str],
    references: Sequence[str],
    floors: Mapping[str, Sequence[str]],
    resamples: int,
) -> tuple[Score, NDArray[np.float64]]:
    """Return the mean over items with its 95 % interval and the means of ``floors``, and the score of every item.

    The interval is the bootstrap's over items as sacrebleu gives it for BLEU; None for a single item.
    """
    values, *others = metric.items(sources, [hypotheses, *floors.values()], references)
    interval = None
    if len(values) > 1:
        generator = np.random.default_rng(_SEED)
        means = np.array([generator.choice(values, len(values)).mean() for _ in range(resamples)])
        centre, half = estimate_ci(means)
        interval = Interval(low=centre - half, high=centre + half)
    score = Score(
        score=float(values.mean()),
        signature=metric.signature,
        interval=interval,
        floors={name: float(other.mean()) for name, other in zip(floors, others, strict=True)},
    )
    return score, values


def _refusal(metric: str, known: str, source: str, target: str) -> str | None:
    for code in (target, source):
        if code not in known.split():
            return f"{metric}'s encoder has never seen the language {code}: its number would mean nothing"
    return None
