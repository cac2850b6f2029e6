#!/usr/bin/env bash
# Studies on one GPU, in bfloat16, with more prompts than two cores can take. No network.
#
#   experiments/real/gpu.sh MODEL DATA OUT [STUDY …]
#
# MODEL: a folder or GGUF file of SmolLM2-135M-Instruct; or the name of a file of which there are
# parts alone (MODEL.part-00, -01, …), as `split -d --bytes=60M` makes them. DATA: as in
# experiments.real. OUT: where runs, logs and results go; a run that is there is read, not repeated.
# STUDY: instructions, length, problems or judging; by default instructions and problems.
# The seeds of all run side by side and share the GPU.
set -euo pipefail

if [ $# -lt 3 ]; then
  echo "usage: $0 MODEL DATA OUT [STUDY …]" >&2
  exit 2
fi
model=$1 data=$2 out=$3
names=("${@:4}")
[ ${#names[@]} -gt 0 ] || names=(instructions problems)
seeds=(0 1 2)

mkdir -p "$out"
if [ ! -e "$model" ] && [ -e "$model.part-00" ]; then
  cat "$model".part-* > "$out/$(basename "$model")"
  model=$out/$(basename "$model")
fi

python3 - "$model" "$data" <<'PYTHON'
import importlib.util
import os
import sys

import jax

model, data = sys.argv[1:]
wanted = 'flax optax orbax transformers ml_collections math_verify tensorboardX matplotlib scipy'
wanted = [*wanted.split(), *(['gguf'] if model.endswith('.gguf') else [])]
if missing := [name for name in wanted if importlib.util.find_spec(name) is None]:
    sys.exit(f'not installed: {", ".join(missing)}')
if jax.default_backend() != 'gpu':
    sys.exit(f'jax {jax.__version__} sees no GPU, only {jax.devices()}')
if not os.path.exists(model):
    sys.exit(f'not there: {model}')
if not os.path.isdir(data):
    sys.exit(f'no folder: {data}')
print(f'jax {jax.__version__} on {jax.devices()[0].device_kind}')
PYTHON

study() { # NAME SEEDS: a study with these seeds
  local sizes=()
  case $1 in
    instructions) sizes=(--prompts=1024 --others=256 --arms=dpo,irpo,sft) ;;
    length) sizes=(--prompts=256) ;;
    problems) sizes=(--prompts=600 --samples=16 --rounds=3 --epochs=3) ;;
    judging) sizes=(--prompts=200 --asked=200 --longest=1200) ;;
  esac
  python3 -m "experiments.real.$1.run" --folder="$out/$1" --model="$model" --data="$data" \
    --dtype=bfloat16 --seeds="$2" "${sizes[@]}"
}

# Of the GPU's memory, for each process.
XLA_PYTHON_CLIENT_MEM_FRACTION=$(python3 -c "print(0.9 / ${#names[@]} / ${#seeds[@]})")
export XLA_PYTHON_CLIENT_MEM_FRACTION
processes=()
for name in "${names[@]}"; do
  for seed in "${seeds[@]}"; do
    study "$name" "$seed" > "$out/$name-$seed.log" 2>&1 &
    processes+=($!)
  done
done
for process in "${processes[@]}"; do
  wait "$process" || echo "a run failed, see the logs in $out" >&2
done
for name in "${names[@]}"; do # reads the runs, and writes results.json and tests.json
  study "$name" "$(IFS=,; echo "${seeds[*]}")" 2> "$out/$name.log" | tee "$out/$name.txt"
done
