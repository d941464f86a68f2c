#!/usr/bin/env bash
# Stage 3, supervised fine-tuning: teaches the model of stage 2 to follow instructions and to translate.
#
#   bash 3_train_sft.sh [CONFIG] [key=value ...]
#   bash 3_train_sft.sh configs/quickstart/sft.yaml learning_rate=2e-5 output_dir=saves/trial
#
# Trains on every visible GPU, or on the CPU where there is none; run again, it resumes from the last checkpoint.
# NPROC_PER_NODE, NNODES, NODE_RANK, MASTER_ADDR and MASTER_PORT mean what they mean to torchrun; PYTHON names another
# interpreter than .venv/bin/python.
set -euo pipefail
DEFAULT_CONFIG=configs/tibetan_qwen2.5_3b/sft.yaml
source "$(dirname "${BASH_SOURCE[0]}")/langadapt/training/launch.sh"
