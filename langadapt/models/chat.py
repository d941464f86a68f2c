"""How text becomes tokens: plain documents, prompts, and conversations of which only the answers are learned.

Control tokens that a user or a corpus writes as text (``<|im_end|>``) are encoded as text everywhere here; only a chat
template can place real ones.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from typing import Any

import regex
from transformers import GenerationConfig, PreTrainedTokenizerBase

Message = dict[str, str]  # {"role": "system" | "user" | "assistant", "content": str}

IGNORE = -100  # the label of a token that the loss leaves out, as in PyTorch's cross-entropy
_SIGN = regex.compile(r"[\p{Script=Common}--\s]", regex.V1)


class ChatFormatError(ValueError):
    """A chat template with which answers cannot be told from prompts."""


def user_turn(record: Mapping[str, Any]) -> str:
    """Return what the user says in an SFT record: its ``instruction``, then a line break and its ``input``, if any."""
    return "\n".join(part for part in (record.get("instruction"), record.get("input")) if part)


def conversation(record: Mapping[str, Any]) -> list[Message]:
    """Return an SFT record as messages: the `user_turn`, and ``output`` as the assistant's answer.

    Before them come ``system``, if there is one, and the turns of ``history``, ``[user, assistant]`` each.
    """
    system = [{"role": "system", "content": record["system"]}] if record.get("system") else []
    turns = [*(record.get("history") or ()), (user_turn(record), record["output"])]
    return system + [
        {"role": role, "content": text}
        for turn in turns
        for role, text in zip(("user", "assistant"), turn, strict=True)
    ]


def encode_text(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Return the token ids of a plain text, without special tokens around it or out of it."""
    ids: list[int] = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    return ids


def beginning_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the beginning-of-sequence token where the tokenizer puts one before every text (Llama), else nothing."""
    beginning = tokenizer.bos_token_id
    return [beginning] if beginning is not None and beginning in tokenizer("")["input_ids"] else []


def encode_texts(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """Return `encode_text` of every text; all cores take part, so give it hundreds at a time."""
    return _encode_all(tokenizer, texts, control_tokens_are_text=True)


def encode_prompt(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> list[int]:
    """Return the ids of a conversation up to the place where the assistant's next answer starts."""
    return _render(tokenizer, messages, add_generation_prompt=True)


def encode_conversation(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> tuple[list[int], list[int]]:
    """Return ``(ids, labels)`` of a whole conversation; labels equal the ids in the assistant's turns, else `IGNORE`.

    ::

        ids     <|im_start|>user\\n q <|im_end|>\\n<|im_start|>assistant\\n a <|im_end|> \\n
        labels     -100     -100 ...                               -100   a <|im_end|> -100

    A turn is learned from its first token to its end-of-turn token, so that the model learns to stop. Raises
    `ChatFormatError` when the template rewrites earlier text as turns are added: then no prefix can be masked.
    """
    return next(encode_labelled(tokenizer, [messages]))


def encode_labelled(
    tokenizer: PreTrainedTokenizerBase, conversations: Sequence[Sequence[Message]]
) -> Iterator[tuple[list[int], list[int]]]:
    """Yield `encode_conversation` of every conversation; all cores take part, so give it hundreds at a time.

    A conversation that cannot be masked raises its `ChatFormatError` when its turn comes.
    """
    wanted: list[tuple[Sequence[Message], bool]] = []
    for messages in conversations:
        for position in _answers(messages):
            wanted += [(messages[:position], True), (messages[: position + 1], False)]
        wanted.append((messages, False))
    encoded = iter(_encode_chats(tokenizer, wanted))
    control = set(_control_tokens(tokenizer).values())
    for messages in conversations:
        prompts_and_turns = [(next(encoded), next(encoded)) for _ in _answers(messages)]
        ids = next(encoded)
        yield ids, _labels(control, ids, prompts_and_turns)


def encode_conversations(
    tokenizer: PreTrainedTokenizerBase, conversations: Sequence[Sequence[Message]]
) -> list[list[int]]:
    """Return the ids of whole conversations; all cores take part, so give it hundreds at a time."""
    return _encode_chats(tokenizer, [(messages, False) for messages in conversations])


def render(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> str:
    """Return a conversation as the text that its template makes of it; to look at or measure, not to be encoded."""
    return _apply_template(tokenizer, messages, add_generation_prompt=False)


def end_of_turn_id(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Return the token that ends an assistant's turn under the chat template; None without a template."""
    if not tokenizer.chat_template:
        return None
    user = {"role": "user", "content": "x"}
    prompt = encode_prompt(tokenizer, [user])
    turn = _render(tokenizer, [user, {"role": "assistant", "content": "x"}])
    return turn[_last_control_token(set(_control_tokens(tokenizer).values()), turn, len(prompt))]


def stop_token_ids(tokenizer: PreTrainedTokenizerBase, generation: GenerationConfig | None, chat: bool) -> list[int]:
    """Return the ids at which generation stops: the model's end tokens, and in a chat the end of the turn."""
    stops = set(_eos_ids(tokenizer, generation))
    end_of_turn = end_of_turn_id(tokenizer) if chat else None
    return sorted(stops | ({end_of_turn} if end_of_turn is not None else set()))


def is_chat_model(tokenizer: PreTrainedTokenizerBase, generation: GenerationConfig | None) -> bool:
    """Say whether a model was trained to answer in turns.

    A chat template is no proof: base models ship with one (Qwen2.5-3B does). What tells them apart is whether the
    token that ends a turn in the template is also a token that ends generation.
    """
    end_of_turn = end_of_turn_id(tokenizer)
    return end_of_turn is not None and end_of_turn in _eos_ids(tokenizer, generation)


def _eos_ids(tokenizer: PreTrainedTokenizerBase, generation: GenerationConfig | None) -> list[int]:
    """The generation config states what the model was trained to stop at; the tokenizer is asked only without one."""
    stated = generation.eos_token_id if generation is not None else None
    if stated is None:
        stated = tokenizer.eos_token_id
    if stated is None:
        return []
    return [stated] if isinstance(stated, int) else list(stated)


def _render(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], add_generation_prompt: bool = False
) -> list[int]:
    stated = tokenizer.chat_control_tokens
    tokenizer.chat_control_tokens = list(_control_tokens(tokenizer))  # else all that the template writes, pieces too
    try:
        ids: list[int] = tokenizer.apply_chat_template(
            list(messages),
            tokenize=True,
            return_dict=False,
            add_generation_prompt=add_generation_prompt,
            sanitize_control_tokens=True,
        )
    finally:
        tokenizer.chat_control_tokens = stated
    return ids


def _apply_template(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], add_generation_prompt: bool
) -> str:
    text: str = tokenizer.apply_chat_template(
        list(messages), tokenize=False, add_generation_prompt=add_generation_prompt
    )
    return text


def _answers(messages: Sequence[Message]) -> list[int]:
    return [position for position, message in enumerate(messages) if message["role"] == "assistant"]


def _labels(
    control: Container[int], ids: list[int], prompts_and_turns: Sequence[tuple[list[int], list[int]]]
) -> list[int]:
    """Return the labels of a conversation, given its beginnings up to the start and to the end of each answer."""
    labels = [IGNORE] * len(ids)
    for prompt, turn in prompts_and_turns:
        if ids[: len(prompt)] != prompt or ids[: len(turn)] != turn:
            raise ChatFormatError(
                "the chat template changes the beginning of a conversation when a turn is added, "
                "so the answers cannot be told from the prompt; use another template (key `template`)"
            )
        end = _last_control_token(control, turn, len(prompt))
        labels[len(prompt) : end + 1] = ids[len(prompt) : end + 1]
    return labels


def _encode_chats(
    tokenizer: PreTrainedTokenizerBase, chats: Sequence[tuple[Sequence[Message], bool]]
) -> list[list[int]]:
    """Return the ids of conversations, each given with whether the start of the next answer is to be added."""
    rendered = [_apply_template(tokenizer, messages, prompt) for messages, prompt in chats]
    distinct = list(dict.fromkeys(rendered))  # a conversation of one answer ends where that answer does
    encoded = dict(zip(distinct, _encode_all(tokenizer, distinct), strict=True))
    ids = [encoded[text] for text in rendered]
    # Where no message writes a control token there is nothing to take for text; the others go one by one.
    control = regex.compile("|".join(map(regex.escape, _control_tokens(tokenizer))) or r"(?!)")
    for k, (messages, prompt) in enumerate(chats):
        if any(control.search(message["content"]) for message in messages):
            ids[k] = _render(tokenizer, messages, prompt)
    return ids


def _encode_all(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], control_tokens_are_text: bool = False
) -> list[list[int]]:
    """Return the ids of texts as the tokenizer does, without the masks and offsets that take it a third longer."""
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = control_tokens_are_text
    return [encoding.ids for encoding in backend.encode_batch_fast(list(texts), add_special_tokens=False)]


def _control_tokens(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """Return the added tokens that structure a conversation: the special ones, and others that the template writes.

    The rest are pieces of text, of which an extended vocabulary has thousands. A template may write those too, as in a
    system prompt of its own; what structures holds a sign of no one script, as ``<`` or ``[``, which a piece does not.
    """
    template = tokenizer.chat_template or ""
    added = tokenizer.added_tokens_decoder.items()
    return {
        token.content: index
        for index, token in added
        if token.special or (token.content in template and _SIGN.search(token.content))
    }


def _last_control_token(control: Container[int], turn: list[int], start: int) -> int:
    """Return the index of the last control token of a turn that starts at ``start``: its end-of-turn token."""
    for index in range(len(turn) - 1, start - 1, -1):
        if turn[index] in control:
            return index
    raise ChatFormatError(
        "the chat template writes no control token after an answer, so the model cannot learn to stop"
    )
