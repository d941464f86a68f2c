"""What benchmarks/training_speed.py runs inside another system's environment: only transformers is imported from it.

python benchmarks/step_timer.py RECIPE.yaml RESULT.json WARMUP      trains with LLaMA-Factory, timed
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from transformers import Trainer, TrainerCallback


class StepTimer(TrainerCallback):
    """Times all steps but the first few; writes real tokens a second, and the share of the positions that is padding.

    The Trainer has to count its tokens: ``include_num_input_tokens_seen="non_padding"``.
    """

    def __init__(self, result: str, warmup: int) -> None:
        self.result, self.warmup, self.positions = result, warmup, 0
        plain_step = Trainer.training_step

        def counted_step(trainer: Trainer, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
            self.positions += inputs["input_ids"].numel()
            return plain_step(trainer, model, inputs, *args, **kwargs)

        Trainer.training_step = counted_step

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Start the clock after the last step that is not timed."""
        if state.global_step == self.warmup:
            self.start, self.first = time.perf_counter(), (int(state.num_input_tokens_seen), self.positions)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Write the result."""
        seconds = time.perf_counter() - self.start
        tokens, positions = int(state.num_input_tokens_seen) - self.first[0], self.positions - self.first[1]
        with open(self.result, "w", encoding="utf-8") as handle:
            json.dump({"tokens_per_second": tokens / seconds, "padding": 1 - tokens / positions}, handle)


if __name__ == "__main__":
    from llamafactory.train.tuner import run_exp

    recipe, result, warmup = sys.argv[1:]
    sys.argv[1:] = [recipe]
    run_exp(callbacks=[StepTimer(result, int(warmup))])
