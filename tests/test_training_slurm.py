"""The Slurm example, on a Slurm of three small scripts: two nodes that are this machine, signalled and queued again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import REPOSITORY
from runs import losses, recipe

SRUN = """#!/usr/bin/env bash
shift  # --kill-on-bad-exit=0
code=0
for node in 0 1; do
  SLURM_NODEID=$node "$@" &
  echo $! >> "$SLURM/steps"
done
for step in $(cat "$SLURM/steps"); do
  wait "$step" || code=$?
done
exit $code
"""
SCANCEL = '#!/usr/bin/env bash\nkill -USR1 $(cat "$SLURM/steps")\n'
SCONTROL = '#!/usr/bin/env bash\nif [[ $1 == show ]]; then echo localhost; else echo "$@" > "$SLURM/requeued"; fi\n'


@pytest.mark.slow
def test_two_nodes_are_signalled_saved_queued_again_and_go_on(tiny_model: Path, data: Path, tmp_path: Path) -> None:
    for name, script in (("srun", SRUN), ("scancel", SCANCEL), ("scontrol", SCONTROL)):
        (tmp_path / name).write_text(script)
        (tmp_path / name).chmod(0o755)
    changes = {"deepspeed": "configs/deepspeed/zero2.json", "gradient_accumulation_steps": 1}
    config = recipe("pt", tiny_model, data, tmp_path / "run", save_steps=10**6, max_steps=2000, **changes)

    def submit(*overrides: str) -> subprocess.Popen[str]:
        (tmp_path / "steps").unlink(missing_ok=True)
        slurm = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_JOB_NODELIST": "this", "SLURM_NNODES": "2"}
        slurm |= {"SLURM": str(tmp_path), "PATH": f"{tmp_path}:{os.environ['PATH']}"}
        environment = os.environ | slurm | {"PYTHON": sys.executable, "NPROC_PER_NODE": "1", "OMP_NUM_THREADS": "1"}
        command = ["bash", "docs/slurm.sbatch", "2_train_cpt.sh", str(config), *overrides]
        return subprocess.Popen(
            command, cwd=REPOSITORY, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )

    job = submit()
    while not (tmp_path / "run" / "training_log.jsonl").exists():
        assert job.poll() is None, job.communicate()[0]
        time.sleep(0.05)
    job.send_signal(signal.SIGUSR1)
    output, _ = job.communicate(timeout=200)
    assert job.returncode == 75, output
    assert "stopped after step" in output
    assert (tmp_path / "requeued").read_text().split()[0] == "requeue"
    (checkpoint,) = (tmp_path / "run").glob("checkpoint-*")
    step = int(checkpoint.name.partition("-")[2])

    job = submit(f"max_steps={step + 3}")
    output, _ = job.communicate(timeout=200)
    assert job.returncode == 0, output
    assert [number for number, _ in losses(tmp_path / "run")] == list(range(1, step + 4))
