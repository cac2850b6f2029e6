"""A run's model as a Hugging Face folder, for transformers, vLLM and the hub. Layer 8.

python -m selfrew.export --workdir=runs/quickstart --folder=out
"""

import argparse
import json
import os
import shutil
import sys

from selfrew.engine import train_state
from selfrew.models import decoder, hf, language_model
from selfrew.run import binding, checkpoint
from selfrew.run.stage import Folder
from selfrew.run.turns import bind_turns


def save(folder: str, lm, params, *, dtype: str = 'float32', shard_bytes: int = 4 << 30) -> None:
    """Writes what transformers loads: config, tensors, tokenizer, chat template, generation config;
    adapters merged.

    Args: dtype, of the stored tensors. shard_bytes: a file is closed before it grows beyond that.
    Raises ValueError where the folder is the one that the model came from, or holds something else.
    """
    if lm.folder is None:
        raise ValueError(
            'this model came from no folder, so there is no config.json to write; see models.hf.write'
        )
    if os.path.isdir(folder) and os.path.realpath(folder) == os.path.realpath(lm.folder):
        raise ValueError(f'{folder} is where the model came from; save it elsewhere')
    if (
        os.path.isdir(folder)
        and os.listdir(folder)
        and not os.path.exists(os.path.join(folder, 'config.json'))
    ):
        raise ValueError(f'{folder} is not empty and holds no checkpoint; choose another folder')
    os.makedirs(folder, exist_ok=True)
    lm.text.tokenizer.save_pretrained(folder)
    before = os.path.join(lm.folder, 'generation_config.json')
    if os.path.exists(before):
        shutil.copy(before, folder)
    else:
        ids = {
            'bos_token_id': lm.text.bos,
            'eos_token_id': list(lm.text.ends),
            'pad_token_id': lm.text.pad,
        }
        hf.dump(
            folder,
            'generation_config.json',
            {name: value for name, value in ids.items() if value is not None},
        )
    fields = hf.read_json(lm.folder)
    hf.write(
        folder,
        fields,
        lm.config,
        decoder.merge_adapters(lm.module, params),
        dtype=dtype,
        shard_bytes=shard_bytes,
    )


def restored(workdir: str, turn: str | None = None):
    """(lm, params, name of the turn) of a run. ValueError where it has no such state."""
    try:
        with open(os.path.join(workdir, 'config.json')) as file:
            config = json.load(file)
    except FileNotFoundError:
        raise ValueError(f'{workdir!r} is not a run: it has no config.json') from None
    turns = {
        t.name: t
        for t in bind_turns(**{k: config.get(k) for k in ('rounds', 'round', 'start', 'by_round')})
    }
    kept = [name for name in turns if Folder(workdir, name).has('state')]
    if not kept or (turn is not None and turn not in kept):
        raise ValueError(
            f'{workdir} has no state of turn {turn or "01"!r}; there are: {", ".join(kept) or "none"}'
        )
    name = turn or kept[-1]
    lm, params = binding.bind_arguments(
        language_model.load, dict(config['model']) | dict(config['mesh']), 'model, mesh'
    )()
    optimizer = train_state.cached_optimizer(turns[name].train.keywords['optimizer'])
    return lm, checkpoint.restore(lm, Folder(workdir, name), optimizer, params).params, name


def main() -> None:
    flags = argparse.ArgumentParser(
        prog='python -m selfrew.export', description=__doc__.splitlines()[0]
    )
    flags.add_argument('--workdir', required=True, help='the run')
    flags.add_argument('--folder', required=True, help='where the checkpoint is written')
    flags.add_argument(
        '--turn', help="which turn's state, e.g. 02; without it, the last that is there"
    )
    flags.add_argument(
        '--dtype', default='float32', choices=('float32', 'bfloat16'), help='of the stored tensors'
    )
    flags.add_argument(
        '--shard_gb', type=float, default=4.0, help='a file is closed before it grows beyond that'
    )
    given = flags.parse_args()
    try:
        lm, params, name = restored(given.workdir, given.turn)
        save(given.folder, lm, params, dtype=given.dtype, shard_bytes=int(given.shard_gb * 2**30))
    except (ValueError, OSError) as problem:
        print(f'selfrew: {problem}', file=sys.stderr)
        sys.exit(1)
    print(f'turn {name} of {given.workdir} is in {given.folder}, {given.dtype}')


if __name__ == '__main__':
    main()
