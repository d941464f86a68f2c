"""Ground: a model folder - checking it, opening it, its tokenizer and its chat format.

What needs torch is loaded when it is asked for: a stage that only counts tokens starts seconds sooner.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from langadapt.models.chat import (
    IGNORE,
    ChatFormatError,
    Message,
    beginning_ids,
    conversation,
    encode_conversation,
    encode_prompt,
    encode_text,
    encode_texts,
    end_of_turn_id,
    is_chat_model,
    stop_token_ids,
    user_turn,
)
from langadapt.models.folder import check_model_folder, find_model
from langadapt.models.tokenizer import load_tokenizer

if TYPE_CHECKING:
    from langadapt.models.loading import load_model, pick_device, pick_dtype

__all__ = [
    "IGNORE",
    "ChatFormatError",
    "Message",
    "beginning_ids",
    "check_model_folder",
    "conversation",
    "encode_conversation",
    "encode_prompt",
    "encode_text",
    "encode_texts",
    "end_of_turn_id",
    "find_model",
    "is_chat_model",
    "load_model",
    "load_tokenizer",
    "pick_device",
    "pick_dtype",
    "stop_token_ids",
    "user_turn",
]


def __getattr__(name: str) -> Any:
    if name not in ("load_model", "pick_device", "pick_dtype"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.loading"), name)
