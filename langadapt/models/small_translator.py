"""A small untrained translator of each family, with a tokenizer learned from text: what a recipe is tried on."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import sentencepiece
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import (
    M2M100Config,
    M2M100ForConditionalGeneration,
    M2M100Tokenizer,
    MarianConfig,
    MarianMTModel,
    MarianTokenizer,
    MBart50Tokenizer,
    MBartConfig,
    MBartForConditionalGeneration,
    NllbTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from langadapt.recipe import load_language

Family = Literal["m2m100", "nllb", "mbart50", "marian"]
_SPECIALS = ("<s>", "<pad>", "</s>", "<unk>")
_MADE_UP = 8  # rows of M2M100 behind its languages that stand for nothing


def make_small_translator(
    family: Family,
    texts: Mapping[str, Sequence[str]],
    folder: Path,
    *,
    vocab_size: int = 2000,
    hidden_size: int = 64,
    layers: int = 2,
    max_length: int = 128,
    seed: int = 42,
) -> None:
    """Write a model folder of random float32 weights, its tokenizer trained on ``texts`` (language -> texts).

    ``vocab_size`` counts pieces of text; language tokens come on top. A Marian model translates from the first language
    of ``texts`` into the second.
    """
    folder.mkdir(parents=True, exist_ok=True)
    every = [text for each in texts.values() for text in each]
    if family == "nllb":
        tokenizer: PreTrainedTokenizerBase = _train_nllb(every, vocab_size)
    elif family == "mbart50":
        tokenizer = _train_mbart50(every, vocab_size)
    elif family == "m2m100":
        tokenizer = _train_m2m100(every, vocab_size, folder)
    else:
        tokenizer = _train_marian(texts, vocab_size, folder)
    torch.manual_seed(seed)
    model = _new_model(family, tokenizer, hidden_size, layers, max_length)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _train_nllb(texts: Sequence[str], vocab_size: int) -> NllbTokenizer:
    backend = Tokenizer(models.BPE(unk_token="<unk>"))
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=list(_SPECIALS), show_progress=False)
    backend.train_from_iterator(texts, trainer)
    state = json.loads(backend.to_str())["model"]
    return NllbTokenizer(vocab=state["vocab"], merges=[tuple(merge) for merge in state["merges"]])


def _train_mbart50(texts: Sequence[str], vocab_size: int) -> MBart50Tokenizer:
    backend = Tokenizer(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=vocab_size, special_tokens=["<unk>", "<s>", "</s>"], unk_token="<unk>", show_progress=False
    )
    backend.train_from_iterator(texts, trainer)
    pieces = json.loads(backend.to_str())["model"]["vocab"]
    return MBart50Tokenizer(vocab=[tuple(piece) for piece in pieces])


def _train_m2m100(texts: Sequence[str], vocab_size: int, folder: Path) -> M2M100Tokenizer:
    pieces = _train_sentencepiece(texts, vocab_size, folder / "sentencepiece.bpe.model")
    vocab = folder / "vocab.json"
    vocab.write_text(json.dumps(_numbered([*_SPECIALS, *pieces]), ensure_ascii=False), encoding="utf-8")
    return M2M100Tokenizer(str(vocab), str(folder / "sentencepiece.bpe.model"), num_madeup_words=_MADE_UP)


def _train_marian(texts: Mapping[str, Sequence[str]], vocab_size: int, folder: Path) -> MarianTokenizer:
    (source, sources), (target, targets) = list(texts.items())[:2]
    pieces = _train_sentencepiece(sources, vocab_size // 2, folder / "source.spm")
    pieces += _train_sentencepiece(targets, vocab_size // 2, folder / "target.spm")
    vocab = folder / "vocab.json"
    numbered = _numbered(["</s>", "<unk>", *pieces, "<pad>"])
    vocab.write_text(json.dumps(numbered, ensure_ascii=False), encoding="utf-8")
    paths = [str(folder / name) for name in ("source.spm", "target.spm", "vocab.json")]
    short = [load_language(code).code.partition("_")[0] for code in (source, target)]
    return MarianTokenizer(*paths, source_lang=short[0], target_lang=short[1])


def _train_sentencepiece(texts: Sequence[str], vocab_size: int, path: Path) -> list[str]:
    """Write a SentencePiece model, and return its pieces of text."""
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_writer=written,
        vocab_size=vocab_size,
        model_type="bpe",
        character_coverage=1.0,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    path.write_bytes(written.getvalue())
    trained = sentencepiece.SentencePieceProcessor(model_proto=written.getvalue())
    return [trained.id_to_piece(id) for id in range(trained.get_piece_size()) if not trained.is_control(id)][1:]


def _numbered(pieces: Sequence[str]) -> dict[str, int]:
    return {piece: id for id, piece in enumerate(dict.fromkeys(pieces))}


def _new_model(
    family: Family, tokenizer: PreTrainedTokenizerBase, hidden_size: int, layers: int, max_length: int
) -> PreTrainedModel:
    heads = max(1, hidden_size // 32)
    size: dict[str, Any] = {
        "d_model": hidden_size,
        "encoder_layers": layers,
        "decoder_layers": layers,
        "encoder_attention_heads": heads,
        "decoder_attention_heads": heads,
        "encoder_ffn_dim": 4 * hidden_size,
        "decoder_ffn_dim": 4 * hidden_size,
        "max_position_embeddings": max_length,
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "scale_embedding": True,
    }
    if family == "marian":
        start = tokenizer.pad_token_id  # Marian begins with padding, the others with the end token
        return MarianMTModel(
            MarianConfig(vocab_size=len(tokenizer), decoder_start_token_id=start, forced_eos_token_id=None, **size)
        )
    if family == "mbart50":
        start = tokenizer.eos_token_id
        return MBartForConditionalGeneration(
            MBartConfig(vocab_size=len(tokenizer), decoder_start_token_id=start, forced_eos_token_id=None, **size)
        )
    highest = max([len(tokenizer), *(id + 1 for id in getattr(tokenizer, "lang_token_to_id", {}).values())])
    start = tokenizer.eos_token_id
    vocab_size = highest + (_MADE_UP if family == "m2m100" else 0)
    return M2M100ForConditionalGeneration(M2M100Config(vocab_size=vocab_size, decoder_start_token_id=start, **size))
