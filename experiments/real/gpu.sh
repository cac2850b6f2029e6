#!/usr/bin/env bash
# Studies 1 and 3 on one GPU, in bfloat16, with more prompts than two cores can take. No network.
#
#   experiments/real/gpu.sh MODEL DATA OUT
#
# MODEL: a folder or GGUF file of SmolLM2-135M-Instruct; or the name of a file of which there are
# parts alone (MODEL.part-00, -01, …), as `split -d --bytes=60M` makes them. DATA: as in
# experiments.real. OUT: where runs, logs and results go; a run that is there is read, not repeated.
# The seeds of both studies run side by side and share the GPU.
set -euo pipefail

if [ $# -ne 3 ]; then
  echo "usage: $0 MODEL DATA OUT" >&2
  exit 2
fi
model=$1 data=$2 out=$3
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
sources = ('alpaca/alpaca_random_9k.json.gz', 'asdiv/ASDiv.xml', 'svamp/svamp_dev_700.jsonl')
if missing := [p for p in (model, *(os.path.join(data, s) for s in sources)) if not os.path.exists(p)]:
    sys.exit(f'not there: {", ".join(missing)}')
print(f'jax {jax.__version__} on {jax.devices()[0].device_kind}')
PYTHON

study() { # NAME SEEDS: a study with these seeds
  local sizes=(--prompts=1024 --arms=dpo,irpo,sft)
  [ "$1" = problems ] && sizes=(--samples=16 --rounds=3 --arms=irpo,sft)
  python3 -m "experiments.real.$1.run" --folder="$out/$1" --model="$model" --data="$data" \
    --dtype=bfloat16 --seeds="$2" "${sizes[@]}"
}

export XLA_PYTHON_CLIENT_MEM_FRACTION=0.15 # of the GPU's memory, for each of six processes
processes=()
for name in instructions problems; do
  for seed in "${seeds[@]}"; do
    study "$name" "$seed" > "$out/$name-$seed.log" 2>&1 &
    processes+=($!)
  done
done
for process in "${processes[@]}"; do
  wait "$process" || echo "a run failed, see the logs in $out" >&2
done
for name in instructions problems; do # reads the runs, and writes results.json and tests.json
  study "$name" "$(IFS=,; echo "${seeds[*]}")" 2> "$out/$name.log" | tee "$out/$name.txt"
done
