"""Teach a large language model a language it does not speak well: the library behind the six numbered scripts."""

import logging
import os

__version__ = "0.1.0"

# Before torch is imported: idle OpenMP threads sleep instead of spinning. On a CPU that something else uses too,
# spinning threads hold up the ones they wait for; a small model then trains 2 to 20 times slower (EXPERIMENTS.md).
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# transformers imports bitsandbytes where it is installed, which then warns of an optional kernel that we do without.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
