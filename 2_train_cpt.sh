#!/usr/bin/env bash
# Stage 2, continual pretraining: teaches a base model to read and write the language.
#
#   bash 2_train_cpt.sh [CONFIG] [key=value ...]
#   bash 2_train_cpt.sh configs/quickstart/cpt.yaml num_train_epochs=2 seed=1
#   bash 2_train_cpt.sh --dry_run [--gpus 8 --gpu H100 --gpu_memory 80 --mfu 0.4]     what it would take; trains nothing
#
# Trains on every visible GPU, or on the CPU where there is none; run again, it resumes from the last checkpoint.
# NPROC_PER_NODE, NNODES, NODE_RANK, MASTER_ADDR and MASTER_PORT mean what they mean to torchrun; PYTHON names another
# interpreter than .venv/bin/python.
set -euo pipefail
DEFAULT_CONFIG=configs/tibetan_qwen2.5_3b/cpt.yaml
source "$(dirname "${BASH_SOURCE[0]}")/langadapt/training/launch.sh"
