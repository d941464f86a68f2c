"""Instruction records of every layout as one: a system prompt, earlier turns, the last user turn and its answer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

Message = tuple[str, str]  # role, text

_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}


class BadRecordError(ValueError):
    """What is wrong with one record."""


@dataclass(frozen=True)
class Conversation:
    """A conversation up to the answer to learn; ``rejected`` is the answer not preferred."""

    instruction: str
    input: str
    output: str
    system: str = ""
    history: list[tuple[str, str]] = field(default_factory=list)
    rejected: str | None = None


def read_instruction(record: dict[str, Any]) -> Conversation:
    """Return a record of the Alpaca (instruction, input, output), ShareGPT or messages layout, told by its keys.

    Raises `BadRecordError` for other keys, values that are no texts, and turns that do not alternate or do not end
    with the assistant.
    """
    for key in ("conversations", "messages"):
        if record.get(key) is not None:
            return _conversation(_messages(record[key], key), text_of(record, "system"))
    if not {"instruction", "input", "output"} & set(record):
        raise BadRecordError(
            f"none of `instruction`, `input`, `output`, `conversations`, `messages` among the keys {', '.join(record)}"
        )
    history = record.get("history") or []
    if not (isinstance(history, list) and all(_is_exchange(turn) for turn in history)):
        raise BadRecordError("`history` is no list of [user, assistant] pairs of texts")
    return Conversation(
        instruction=text_of(record, "instruction"),
        input=text_of(record, "input"),
        output=text_of(record, "output"),
        system=text_of(record, "system"),
        history=[(user, assistant) for user, assistant in history],
    )


def read_preference(record: dict[str, Any]) -> Conversation:
    """Return a record with a ``chosen`` and a ``rejected`` answer: texts to a ``prompt``, or lists of messages.

    Raises `BadRecordError` as `read_instruction` does, and where the answers are to different prompts.
    """
    both = []
    for key in ("chosen", "rejected"):
        if key not in record:
            raise BadRecordError(f"the key `{key}` is missing")
        messages = _messages(record[key], key, "assistant")
        if messages[:1] and messages[0][0] == "assistant":  # an answer alone; whole conversations begin otherwise
            messages = _messages(record.get("prompt"), "prompt", "user") + messages
        both.append(_conversation(messages, text_of(record, "system")))
    chosen, rejected = both
    if (chosen.system, chosen.history, chosen.instruction) != (rejected.system, rejected.history, rejected.instruction):
        raise BadRecordError("`chosen` and `rejected` answer different prompts")
    return Conversation(
        instruction=chosen.instruction,
        input="",
        output=chosen.output,
        system=chosen.system,
        history=chosen.history,
        rejected=rejected.output,
    )


def text_of(record: dict[str, Any], key: str) -> str:
    """Return a text of a record, empty where it is missing or null; raise `BadRecordError` for anything else."""
    value = record.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise BadRecordError(f"`{key}` is {type(value).__name__}, expected a text")
    return value


def _messages(value: Any, key: str, role: str | None = None) -> list[Message]:
    """Return the messages of a list; a text is one message of ``role``, if that is given."""
    if role and (value is None or isinstance(value, str)):
        return [(role, value or "")]
    if not isinstance(value, list) or not all(isinstance(message, dict) for message in value):
        raise BadRecordError(f"`{key}` is {type(value).__name__}, expected a list of messages")
    return [_message(message) for message in value]


def _message(message: dict[str, Any]) -> Message:
    speaker, content = ("role", "content") if "role" in message else ("from", "value")
    role = _ROLES.get(text_of(message, speaker))
    if role is None:
        raise BadRecordError(f"a message is from {message.get(speaker)!r}; known are {', '.join(_ROLES)}")
    return role, text_of(message, content)


def _conversation(messages: list[Message], system: str) -> Conversation:
    if messages and messages[0][0] == "system":
        system, messages = messages[0][1], messages[1:]
    roles = [role for role, _ in messages]
    if not roles or roles[-1] != "assistant":
        raise BadRecordError("the conversation does not end with the assistant")
    if roles != ["user", "assistant"] * (len(roles) // 2):
        raise BadRecordError("the turns do not alternate between user and assistant")
    texts = [text for _, text in messages]
    *history, (instruction, output) = zip(texts[::2], texts[1::2], strict=True)
    return Conversation(instruction, "", output, system, history)


def _is_exchange(turn: Any) -> bool:
    return isinstance(turn, list | tuple) and len(turn) == 2 and all(isinstance(text, str) for text in turn)
