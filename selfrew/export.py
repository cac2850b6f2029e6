"""Exports a run's model as a Hugging Face folder, for transformers, vLLM and the hub.

python -m selfrew.export --workdir=runs/quickstart --folder=out
"""

import argparse
import json
import os
import shutil

from selfrew.engine import finite, train_state
from selfrew.models import hf, lora
from selfrew.run import checkpoint, refusal
from selfrew.run.config import model_loader, turns_of
from selfrew.run.stage import Folder

DTYPES = 'float32', 'bfloat16'


def save(folder: str, lm, params, *, dtype: str = 'float32', shard_bytes: int = 4 << 30) -> None:
    """Writes what transformers loads, with adapters merged.

    That is the config, tensors, tokenizer, chat template and generation config.

    Args:
      dtype: of the stored tensors.
      shard_bytes: a file is closed before it grows beyond that.
    Raises ValueError for another dtype, if a parameter is not finite, if the model did not come
    from a folder, or if `folder` is that one, belongs to a run, or holds something else than a
    checkpoint.
    """
    if dtype not in DTYPES:
        raise ValueError(f'dtype={dtype!r}: a folder holds {" or ".join(DTYPES)}')
    finite.check_params(params, f'not saved to {folder}')
    if lm.folder is None:
        raise ValueError(
            'this model came from no folder, so there is no config.json to write; '
            'see models.hf.write'
        )
    if os.path.isdir(folder):
        if os.path.realpath(folder) == os.path.realpath(lm.folder):
            raise ValueError(f'{folder} is where the model came from; save it elsewhere')
        if os.path.isdir(os.path.join(folder, 'rounds')):
            raise ValueError(f'{folder} is the folder of a run; choose another folder')
        if os.listdir(folder) and not os.path.exists(os.path.join(folder, 'config.json')):
            raise ValueError(
                f'{folder} is not empty and holds no checkpoint; choose another folder'
            )
    os.makedirs(folder, exist_ok=True)
    lm.text.tokenizer.save_pretrained(folder)
    _write_generation_config(folder, lm)
    params = lora.merge_adapters(lm.config, params)
    fields = hf.read_fields(lm.folder)
    hf.write(folder, fields, lm.config, params, dtype=dtype, shard_bytes=shard_bytes)


def _write_generation_config(folder: str, lm) -> None:
    """Copies the model's generation_config.json, or writes one with the tokenizer's ids."""
    original = os.path.join(lm.folder, 'generation_config.json')
    if os.path.exists(original):
        shutil.copy(original, folder)
        return
    ids = {
        'bos_token_id': lm.text.bos,
        'eos_token_id': list(lm.text.stop_tokens),
        'pad_token_id': lm.text.pad,
    }
    known = {name: value for name, value in ids.items() if value is not None}
    hf.write_json(folder, 'generation_config.json', known)


def load_turn(workdir: str, turn: str | None = None):
    """(lm, params, name of the turn) of a run's turn, or of its last one that has a state.

    Raises ValueError if `workdir` is not a run or has no such state.
    """
    try:
        with open(os.path.join(workdir, 'config.json')) as file:
            config = json.load(file)
    except FileNotFoundError:
        raise ValueError(f'{workdir!r} is not a run: it has no config.json') from None
    turns = {t.name: t for t in turns_of(config)}
    saved = [name for name in turns if Folder(workdir, name).has('state')]
    if not saved:
        raise ValueError(f'no turn of {workdir} has a saved state')
    if turn is not None and turn not in saved:
        raise ValueError(f'{workdir} has no state of turn {turn!r}; there are: {", ".join(saved)}')
    name = turn or saved[-1]
    lm, params = model_loader(config)()
    optimizer = train_state.cached_optimizer(turns[name].train.keywords['optimizer'])
    return lm, checkpoint.restore(lm, Folder(workdir, name), optimizer, params).params, name


def main() -> None:
    """The command; on a mistake, exits with status 1 and a message."""
    parser = argparse.ArgumentParser(
        prog='python -m selfrew.export',
        description='Exports the model of a run as a Hugging Face folder.',
    )
    parser.add_argument('--workdir', required=True, help='the run')
    parser.add_argument('--folder', required=True, help='where the checkpoint is written')
    parser.add_argument('--turn', help='the turn to export, e.g. 02; default: the last saved one')
    parser.add_argument('--dtype', default='float32', choices=DTYPES, help='of the stored tensors')
    parser.add_argument(
        '--shard_gb',
        type=float,
        default=4.0,
        help='GiB; a file is closed before it grows beyond it',
    )
    args = parser.parse_args()
    try:
        lm, params, name = load_turn(args.workdir, args.turn)
        save(args.folder, lm, params, dtype=args.dtype, shard_bytes=int(args.shard_gb * 2**30))
    except refusal.MISTAKES as problem:
        refusal.exit_with(problem)
    print(f'turn {name} of {args.workdir} is in {args.folder}, {args.dtype}')


if __name__ == '__main__':
    main()
