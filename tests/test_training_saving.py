"""Checkpoints on disk: whole or not there, and known to be whole."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from conftest import REPOSITORY

from langadapt.errors import UserError
from langadapt.training.checkpoints import set_aside_damaged, steps_of
from langadapt.training.saving import RUN_FILE, STAGING, find_damage, publish, remove_checkpoint, require_space


def write_checkpoint(folder: Path, step: int) -> Path:
    staged = folder / STAGING / f"checkpoint-{step}"
    (staged / "global_step").mkdir(parents=True)
    (staged / "model.safetensors").write_bytes(bytes(1000))
    (staged / "global_step" / "rank_0.pt").write_bytes(b"moments")
    publish(folder / f"checkpoint-{step}", {"world_size": 1}, step)
    return folder / f"checkpoint-{step}"


def test_a_published_checkpoint_has_a_manifest_of_every_file(tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path, 3)
    manifest = json.loads((checkpoint / RUN_FILE).read_text())
    assert manifest["step"] == 3
    assert manifest["world_size"] == 1
    sums = "".join(f"{entry['sha256']}  {name}\n" for name, entry in manifest["files"].items())
    subprocess.run(["sha256sum", "--check", "--strict"], input=sums, cwd=checkpoint, text=True, check=True)
    assert set(manifest["files"]) == {"model.safetensors", "global_step/rank_0.pt"}
    assert find_damage(checkpoint) is None
    assert os.listdir(tmp_path) == ["checkpoint-3"]


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "harm", "said"),
    [
        ("model.safetensors", truncate, "500 bytes, not 1000"),
        ("model.safetensors", flip_a_bit, "model.safetensors has changed"),
        ("global_step/rank_0.pt", Path.unlink, "global_step/rank_0.pt is missing"),
        (RUN_FILE, Path.unlink, "missing or broken"),
        (RUN_FILE, truncate, "missing or broken"),
    ],
)
def test_the_newest_checkpoint_that_is_whole_counts_and_a_damaged_one_is_set_aside(
    tmp_path: Path, name: str, harm: object, said: str
) -> None:
    write_checkpoint(tmp_path, 4)
    newest = write_checkpoint(tmp_path, 12)
    assert set_aside_damaged(tmp_path) == []
    harm(newest / name)  # type: ignore[operator]
    (sentence,) = set_aside_damaged(tmp_path)
    assert "checkpoint-12 is damaged" in sentence
    assert said in sentence
    assert steps_of(tmp_path) == [4]
    assert (tmp_path / "damaged-checkpoint-12").is_dir()


def test_what_a_kill_left_is_deleted_at_the_next_start(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, 4)
    for left in (STAGING + "/checkpoint-8", ".deleting"):
        (tmp_path / left).mkdir(parents=True)
        (tmp_path / left / "model.safetensors").write_bytes(b"half")
    assert set_aside_damaged(tmp_path) == []
    assert os.listdir(tmp_path) == ["checkpoint-4"]


def test_a_checkpoint_of_the_same_step_is_replaced(tmp_path: Path) -> None:
    (write_checkpoint(tmp_path, 4) / "model.safetensors").write_bytes(b"other")
    assert find_damage(write_checkpoint(tmp_path, 4)) is None
    remove_checkpoint(tmp_path / "checkpoint-4")
    assert os.listdir(tmp_path) == []


def test_a_full_disk_is_found_before_the_checkpoint_is_begun(tmp_path: Path) -> None:
    require_space(tmp_path, 1000, step=4)
    with pytest.raises(UserError, match=r"step 4 takes 1000000\.00 GB, but .* GB are free"):
        require_space(tmp_path, 10**15, step=4)


def test_killed_at_any_moment_the_newest_checkpoint_is_whole(tmp_path: Path) -> None:
    """A process that does nothing but save, and keeps two, killed twelve times in the midst of it."""
    program = textwrap.dedent("""
        import os, sys
        from pathlib import Path
        from langadapt.training.checkpoints import set_aside_damaged, steps_of
        from langadapt.training.saving import publish, remove_checkpoint
        folder = Path(sys.argv[1])
        while True:
            for sentence in set_aside_damaged(folder):
                print(sentence, flush=True)
            print("ready", *steps_of(folder), flush=True)
            if sys.stdin.readline() == "":
                break
            child = os.fork()
            if child == 0:
                for step in range(max(steps_of(folder), default=0) + 1, 10**9):
                    staged = folder / ".saving" / f"checkpoint-{step}"
                    staged.mkdir(parents=True)
                    for name in "abc":
                        (staged / name).write_bytes(bytes([step % 256]) * 300_000)
                    publish(folder / f"checkpoint-{step}", {}, step)
                    for old in steps_of(folder)[:-2]:
                        remove_checkpoint(folder / f"checkpoint-{old}")
            print(child, flush=True)
            os.waitpid(child, 0)
    """)
    saver = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], cwd=REPOSITORY, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert saver.stdin
    assert saver.stdout
    newest = 0
    for kill in range(13):
        word, *steps = saver.stdout.readline().split()
        assert word == "ready", (kill, word, steps)  # else it is the sentence about a damaged one
        assert max(map(int, steps), default=0) >= newest
        newest = max(map(int, steps), default=0)
        if kill == 12:
            break
        print(file=saver.stdin, flush=True)
        child = int(saver.stdout.readline())
        time.sleep(0.05 + 0.0137 * kill)
        os.kill(child, signal.SIGKILL)
    saver.stdin.close()
    assert saver.wait(60) == 0
    saver.stdout.close()
    assert newest > 10
    assert find_damage(tmp_path / f"checkpoint-{newest}") is None


def test_a_rank_ends_with_its_launcher() -> None:
    """At once where it is gone already, and when it is killed later: else two runs could write side by side."""
    rank = "import time; from langadapt.training.stopping import end_with_launcher; end_with_launcher(); "
    gone = subprocess.run([sys.executable, "-c", rank], cwd=REPOSITORY, env=os.environ | {"LANGADAPT_LAUNCHER": "1"})
    assert gone.returncode == 75

    start = (
        "import os, subprocess, sys; os.environ['LANGADAPT_LAUNCHER'] = str(os.getpid()); "
        "child = subprocess.Popen([sys.executable, '-c', sys.argv[1]], start_new_session=True); child.wait()"
    )
    rank += "print('listening', flush=True); time.sleep(60)"
    launcher = subprocess.Popen([sys.executable, "-c", start, rank], cwd=REPOSITORY, text=True, stdout=subprocess.PIPE)
    assert launcher.stdout
    assert launcher.stdout.readline() == "listening\n"
    launcher.kill()
    began = time.monotonic()
    assert launcher.stdout.read() == "", "the rank holds the pipe as long as it lives"
    assert time.monotonic() - began < 30
    launcher.stdout.close()
    launcher.wait()
