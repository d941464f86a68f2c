"""Encoder-decoder translators: one tokenizer for M2M100, NLLB, mBART-50 and Marian (OPUS-MT), languages by profile.

What the encoder reads and what the decoder writes, L a language's token, x and y a text's own::

    M2M100, mBART-50, NLLB    Lsource x x x end      Ltarget y y y end
    Marian, several targets   Ltarget x x x end      y y y end
    Marian, one direction     x x x end              y y y end

The decoder begins behind its own start token, which the model puts there; where the target has a language token,
generation is made to begin with it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerBase

from langadapt.errors import UserError
from langadapt.files import read_json_object, write_json
from langadapt.models.folder import WAY_OUT, adapter_base, find_model, first_line, is_adapter
from langadapt.recipe import load_language
from langadapt.recipe.language import PROFILES

# Beside a model that was trained here: {"language_tokens": {language: token}, "directions": ["en-fr"]}.
TRANSLATION_FILE = "translation.json"
_TOKEN = re.compile(r"__\w+__|>>.+<<|[a-z]{2}_[A-Z]{2}|[a-z]{3}_[A-Z][a-z]{3}")


class TranslationTokenizer:
    """The tokenizer of a translator. Languages are named by the codes of their profiles, such as bo."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, language_tokens: Mapping[str, str] | None = None) -> None:
        """``language_tokens`` gives tokens for languages whose token cannot be told from their profile."""
        self.tokenizer = tokenizer
        self.end_id: int = tokenizer.eos_token_id
        self.directions: list[str] = []  # that a model is trained on, such as en-fr; for `save_pretrained`
        self.given = dict(language_tokens or {})  # tokens by language, whatever the profiles lead to
        self._is_marian = type(tokenizer).__name__ == "MarianTokenizer"
        self._control_ids = {*tokenizer.all_special_ids} - {tokenizer.unk_token_id}
        self._control_ids |= {self._id(token) for token in self.language_tokens()}
        self._is_suffixed = bool(getattr(tokenizer, "legacy_behaviour", False))  # of older NLLB: x x x end L

    @property
    def languages_are_marked(self) -> bool:
        """Whether there are language tokens: not in a Marian model of one direction."""
        return bool(self.language_tokens())

    def language_tokens(self) -> list[str]:
        """Return the language tokens of the vocabulary, sorted."""
        tokenizer: Any = self.tokenizer
        of_class = (getattr(tokenizer, name, ()) for name in ("lang_token_to_id", "lang_code_to_id"))
        named = next((list(tokens) for tokens in of_class if tokens), [])
        named += getattr(tokenizer, "supported_language_codes", ())
        named += [str(token) for token in tokenizer.added_tokens_decoder.values()]
        return sorted({token for token in named if _TOKEN.fullmatch(token)})

    def language_token(self, language: str) -> str:
        """Return the token of a language; raises `UserError` where the vocabulary has not one for it."""
        known = self.language_tokens()
        if language in self.given:
            found = [self.given[language]]
        else:
            exact, loose = _likely_tokens(language)
            found = [token for token in exact if token in known][:1]
            found = found or [token for token in known if loose.fullmatch(token)]
        if len(found) != 1 or found[0] not in known:
            problem = (
                f"has no token for the language {language}" if len(found) < 2 else f"may mean {found} by {language}"
            )
            near = [token for token in known if token.strip("_>").startswith(language[:2])]
            raise UserError(
                f"{self.tokenizer.name_or_path}: its vocabulary {problem}. Name it in language_tokens: "
                f"{{{language}: TOKEN}} ({', '.join(near or known[:5])}, ...), or add one (in training, new_languages)."
            )
        return found[0]

    def check_direction(self, source: str, target: str) -> None:
        """Raise `UserError` when a model cannot translate in this direction."""
        if self.languages_are_marked:
            for language in (target,) if self._is_marian else (source, target):
                self.language_token(language)
            return
        own = [getattr(self.tokenizer, name, None) for name in ("source_lang", "target_lang")]
        for mark, language in zip(own, (source, target), strict=True):
            if mark is not None and not _means(mark, language):
                raise UserError(
                    f"{self.tokenizer.name_or_path} translates {own[0]}-{own[1]}, and only that; asked was "
                    f"{source}-{target}. Ask for the former alone (in training source_languages: [{own[0]}]), or take "
                    "another model."
                )

    def encode_source(self, texts: Sequence[str], source: str, target: str) -> list[list[int]]:
        """Return what the encoder reads; control tokens that stand in a text are text. Raises `UserError`."""
        self.check_direction(source, target)
        before, after = self._marks((target if self._is_marian else source) if self.languages_are_marked else None)
        return [[*before, *ids, *after] for ids in self._text_ids(texts, is_target=False)]

    def encode_target(self, texts: Sequence[str], target: str) -> list[list[int]]:
        """Return what the decoder writes, its end token included: the labels of training. Raises `UserError`."""
        before, after = self._marks(target if self.languages_are_marked and not self._is_marian else None)
        return [[*before, *ids, *after] for ids in self._text_ids(texts, is_target=True)]

    def forced_bos_id(self, target: str) -> int | None:
        """Return the token that generation is made to begin with: the target language's, where the decoder has one."""
        if self._is_marian or not self.languages_are_marked:
            return None
        return self._id(self.language_token(target))

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of what the decoder wrote, without control tokens."""
        text = [id for id in ids if id not in self._control_ids]  # M2M100's class takes its language tokens for text
        return str(self.tokenizer.decode(text, skip_special_tokens=True, clean_up_tokenization_spaces=False)).strip()

    def fingerprint(self) -> str:
        """Return a hash of all that token ids depend on."""
        own: Any = self.tokenizer
        marks = [getattr(own, "legacy_behaviour", None), sorted(self.given.items())]
        digest = hashlib.sha256(json.dumps([type(own).__name__, sorted(own.get_vocab().items()), marks]).encode())
        for name in ("sp_model", "spm_source", "spm_target"):
            if hasattr(own, name):
                digest.update(getattr(own, name).serialized_model_proto())
        if hasattr(own, "backend_tokenizer"):
            digest.update(str(own.backend_tokenizer.normalizer).encode())
        return digest.hexdigest()

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the tokenizer as `AutoTokenizer` reads it, and `TRANSLATION_FILE` with what is known of languages."""
        pairs = [direction.split("-") for direction in self.directions]
        known = self.given
        if self.languages_are_marked:
            trained = {target for _, target in pairs} | (set() if self._is_marian else {source for source, _ in pairs})
            known = {**known, **{language: self.language_token(language) for language in sorted(trained)}}
        self.tokenizer.save_pretrained(folder)
        write_json(Path(folder) / TRANSLATION_FILE, {"language_tokens": known, "directions": self.directions})

    def _marks(self, language: str | None) -> tuple[list[int], list[int]]:
        """Return what stands before and behind a text."""
        mark = [] if language is None else [self._id(self.language_token(language))]
        return ([], [self.end_id, *mark]) if self._is_suffixed else (mark, [self.end_id])

    def _id(self, token: str) -> int:
        return int(self.tokenizer.convert_tokens_to_ids(token))

    def _text_ids(self, texts: Sequence[str], is_target: bool) -> list[list[int]]:
        # Marian has a SentencePiece model for each side; the others take no notice of the side.
        side = {"text_target": list(texts)} if is_target and self._is_marian else {"text": list(texts)}
        options = {"add_special_tokens": False, "split_special_tokens": True, "truncation": False, "verbose": False}
        rows = self.tokenizer(**side, **options)["input_ids"]
        # mBART's control tokens are pieces of its vocabulary as well, which splitting does not undo.
        unknown = self.tokenizer.unk_token_id
        return [[unknown if id in self._control_ids else id for id in row] for row in rows]


def is_encoder_decoder(name: str, trust_remote_code: bool = False) -> bool:
    """Say whether a model (a folder, an adapter, a hub name) has an encoder. Raises `UserError` for none."""
    return bool(_config(name, trust_remote_code).get("is_encoder_decoder", False))


def model_type(name: str) -> str | None:
    """Return what the config.json of a model, or of an adapter's base, calls its architecture. Raises `UserError`."""
    return _config(name).get("model_type")


def _config(name: str, trust_remote_code: bool = False) -> dict[str, Any]:
    folder = adapter_base(name) if is_adapter(name) else find_model(name)
    if (Path(folder) / "config.json").is_file():
        return read_json_object(Path(folder) / "config.json")
    try:
        config: dict[str, Any] = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code).to_dict()
    except (OSError, ValueError) as error:
        raise UserError(f"{name}: no config.json to be had ({first_line(error)}). {WAY_OUT}") from None
    return config


def load_translation_tokenizer(name: str, language_tokens: Mapping[str, str] | None = None) -> TranslationTokenizer:
    """Return the tokenizer of a translator, of an adapter's base where the adapter has none.

    Languages are marked as the `TRANSLATION_FILE` of a model that was trained here says, and as ``language_tokens``
    does. Raises `UserError` where there is no tokenizer, or one of a family that is not known here.
    """
    path = Path(name)
    folder = name
    if is_adapter(name) and not (path / "tokenizer_config.json").is_file():
        folder = adapter_base(name)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError, KeyError, TypeError, AssertionError) as error:
        raise UserError(f"{name}: no tokenizer in it ({first_line(error)}). {WAY_OUT}") from None
    if not {"MarianTokenizer", "M2M100Tokenizer", "NllbTokenizer", "MBart50Tokenizer"} & set(_class_names(tokenizer)):
        raise UserError(
            f"{name}: its tokenizer is a {type(tokenizer).__name__}; known encoder-decoder families are M2M100, NLLB, "
            "mBART-50 and Marian (OPUS-MT)."
        )
    record = path / TRANSLATION_FILE
    stored = read_json_object(record).get("language_tokens", {}) if record.is_file() else {}
    return TranslationTokenizer(tokenizer, {**stored, **(language_tokens or {})})


def usual_direction(name: str, tokenizer: TranslationTokenizer) -> str | None:
    """Return the one direction that a translator was trained in last, or has; None where it has several."""
    record = Path(name) / TRANSLATION_FILE
    trained = read_json_object(record).get("directions") if record.is_file() else None
    if trained:
        return str(trained[0]) if len(trained) == 1 else None
    if tokenizer.languages_are_marked:
        return None
    codes = sorted(file.stem for file in PROFILES.glob("*.yaml"))
    own = [getattr(tokenizer.tokenizer, name, None) for name in ("source_lang", "target_lang")]
    found = [next((code for code in codes if mark and _means(mark, code)), None) for mark in own]
    return None if None in found else "-".join(map(str, found))


def _class_names(tokenizer: Any) -> Iterable[str]:
    return (each.__name__ for each in type(tokenizer).__mro__)


def _likely_tokens(language: str) -> tuple[list[str], re.Pattern[str]]:
    """Return the tokens that mean a language for certain, best first, and what else may."""
    labels = load_language(language).flores
    short = {language, language.partition("_")[0]}
    long = {label.partition("_")[0] for label in labels}
    exact = [*labels, *(f"__{code}__" for code in sorted(short, reverse=True))]
    exact += [f">>{code}<<" for code in [*labels, *sorted(short | long)]]
    return exact, re.compile(rf"(?:{'|'.join(map(re.escape, short))})_[A-Z]{{2}}")


def _means(mark: str, language: str) -> bool:
    labels = {part for label in load_language(language).flores for part in (label, label.partition("_")[0])}
    return mark in {language, language.partition("_")[0], *labels}
