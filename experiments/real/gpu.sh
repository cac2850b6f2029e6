#!/usr/bin/env bash
# Studies 1 and 3 on one GPU, in bfloat16, with more prompts than two cores can take. No network.
#
#   experiments/real/gpu.sh MODEL DATA OUT
#
# MODEL: a folder of SmolLM2-135M-Instruct, whose model.safetensors may lie in parts
# (model.safetensors.part-00, -01, …) that `split --bytes=60M` made. DATA: as in experiments.real.
# OUT: where runs and results go; a run that is there is read, not repeated, and the arms that matter
# most are run first, so that whatever the time allows is whole.
set -euo pipefail

if [ $# -ne 3 ]; then
  echo "usage: $0 MODEL DATA OUT" >&2
  exit 2
fi
model=$1 data=$2 out=$3

python - "$data" <<'PYTHON'
import importlib.util
import os
import sys

import jax

wanted = 'flax optax orbax.checkpoint transformers ml_collections math_verify tensorboardX matplotlib'
missing = [name for name in wanted.split() if importlib.util.find_spec(name.split('.')[0]) is None]
if missing:
    sys.exit(f'not installed: {", ".join(missing)}')
if jax.default_backend() != 'gpu':
    sys.exit(f'jax {jax.__version__} sees no GPU, only {jax.devices()}')
for name in ('alpaca/alpaca_random_9k.json.gz', 'asdiv/ASDiv.xml', 'svamp/svamp_dev_700.jsonl'):
    if not os.path.exists(os.path.join(sys.argv[1], name)):
        sys.exit(f'{sys.argv[1]} has no {name}')
print(f'jax {jax.__version__} on {jax.devices()[0].device_kind}')
PYTHON

mkdir -p "$out"
if [ ! -e "$model/model.safetensors" ]; then
  mkdir -p "$out/model"
  find "$model" -maxdepth 1 -type f ! -name '*.part-*' -exec cp {} "$out/model" \;
  cat "$model"/model.safetensors.part-* > "$out/model/model.safetensors"
  model=$out/model
fi

common=(--model="$model" --data="$data" --dtype=bfloat16)
for seed in 0 1 2; do
  python -m experiments.real.instructions.run --folder="$out/instructions" "${common[@]}" \
    --prompts=1024 --seeds="$(seq -s, 0 "$seed")" --arms=dpo,irpo,sft
  python -m experiments.real.problems.run --folder="$out/problems" "${common[@]}" \
    --samples=16 --rounds=3 --seeds="$(seq -s, 0 "$seed")" --arms=irpo,own_sft,sft
done
