"""What answers the page: who asks brings the whole conversation along, so that nothing of it is kept here.

Every browser tab has its own conversation; all share the models, and one answer is generated at a time. Answers are
sent as lines of JSON while they are being written.
"""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn
from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from langadapt.errors import UserError
from langadapt.inference.conversation import Conversation
from langadapt.inference.lineup import Lineup
from langadapt.inference.session import Reply, Session, as_record, ask, compare, seed
from langadapt.inference.showing import figures
from langadapt.inference.transcript import transcript
from langadapt.recipe import load_settings
from langadapt.recipe.inference import InferenceSettings, Sampling

_HERE = Path(__file__).parent
_HOST = "127.0.0.1"
_POLL = 0.1  # seconds between two looks at whether a question that waits for its turn is taken back
# The page may load its own script and style and ask this server; nothing else, whatever a model writes.
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}
Put = Callable[[dict[str, Any] | None], None]  # sends an event to the page; None is the end


class Question(BaseModel):
    """What the page sends: a question, and all that its answer depends on."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str = ""  # by which it can be stopped
    model: str
    question: str = ""
    compare: bool = False  # ask all models, apart from the conversation
    system: str = ""
    exchanges: list[tuple[str, str]] = []
    sampling: dict[str, str] = {}  # as typed


def run(settings: InferenceSettings) -> None:
    """Load the first model, say where the page is, and serve it until Ctrl-C."""
    lineup = Lineup(settings)
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((_HOST, settings.web_port))
        except OSError as error:
            raise UserError(
                f"web_port={settings.web_port}: {error.strerror}. Choose another, or 0 for any that is free."
            ) from None
        lineup.get(lineup.names[0])
        print(f"http://{_HOST}:{listening.getsockname()[1]} (on this machine alone; Ctrl-C ends)", flush=True)
        config = uvicorn.Config(
            make_app(lineup, settings), lifespan="off", ws="none", log_level="warning", timeout_graceful_shutdown=5
        )
        with suppress(KeyboardInterrupt):
            _Server(config).run(sockets=[listening])


class _Server(uvicorn.Server):
    """A server that stops the answers which are being generated when it is told to end, and does not wait for them."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        for stop in list(self.config.app.state.stops.values()):  # type: ignore[union-attr]
            stop.set()
        super().handle_exit(sig, frame)


def make_app(lineup: Lineup, settings: InferenceSettings) -> Starlette:
    """Return the application: the page and its files, and what the page asks for.

    Its ``state.stops`` are the events that stop the answers which are being generated, by their id.
    """
    busy = threading.Lock()
    stops: dict[str, threading.Event] = {}

    def start(request: Request) -> Response:
        sampling = {key: getattr(settings, key) for key in Sampling.model_fields}
        return JSONResponse(
            {
                "models": [{"name": name, "path": lineup.path(name)} for name in lineup.names],
                "system": settings.system or "",
                "sampling": [
                    {"key": key, "value": "" if value is None else str(value), "meaning": field.description}
                    for (key, value), field in zip(sampling.items(), Sampling.model_fields.values(), strict=True)
                ],
            }
        )

    async def answer(request: Request) -> Response:
        question = await _read(request)
        session = _session(lineup, settings, question)
        stop = stops[question.id] = threading.Event()
        session.stop_requested = stop.is_set
        return StreamingResponse(_lines(session, question, stop), media_type="application/x-ndjson", headers=_HEADERS)

    async def _lines(session: Session, question: Question, stop: threading.Event) -> AsyncIterator[str]:
        loop, events = asyncio.get_running_loop(), asyncio.Queue[dict[str, Any] | None]()

        def put(event: dict[str, Any] | None) -> None:
            loop.call_soon_threadsafe(events.put_nowait, event)

        working = loop.run_in_executor(None, _in_turn, busy, session, question, put)
        try:
            while (event := await events.get()) is not None:
                yield json.dumps(event) + "\n"
            await working  # raises what went wrong, for the server's log
        finally:  # also when the browser has gone
            stop.set()
            stops.pop(question.id, None)

    async def stop(request: Request) -> Response:
        event = stops.get((await _read(request)).id)
        if event is not None:
            event.set()
        return Response(status_code=204)

    async def save(request: Request) -> Response:
        question = await _read(request)
        session = _session(lineup, settings, question)
        return JSONResponse(transcript(session.conversation, session.settings, lineup.path(session.model)))

    app = Starlette(
        routes=[
            Route("/", _file("page.html")),
            Route("/page.css", _file("page.css")),
            Route("/page.js", _file("page.js")),
            Route("/start", start),
            Route("/answer", answer, methods=["POST"]),
            Route("/stop", stop, methods=["POST"]),
            Route("/transcript", save, methods=["POST"]),
        ],
        # Another site's page cannot pass for this one by giving its own name this machine's address.
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=[_HOST, "localhost"])],
    )
    app.state.stops = stops
    return app


def _file(name: str) -> Callable[[Request], Response]:
    return lambda request: FileResponse(_HERE / name, headers=_HEADERS)


async def _read(request: Request) -> Question:
    """Return what a request holds; refuse it when it comes from the page of another site."""
    origin = request.headers.get("origin")
    if origin not in (None, f"http://{request.headers['host']}"):
        raise HTTPException(403, "asked from another site")
    try:
        return Question.model_validate_json(await request.body())
    except ValidationError as error:
        raise HTTPException(400, str(error)) from None


def _session(lineup: Lineup, settings: InferenceSettings, question: Question) -> Session:
    """Return a session that stands where the page's conversation stands."""
    try:
        sampling = load_settings(Sampling, None, [f"{key}={value}" for key, value in question.sampling.items()])
    except UserError as error:
        raise HTTPException(400, str(error)) from None
    if question.model not in lineup.names:
        raise HTTPException(400, f"no model {question.model!r} here; there are: {', '.join(lineup.names)}")
    return Session(
        lineup,
        settings.model_copy(update=dict(sampling)),
        question.model,
        conversation=Conversation(question.system or None, list(question.exchanges)),
    )


def _in_turn(busy: threading.Lock, session: Session, question: Question, put: Put) -> None:
    """Answer a question when no other is being answered, and put what happens, the end included."""
    try:
        if not busy.acquire(blocking=False):
            put({"waiting": True})
            while not busy.acquire(timeout=_POLL):
                if session.stop_requested():
                    return
        try:
            _answer(session, question, put)
        finally:
            busy.release()
    except UserError as error:
        put({"error": str(error)})
    except Exception:
        put({"error": "the server failed; the terminal in which it runs says why."})
        raise
    finally:
        put(None)


def _answer(session: Session, question: Question, put: Put) -> None:
    def emit(name: str, piece: str) -> None:
        put({"model": name, "piece": piece})

    seed(session.settings)
    if question.compare:
        for reply in compare(session, question.question, emit):
            put(_told(reply))
        for name, why in session.refusals.items():
            put({"refused": name, "why": why})
    else:
        emit(session.model, "")
        put(_told(ask(session, question.question, lambda piece: emit(session.model, piece))))


def _told(reply: Reply) -> dict[str, Any]:
    return {
        "reply": as_record(reply),
        "figures": figures(reply.answer),
        "title": reply.title,
        "chat": reply.kind == "chat",
        "forgotten": reply.forgotten,
    }
