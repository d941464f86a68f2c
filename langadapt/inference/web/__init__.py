"""A page on this machine to talk to models and to compare them."""

from __future__ import annotations

from importlib.util import find_spec

from langadapt.errors import UserError
from langadapt.recipe.inference import InferenceSettings


def serve(settings: InferenceSettings) -> None:
    """Serve the page at 127.0.0.1, port ``web_port``, until Ctrl-C.

    Raises `UserError` where the packages for it are not installed, and for a port that is taken.
    """
    if find_spec("starlette") is None or find_spec("uvicorn") is None:
        raise UserError("--web needs two more packages: pip install starlette uvicorn.")
    from langadapt.inference.web.server import run

    run(settings)
