"""Chat templates for tokenizers that bring none, by name (the recipe key ``template``)."""

from __future__ import annotations

from transformers import AddedToken, PreTrainedTokenizerBase

from langadapt.errors import UserError

# ChatML without a system prompt of its own; {% generation %} marks what the assistant says.
CHATML = (
    "{%- for message in messages -%}"
    "{{ '<|im_start|>' + message['role'] + '\\n' }}"
    "{%- if message['role'] == 'assistant' -%}"
    "{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}{{ '\\n' }}"
    "{%- else -%}"
    "{{ message['content'] + '<|im_end|>\\n' }}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}"
)
_TEMPLATES = {"chatml": (CHATML, ("<|im_start|>", "<|im_end|>"))}


def set_chat_template(tokenizer: PreTrainedTokenizerBase, name: str | None) -> None:
    """Give a tokenizer the template ``name``; with None it must have one of its own.

    Raises `UserError` for an unknown name, for a tokenizer without template where none is named, and for one that
    lacks the template's control tokens: adding them would grow the vocabulary, which this key does not do.
    """
    if name is None:
        if not tokenizer.chat_template:
            raise UserError(
                f"{tokenizer.name_or_path}: the tokenizer has no chat template. Name one with the key `template` "
                f"({', '.join(_TEMPLATES)}), or start from a model that has one."
            )
        return
    if name not in _TEMPLATES:
        raise UserError(
            f"template={name}: unknown. There are: {', '.join(_TEMPLATES)}; null keeps the tokenizer's own."
        )
    template, tokens = _TEMPLATES[name]
    added = set(tokenizer.get_added_vocab())
    absent = [token for token in tokens if token not in added]
    if absent:
        raise UserError(
            f"template={name}: the tokenizer {tokenizer.name_or_path} lacks the control tokens {', '.join(absent)}. "
            "Choose a base model whose tokenizer has them (every Qwen does)."
        )
    tokenizer.chat_template = template


def control_tokens(name: str) -> list[AddedToken]:
    """Return the control tokens of a template, for a tokenizer that is being trained."""
    return [AddedToken(token, special=True, normalized=False) for token in _TEMPLATES[name][1]]
