"""What a user of a real recipe has before stage 1: source data, and a base model that hardly knows Tibetan.

    python -m langadapt.runs.quickstart_base [DATA_DIR] [MODEL_DIR]

Writes the sources, the text of the base model, and a Qwen2 model of 1.3 million random weights with a tokenizer
trained on that text. `bash 2_train_cpt.sh configs/quickstart/base.yaml` then trains it.
"""

from __future__ import annotations

import sys
from pathlib import Path

from langadapt.errors import run_command
from langadapt.files import write_json_array
from langadapt.models.building import new_qwen2, train_tokenizer
from langadapt.runs import cldr

SEED = 42
PAIRS, DOCUMENTS, INSTRUCTIONS = 3000, 1200, 600
HELD_OUT = 60
BASE_TEXTS, TIBETAN_SHARE = 6000, 0.002
VOCABULARY, HIDDEN_SIZE, LAYERS, HEADS, CONTEXT = 1200, 128, 5, 4, 512


def main() -> None:
    data_dir, model_dir = (Path(given) for given in (*sys.argv[1:], "hf_data/quickstart", "saves/quickstart/new")[:2])
    cldr.write_sources(data_dir, SEED, PAIRS, DOCUMENTS, INSTRUCTIONS)
    cldr.write_held_out(data_dir / "held_out", SEED, HELD_OUT)
    texts = cldr.base_texts(SEED, BASE_TEXTS, TIBETAN_SHARE)
    write_json_array(data_dir / "base_text.json", cldr.as_records(texts))
    tokenizer = train_tokenizer(texts, VOCABULARY)
    model = new_qwen2(tokenizer, HIDDEN_SIZE, LAYERS, HEADS, CONTEXT, SEED)
    model.save_pretrained(model_dir)
    tokenizer.save_pretrained(model_dir)
    print(f"{PAIRS:,} lines of parallel text, {DOCUMENTS:,} of Tibetan, {3 * INSTRUCTIONS:,} instructions: {data_dir}")
    print(f"a Qwen2 model with {model.num_parameters():,} random weights and {len(tokenizer):,} tokens: {model_dir}")


if __name__ == "__main__":
    run_command(main)
