"""Answers to a file of instructions, as a file: ``[{"id", "output"}]``, in the input's order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from langadapt import __version__
from langadapt.errors import UserError
from langadapt.evaluation.generation.engine import open_engine
from langadapt.evaluation.generation.ranks import Ranks
from langadapt.files import sha256_of, write_json_array
from langadapt.files.partial import PartialFile
from langadapt.inference.conversation import make_prompting
from langadapt.inference.instructions import encode_instructions, read_instructions
from langadapt.inference.resuming import generate_missing, model_files
from langadapt.models import find_model
from langadapt.models.translation import TranslationTokenizer
from langadapt.recipe.evaluation import EvaluationSettings


def predict(settings: EvaluationSettings, source: str | Path, output: str | Path, ranks: Ranks) -> dict[str, Any]:
    """Answer every record of ``source``, write the answers to ``output``, and return how it was done.

    ``source`` holds records with an ``instruction`` and, if they have them, ``id``, ``input``, ``system`` and
    ``history``: a JSON array, or one record a line. A record without an id has its position for one, from 0. The model
    is asked through its chat template, greedily or with ``num_beams``, for at most ``max_new_tokens``. Until all is
    finished, what is stands in a .partial.jsonl beside ``output``, from which a run that was killed goes on.

    Returned are the engine's plan, ``records``, and ``cut_off``: how many answers reached ``max_new_tokens``. Raises
    `UserError` for an ``output`` that is ``source``, for a model without a chat template, and for a record without an
    instruction, with the id of another, or too long for the model.
    """
    assert settings.model_path is not None, "predict needs a model"
    if Path(source).resolve() == Path(output).resolve():
        raise UserError(f"{output}: the answers would replace the instructions. Choose another --output.")
    find_model(settings.model_path)
    ids, records = read_instructions(source)
    engine = open_engine(settings, ranks)
    if isinstance(engine.tokenizer, TranslationTokenizer):
        raise UserError(
            f"{settings.model_path}: a translator, and --predict asks through a chat template. Translate a file with "
            "6_test_inference.py --model_path P --direction SRC-TGT --input FILE --output FILE."
        )
    if not engine.tokenizer.chat_template:
        raise UserError(
            f"{settings.model_path}: its tokenizer has no chat template, and --predict asks through it. To have plain "
            "text continued: python 6_test_inference.py --input FILE --output FILE."
        )
    prompting = make_prompting(settings.model_path, engine.tokenizer, engine.generation_config, "chat", engine.window)
    prompts, limits = encode_instructions(
        prompting,
        records,
        lambda place: f"{source}: the record {ids[place]!r}",
        system=None,
        max_new_tokens=settings.max_new_tokens,
    )
    fingerprint = {
        "langadapt": __version__,
        "model": {settings.model_path: model_files(settings.model_path)},
        "input": sha256_of(source),
        "max_new_tokens": settings.max_new_tokens,
        **{key: engine.plan[key] for key in ("engine", "dtype", "num_beams", "strict")},
    }
    with PartialFile(Path(output).with_suffix(".partial.jsonl"), fingerprint, ranks) as partial:
        answers = generate_missing(
            engine.generate,
            partial,
            [str(place) for place in range(len(records))],
            prompts,
            limits,
            lambda place, answer: {"output": answer.text.strip(), "stop_reason": answer.stop_reason},
            stop_ids=prompting.stop_ids,
            title="predict",
            counts=engine.counts,
        )
        if ranks.rank == 0:
            pairs = zip(ids, answers, strict=True)
            write_json_array(output, ({"id": name, "output": answer["output"]} for name, answer in pairs))
        partial.remove()
    cut_off = sum(answer["stop_reason"] == "length" for answer in answers)
    return {"records": len(records), "cut_off": cut_off, **engine.describe(ranks)}
