#!/usr/bin/env bash
# What one GPU does, in about ten minutes of an H100 and without a network: updates and sampling at
# 0.5B and 1B in bfloat16, with attention by XLA and by cuDNN, and sampling with pages read by a
# kernel; whether these agree; and a round of IRPO on a real model.
#
#   experiments/speed/gpu.sh OUT [MODEL DATA]
#
# OUT: where figures, logs and the run go; a figure that is there is not measured again. MODEL, DATA:
# as in experiments.real.problems; without them there is no round of IRPO.
set -euo pipefail

if [ $# -ne 1 ] && [ $# -ne 3 ]; then
  echo "usage: $0 OUT [MODEL DATA]" >&2
  exit 2
fi
out=$1 model=${2:-} data=${3:-}
mkdir -p "$out"

python3 - <<'PYTHON'
import importlib.util
import sys

import jax

wanted = 'flax optax orbax transformers ml_collections scipy matplotlib pytest'
if missing := [name for name in wanted.split() if importlib.util.find_spec(name) is None]:
    sys.exit(f'not installed: {", ".join(missing)}')
if jax.default_backend() != 'gpu':
    sys.exit(f'jax {jax.__version__} sees no GPU, only {jax.devices()}')
print(f'jax {jax.__version__} on {jax.devices()[0].device_kind}')
PYTHON

failed=0
for shape in 0.5b 1b; do
  for attention in xla cudnn cudnn_paged; do
    name=$shape-$attention only=both
    if [ "$attention" = cudnn_paged ]; then
      only=sample  # its update is that of cudnn
    fi
    if [ -s "$out/$name.json" ]; then
      continue
    fi
    python3 -m experiments.speed.run --shape="$shape" --dtype=bfloat16 --attention="$attention" \
      --only="$only" --pairs=64 --prompts=64 --json="$out/$name.json" 2> "$out/$name.log" |
      tee "$out/$name.txt" || { failed=1; echo "$name failed, see $out/$name.log" >&2; }
  done
done

# Forward and backward, and decoding, against plain products.
JAX_PLATFORMS=cuda python3 -m pytest -q -p no:cacheprovider tests/models/test_flash_attention.py \
  tests/models/test_paged_attention.py -k equals_plain_products | tee "$out/parity.txt" || failed=1

if [ -n "$model" ]; then
  python3 -m experiments.real.problems.run --folder="$out/problems" --model="$model" \
    --data="$data" --dtype=bfloat16 --rounds=1 --arms=irpo --seeds=0 2> "$out/problems.log" |
    tee "$out/problems.txt" || { failed=1; echo "the round failed, see $out/problems.log" >&2; }
fi
exit $failed
