"""More vocabulary: other text is cut as before, rows start where they should, tied weights stay tied."""

from __future__ import annotations

import functools
import itertools
import json
import random
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
import torch
from conftest import CHINESE, ENGLISH, TIBETAN
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaTokenizer,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from langadapt.errors import UserError
from langadapt.files import read_json_object, write_json_array
from langadapt.models import (
    IGNORE,
    ChatFormatError,
    conversation,
    encode_conversation,
    encode_prompt,
    encode_text,
    encode_texts,
    load_model,
    load_tokenizer,
)
from langadapt.models.building import train_tokenizer
from langadapt.models.chat import encode_conversations
from langadapt.recipe.settings import load_settings
from langadapt.recipe.vocabulary import VocabularySettings
from langadapt.training.vocabulary import VOCABULARY_FILE, extend_vocabulary, extension
from langadapt.training.vocabulary.distillation import _as_before, _batches, _teach, distilled_rows
from langadapt.training.vocabulary.extension import set_new_rows
from langadapt.training.vocabulary.pieces import add_pieces, cut, learn_pieces
from langadapt.training.vocabulary.rows import is_tied, mean_rows

OTHERS = [*CHINESE, *ENGLISH]
CODE = 'def f(x: int) -> str:\n\treturn f"{x:>8}  # größer"\r\n\n    while True: pass\n'
EMOJI = "👩‍👩‍👧‍👦 🏳️‍🌈 ☕️ e\u0301 <|im_end|> <|endoftext|>"
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
BOUNDARY = ["།", "\u0f40\u0f71\u0f72\u0f40", "x བོད་ y", " བོད", "བོད ཡིག\n", "藏བོད་文།།", "\u0fb2\u0f71"]


def byte_level() -> PreTrainedTokenizerBase:
    return train_tokenizer([*OTHERS, CODE] * 3, vocab_size=400)


def llama() -> PreTrainedTokenizerBase:
    """SentencePiece's BPE as transformers builds it for Llama: no pattern, other characters fall back to bytes."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    specials = ["<unk>", "<s>", "</s>", *BYTES]
    backend.train_from_iterator(
        OTHERS * 3, trainers.BpeTrainer(vocab_size=500, special_tokens=specials, show_progress=False)
    )
    state = json.loads(backend.to_str())["model"]
    return LlamaTokenizer(vocab=state["vocab"], merges=[tuple(merge) for merge in state["merges"]])


def unigram() -> PreTrainedTokenizerBase:
    """SentencePiece's unigram model with byte fallback."""
    backend = Tokenizer(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    trainer = trainers.UnigramTrainer(vocab_size=150, special_tokens=["<unk>"], unk_token="<unk>", show_progress=False)
    backend.train_from_iterator(OTHERS * 3, trainer)
    vocabulary = map(tuple, json.loads(backend.to_str())["model"]["vocab"])
    backend.model = models.Unigram([*vocabulary, *((byte, -20.0) for byte in BYTES)], unk_id=0, byte_fallback=True)
    spaces = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    backend.decoder = decoders.Sequence(spaces)
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")


TOKENIZERS = {"bytes": byte_level, "llama": llama, "unigram": unigram}


def pieces_for(tokenizer: PreTrainedTokenizerBase, count: int = 60) -> list[str]:
    return learn_pieces(TIBETAN * 5, ["Tibetan"], tokenizer, count, min_frequency=5)


@pytest.fixture(scope="module", params=TOKENIZERS)
def pair(request: pytest.FixtureRequest) -> tuple[PreTrainedTokenizerBase, PreTrainedTokenizerBase]:
    """A tokenizer, and the same with new pieces."""
    tokenizer = TOKENIZERS[request.param]()
    return tokenizer, add_pieces(tokenizer, pieces_for(tokenizer), TIBETAN)


def test_text_in_other_scripts_is_cut_as_before(
    pair: tuple[PreTrainedTokenizerBase, PreTrainedTokenizerBase],
) -> None:
    tokenizer, extended = pair
    draw = random.Random(1)
    noise = [draw.randbytes(200).decode("utf-8", "replace") for _ in range(50)]
    letters = ["".join(chr(draw.choice([*range(0x20, 0xE00), *range(0x1000, 0xD800)])) for _ in range(50))]
    for text in [*OTHERS, CODE, EMOJI, *noise, *letters]:
        assert extended(text)["input_ids"] == tokenizer(text)["input_ids"]
        assert encode_text(extended, text) == encode_text(tokenizer, text)


def test_the_script_takes_fewer_tokens_and_comes_back(
    pair: tuple[PreTrainedTokenizerBase, PreTrainedTokenizerBase],
) -> None:
    tokenizer, extended = pair
    for text in TIBETAN:
        assert len(encode_text(extended, text)) < 0.5 * len(encode_text(tokenizer, text))
    for text in [*TIBETAN, *BOUNDARY]:
        expected = tokenizer.decode(encode_text(tokenizer, text))
        if text != " བོད" or expected != text:  # a SentencePiece decoder strips the space at the beginning
            assert extended.decode(encode_text(extended, text)) == expected


def test_byte_level_text_comes_back_in_normal_form() -> None:
    extended = add_pieces(byte_level(), pieces_for(byte_level()), TIBETAN)
    draw = random.Random(2)
    signs = [*map(chr, range(0x0F40, 0x0FBD)), " ", "a", "་"]
    for text in [*TIBETAN, *BOUNDARY, *("".join(draw.choices(signs, k=40)) for _ in range(200))]:
        assert extended.decode(encode_text(extended, text)) == unicodedata.normalize("NFC", text)
        assert extended.decode(encode_text(extended, text), skip_special_tokens=True) == unicodedata.normalize(
            "NFC", text
        )


def test_pieces_are_of_the_script_and_frequent() -> None:
    tokenizer = byte_level()
    pieces = pieces_for(tokenizer, 1000)
    text = "\n".join(TIBETAN * 5)
    assert len(set(pieces)) == len(pieces)
    for piece in pieces:
        assert all("\u0f00" <= character <= "\u0fff" for character in piece.removeprefix(" "))
        assert text.count(piece) >= 5
        assert len(encode_text(tokenizer, "\n" + piece)) > 2
    assert pieces_for(tokenizer, 20) == pieces[:20]


def test_a_piece_takes_the_space_before_it_along() -> None:
    tokenizer, text = byte_level(), "Монгол хэл бол монгол улсын хэл. Улсын хэл монгол хэл."
    extended = add_pieces(tokenizer, learn_pieces([text] * 5, ["Cyrillic"], tokenizer, 100, min_frequency=5), [text])
    ids = encode_text(extended, text)
    assert len(ids) <= len(text.split()) + text.count(".")
    assert extended.decode(ids) == text
    for other in [*OTHERS, CODE, *TIBETAN]:
        assert encode_text(extended, other) == encode_text(tokenizer, other)


def test_cut_is_what_a_piece_is_in_the_middle_of_a_text(
    pair: tuple[PreTrainedTokenizerBase, PreTrainedTokenizerBase],
) -> None:
    tokenizer, extended = pair
    pieces = sorted(extended.get_added_vocab().keys() - tokenizer.get_added_vocab().keys())
    for piece, old in zip(pieces, cut(tokenizer, pieces), strict=True):
        whole = encode_text(tokenizer, f"a\n{piece}")
        assert whole[-len(old) :] == old
        assert tokenizer.decode(whole[: -len(old)]) == "a\n"


def test_a_tokenizer_that_writes_spaces_between_parts_is_refused() -> None:
    always, prepend = (Tokenizer.from_str(llama().backend_tokenizer.to_str()) for _ in range(2))
    always.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
    prepend.pre_tokenizer = None
    prepend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])  # Llama 2's
    for backend in (always, prepend):
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")
        with pytest.raises(UserError, match="cannot take new pieces"):
            add_pieces(tokenizer, ["བོད་", "ཡིག"], TIBETAN)


def test_a_tokenizer_with_gaps_between_its_ids_is_refused() -> None:
    state = json.loads(byte_level().backend_tokenizer.to_str())
    state["model"]["vocab"] = {token: 2 * index for token, index in state["model"]["vocab"].items()}
    for token in state["added_tokens"]:
        token["id"] *= 2
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(state)))
    with pytest.raises(UserError, match="its ids have gaps"):
        add_pieces(tokenizer, ["བོད་", "ཡིག"], TIBETAN)


def test_a_piece_is_no_control_token() -> None:
    tokenizer = byte_level()
    extended = add_pieces(tokenizer, pieces_for(tokenizer), TIBETAN)
    turns = conversation({"instruction": TIBETAN[0], "output": TIBETAN[1]})
    ids, labels = encode_conversation(extended, turns)
    learned = [token for token, label in zip(ids, labels, strict=True) if label != IGNORE]
    assert extended.decode(learned) == TIBETAN[1] + "<|im_end|>"
    assert encode_conversations(extended, [turns]) == [ids]
    system_prompt = "".join(pieces_for(tokenizer))
    extended.chat_template = system_prompt + extended.chat_template
    prompted, _ = encode_conversation(extended, turns)
    prompt = encode_prompt(extended, turns[:1])
    assert prompted[-len(ids) :] == ids
    assert prompted[: len(prompt)] == prompt
    extended.chat_template = system_prompt + "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    with pytest.raises(ChatFormatError, match="no control token"):
        encode_conversation(extended, turns)


def small_model(tokenizer: PreTrainedTokenizerBase, tied: bool, rows: int | None = None) -> torch.nn.Module:
    torch.manual_seed(0)
    is_llama = isinstance(tokenizer, LlamaTokenizer)
    kind, config = (LlamaForCausalLM, LlamaConfig) if is_llama else (Qwen2ForCausalLM, Qwen2Config)
    return kind(
        config(
            vocab_size=rows or len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            max_position_embeddings=512,
            tie_word_embeddings=tied,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            initializer_range=0.2,
        )
    ).eval()


@pytest.mark.parametrize("tied", [True, False])
def test_new_rows_are_means_and_old_ones_stay(tied: bool) -> None:
    tokenizer = byte_level()
    pieces = pieces_for(tokenizer)
    first = len(tokenizer)
    rows = first + 16  # as Qwen's: some rows have no token yet
    model = small_model(tokenizer, tied, rows)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    set_new_rows(model, tokenizer, pieces, [])
    assert is_tied(model) == tied
    for name, layer in (
        ("model.embed_tokens.weight", model.get_input_embeddings()),
        ("lm_head.weight", model.get_output_embeddings()),
    ):
        assert len(layer.weight) == -(-(first + len(pieces)) // 32) * 32
        assert torch.equal(layer.weight[:first], before[name][:first])
        for number, piece in enumerate(pieces):
            old = encode_text(tokenizer, "\n" + piece)[1:]
            expected = sum(before[name][token] for token in old) / len(old)
            torch.testing.assert_close(layer.weight[first + number], expected)
    others = torch.tensor([encode_text(tokenizer, ENGLISH[0])])
    assert model.config.vocab_size == len(model.get_output_embeddings().weight)
    logits = model(others).logits[..., :first]
    old_model = small_model(tokenizer, tied, rows)
    torch.testing.assert_close(logits, old_model(others).logits[..., :first])


def test_rows_that_wait_for_tokens_are_used_first() -> None:
    tokenizer = byte_level()
    pieces = pieces_for(tokenizer, 10)
    model = small_model(tokenizer, True, len(tokenizer) + 48)
    set_new_rows(model, tokenizer, pieces, [])
    assert len(model.get_input_embeddings().weight) == len(tokenizer) + 48


@pytest.mark.parametrize("tied", [True, False])
def test_distillation_brings_the_hidden_states_together(tied: bool) -> None:
    tokenizer = byte_level()
    pieces, first = pieces_for(tokenizer), len(tokenizer)
    extended = add_pieces(tokenizer, pieces, TIBETAN)
    model = small_model(tokenizer, tied)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    old_tokens = cut(tokenizer, pieces)
    documents = encode_texts(extended, TIBETAN)
    start = [mean_rows(layer.weight, old_tokens) for layer in (model.get_input_embeddings(), model.lm_head)]
    prefix = tokenizer.eos_token_id
    inputs, outputs = distilled_rows(model, documents, old_tokens, *start, first, prefix, steps=60)
    assert torch.equal(inputs, outputs) == tied
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())

    def distance(rows: torch.Tensor) -> float:
        matrix = torch.cat([model.get_input_embeddings().weight, rows])
        total = 0.0
        for ids in documents:
            student = model.base_model(inputs_embeds=matrix[[prefix, *ids]][None]).last_hidden_state[0, 1:]
            old = [[token] if token < first else old_tokens[token - first] for token in ids]
            teacher = model.base_model(torch.tensor([[prefix, *itertools.chain(*old)]])).last_hidden_state[0, 1:]
            ends = torch.tensor(list(map(len, old))).cumsum(0) - 1
            total += float((student - teacher[ends]).square().sum())
        return total

    assert distance(inputs) < 0.5 * distance(start[0])


def test_the_teacher_is_read_at_the_end_of_each_token() -> None:
    tokenizer = byte_level()
    pieces, first = pieces_for(tokenizer), len(tokenizer)
    model = small_model(tokenizer, True)
    old_tokens = cut(tokenizer, pieces)
    documents = encode_texts(add_pieces(tokenizer, pieces, TIBETAN), TIBETAN)
    windows = [_as_before(window, old_tokens, first) for window in next(_batches(documents, first))]
    states = _teach(model, windows, prefix=1)
    expected = []
    for window in windows:
        ids = [1]
        expected.append(model.base_model(torch.tensor([ids])).last_hidden_state[0, -1])
        for tokens in window:
            ids += tokens
            expected.append(model.base_model(torch.tensor([ids])).last_hidden_state[0, -1])
    torch.testing.assert_close(states, torch.stack(expected))


@pytest.fixture
def base(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    kind, tied = getattr(request, "param", ("bytes", True))
    tokenizer = TOKENIZERS[kind]()
    folder = tmp_path / "base"
    small_model(tokenizer, tied).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    records = [{"text": text} for text in [*TIBETAN, *CHINESE] * 10] + [{"output": text} for text in TIBETAN]
    write_json_array(tmp_path / "texts.json", records)
    return tmp_path / "texts.json"


SETTINGS = VocabularySettings(new_tokens=40, scripts=["Tibetan"])


@pytest.mark.parametrize("base", [("bytes", True), ("bytes", False), ("llama", True)], indirect=True)
def test_everyone_loads_what_was_written(base: Path, dataset: Path, tmp_path: Path) -> None:
    folder = extend_vocabulary(str(base), SETTINGS, dataset, tmp_path / "extended")
    model, tokenizer = load_model(str(folder)), load_tokenizer(str(folder))
    texts = [*TIBETAN, *OTHERS, CODE, EMOJI, *BOUNDARY, "".join(TIBETAN)]
    code = (
        "import json, sys; from transformers import AutoModelForCausalLM, AutoTokenizer\n"
        "tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])\n"
        "model = AutoModelForCausalLM.from_pretrained(sys.argv[1])\n"
        "ids = [tokenizer(text, add_special_tokens=False)['input_ids'] for text in json.load(sys.stdin)]\n"
        "tied = model.get_input_embeddings().weight is model.get_output_embeddings().weight\n"
        "print(json.dumps([ids, [tokenizer.decode(i) for i in ids], tied, len(model.get_input_embeddings().weight)]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, folder], input=json.dumps(texts), capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    ids, decoded, tied, rows = json.loads(done.stdout.splitlines()[-1])
    assert ids == [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    assert decoded == [tokenizer.decode(i) for i in ids]
    said = read_json_object(folder / VOCABULARY_FILE)
    assert tied == is_tied(model) == said["tied"] == load_model(str(base)).config.tie_word_embeddings
    assert rows == said["rows"] == model.config.vocab_size
    assert (said["old_size"], said["new_size"]) == (len(load_tokenizer(str(base))), len(tokenizer))
    assert said["held_out"]["after"]["tokens_per_unit"] < said["held_out"]["before"]["tokens_per_unit"]


def test_the_second_time_it_is_there(base: Path, dataset: Path, tmp_path: Path) -> None:
    folder = extend_vocabulary(str(base), SETTINGS, dataset, tmp_path / "extended")
    written = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert extend_vocabulary(str(base), SETTINGS, dataset, folder) == folder
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == written
    with pytest.raises(UserError, match="made with other settings"):
        extend_vocabulary(str(base), SETTINGS.model_copy(update={"new_tokens": 41}), dataset, folder)
    (folder / VOCABULARY_FILE).unlink()  # not whole: made anew
    assert (extend_vocabulary(str(base), SETTINGS, dataset, folder) / VOCABULARY_FILE).is_file()


def test_distillation_is_written_too(
    base: Path, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extension, "distilled_rows", functools.partial(distilled_rows, steps=5))
    settings = VocabularySettings(new_tokens=10, scripts=["Tibetan"], initialisation="distillation")
    folder = extend_vocabulary(str(base), settings, dataset, tmp_path / "extended")
    plain = extend_vocabulary(
        str(base), settings.model_copy(update={"initialisation": "mean"}), dataset, tmp_path / "mean"
    )
    first = read_json_object(folder / VOCABULARY_FILE)["old_size"]
    distilled, mean = (load_model(str(path)).get_input_embeddings().weight for path in (folder, plain))
    assert torch.equal(distilled[:first], mean[:first])
    assert (distilled[first : first + 10] != mean[first : first + 10]).any(dim=1).all()


def test_weights_stay_tied_through_lora_merge_and_reload(base: Path, dataset: Path, tmp_path: Path) -> None:
    """The way of transformers #45127: new tokens, an adapter with the embeddings trained whole, merged, reloaded."""
    peft = pytest.importorskip("peft")
    folder = extend_vocabulary(str(base), SETTINGS, dataset, tmp_path / "extended")
    model = AutoModelForCausalLM.from_pretrained(folder)
    config = peft.LoraConfig(
        target_modules=["q_proj", "v_proj"], modules_to_save=["embed_tokens"], ensure_weight_tying=True
    )
    adapted = peft.get_peft_model(model, config)
    ids = torch.tensor([encode_text(load_tokenizer(str(folder)), TIBETAN[0])])
    optimizer = torch.optim.SGD([p for p in adapted.parameters() if p.requires_grad], lr=0.5)
    for _ in range(3):
        adapted(ids, labels=ids).loss.backward()
        optimizer.step()
    adapted.eval()
    expected = adapted(ids).logits
    merged = adapted.merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    reloaded = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
    assert is_tied(reloaded)
    torch.testing.assert_close(reloaded(ids).logits, expected)
    start = AutoModelForCausalLM.from_pretrained(folder).eval()
    assert not torch.allclose(reloaded.get_input_embeddings().weight, start.get_input_embeddings().weight)


def test_what_cannot_be_done_is_said(base: Path, dataset: Path, tmp_path: Path) -> None:
    rare = VocabularySettings(new_tokens=5, scripts=["Tibetan"], min_frequency=10_000)
    thai = VocabularySettings(new_tokens=5, scripts=["Thai"])
    with pytest.raises(UserError, match="no piece in Tibetan"):
        extend_vocabulary(str(base), rare, dataset, tmp_path / "extended")
    with pytest.raises(UserError, match="mostly in Thai"):
        extend_vocabulary(str(base), thai, dataset, tmp_path / "extended")
    assert not (tmp_path / "extended" / VOCABULARY_FILE).exists()


@pytest.mark.parametrize(
    ("script", "message"),
    [
        *((script, "English and code") for script in ("Latin", "latin", "Latn", "Common", "Zyyy", "Inherited", "Qaai")),
        ("Tibetian", "no script"),
    ],
)
def test_pieces_are_not_in_a_script_of_english(script: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_settings(VocabularySettings, None, ["new_tokens=5", f"scripts=[Tibetan, {script}]"])
