"""A conversation as a file: JSON with its messages, the way it was sampled, and the model's path."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from langadapt import __version__
from langadapt.errors import UserError
from langadapt.files import read_json_object, write_json
from langadapt.inference.conversation import Conversation
from langadapt.recipe import load_settings
from langadapt.recipe.inference import Sampling

_OURS = "langadapt"  # the key by which a file of this kind is known


def save_conversation(path: Path, conversation: Conversation, sampling: Sampling, model: str) -> None:
    """Write a conversation. Raises `UserError` where there is a file already that is no saved conversation."""
    if path.exists():
        try:
            known = _OURS in read_json_object(path)
        except UserError:
            known = False
        if not known:
            raise UserError(f"{path}: is there already, and no saved conversation. Choose another name.")
    write_json(path, transcript(conversation, sampling, model))


def transcript(conversation: Conversation, sampling: Sampling, model: str) -> dict[str, Any]:
    """Return what the file of a conversation holds; ``model`` is the path of the model that answered."""
    return {
        _OURS: __version__,
        "model": model,
        "sampling": {key: getattr(sampling, key) for key in Sampling.model_fields},
        "messages": conversation.messages(),
    }


def load_conversation(path: Path) -> tuple[Conversation, Sampling, str | None]:
    """Return a saved conversation, how it was sampled, and the path of the model that answered.

    Raises `UserError` for a file that is none: messages are {role, content}, an optional system prompt, then user and
    assistant in turn.
    """
    saved = read_json_object(path)
    messages = saved.get("messages")
    if not isinstance(messages, list) or not all(map(_is_message, messages)):
        raise UserError(f"{path}: no saved conversation: `messages` is no list of {{role, content}}.")
    system = messages[0]["content"] if messages and messages[0]["role"] == "system" else None
    turns = messages[1:] if system is not None else messages
    roles = [message["role"] for message in turns]
    if roles != ["user", "assistant"] * (len(turns) // 2):
        raise UserError(f"{path}: no saved conversation: user and assistant do not take turns in `messages`.")
    exchanges = [(turns[k]["content"], turns[k + 1]["content"]) for k in range(0, len(turns), 2)]
    overrides = [f"{key}={_yaml(value)}" for key, value in dict(saved.get("sampling") or {}).items()]
    try:
        sampling = load_settings(Sampling, None, overrides)
    except UserError as error:
        raise UserError(f"{path}: `sampling`: {error}") from None
    model = saved.get("model")
    return Conversation(system, exchanges), sampling, model if isinstance(model, str) else None


def _is_message(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(value.get(key), str) for key in ("role", "content"))


def _yaml(value: Any) -> str:
    return "null" if value is None else str(value)
