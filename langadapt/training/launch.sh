# Sourced by 2_train_cpt.sh and 3_train_sft.sh, which set DEFAULT_CONFIG. Finds the recipe and the Python, then hands over
# to langadapt.training.launch, which checks everything and starts one process a GPU.

# A recipe named from where the user stands; every path inside a recipe is relative to the repository.
config=$DEFAULT_CONFIG
flags=()
while [[ $# -gt 0 && $1 == -* ]]; do
  if [[ $# -gt 1 && $1 =~ ^--(gpus|gpu|gpu_memory|mfu)$ ]]; then
    flags+=("$1")
    shift
  fi
  flags+=("$1")
  shift
done
if [[ $# -gt 0 && $1 != *=* ]]; then
  config=$1
  shift
  if [[ -f $config ]]; then config=$(realpath "$config"); fi
fi
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
config=${config#"$PWD/"}

if [[ -z ${PYTHON:-} ]]; then
  PYTHON=python3
  if [[ -x .venv/bin/python ]]; then PYTHON=.venv/bin/python; fi
fi
if ! "$PYTHON" -c 'import importlib.util, sys; sys.exit(importlib.util.find_spec("torch") is None)'; then
  echo "error: $PYTHON has no torch. Make the environment with: make venv (or name another interpreter in PYTHON)." >&2
  exit 2
fi
exec "$PYTHON" -m langadapt.training.launch "$config" "${flags[@]}" "$@"
