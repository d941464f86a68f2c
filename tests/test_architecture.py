"""The rule of docs/ARCHITECTURE.md on who may import whom, read from the source."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from conftest import REPOSITORY

GROUND = {"errors": set(), "text": set(), "files": {"errors"}}
GROUND["recipe"] = {"errors", "files"}
GROUND["metrics"] = {"errors", "recipe", "text"}
GROUND["models"] = GROUND["figures"] = GROUND["pages"] = {"errors", "files", "recipe"}
ROOMS: dict[str, set[str]] = {room: set(GROUND) for room in ("corpus", "training", "inference", "weights", "runs")}
ROOMS["upload"] = {"errors", "files"}
ROOMS["evaluation"] = {*GROUND, "inference"}
SCRIPTS = {
    "1_preprocess.py": "corpus",
    "4_evaluate.py": "evaluation",
    "5_analyze_weights.py": "weights",
    "6_test_inference.py": "inference",
}
LIBRARY = REPOSITORY / "langadapt"


def imported(path: Path) -> set[str]:
    """The parts of langadapt that a file imports, wherever in the file."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            below = [f"{node.module}.{alias.name}" for alias in node.names]
            names |= set(below if node.module == "langadapt" else [node.module])
    return {name.split(".")[1] for name in names if name.startswith("langadapt.")}


def part_of(path: Path) -> str:
    return path.relative_to(LIBRARY).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", sorted(LIBRARY.rglob("*.py")), ids=lambda path: str(path.relative_to(LIBRARY)))
def test_library_imports_one_way(path: Path) -> None:
    part = part_of(path)
    if part == "__init__":
        assert not imported(path)
        return
    allowed = {**GROUND, **ROOMS}[part] | {part}
    assert imported(path) - {"__version__"} <= allowed


@pytest.mark.parametrize(("script", "room"), SCRIPTS.items())
def test_a_script_imports_its_room_and_the_ground(script: str, room: str) -> None:
    assert imported(REPOSITORY / script) <= {room, *GROUND}


def test_every_part_is_documented() -> None:
    parts = {part_of(path) for path in LIBRARY.rglob("*.py")} - {"__init__"}
    assert parts == {*GROUND, *ROOMS}
    page = (REPOSITORY / "docs/ARCHITECTURE.md").read_text(encoding="utf-8")
    assert all(f"  {part}" in page for part in parts)


@pytest.mark.parametrize(
    "path", sorted([*LIBRARY.rglob("*.py"), *REPOSITORY.glob("[1-6]_*")]), ids=lambda path: path.name
)
def test_files_stay_short(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= (200 if path.parent == REPOSITORY else 350)
