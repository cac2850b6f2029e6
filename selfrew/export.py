"""Exports a run's model as a Hugging Face folder, for transformers, vLLM and the hub.

    python -m selfrew.export --workdir=runs/quickstart --folder=out

It needs one device, whatever the run was trained on, and holds one stack of matrices at a time.
"""

import argparse
import os
import re
import shutil
import sys
from typing import NamedTuple

import jax
from tqdm import tqdm

from selfrew.engine import finite, run_files, saved_models, train_state
from selfrew.mesh import sharding
from selfrew.models import hf, lora
from selfrew.models.loading import load_all
from selfrew.running import checkpoint, model_card, refusal
from selfrew.running.config import model_describer
from selfrew.running.stage import Folder

DTYPES = 'float32', 'bfloat16'


def save(
    folder: str,
    lm,
    params,
    *,
    dtype: str = 'float32',
    shard_bytes: int = 4 << 30,
    adapters: bool = False,
    card: str | None = None,
) -> None:
    """Writes what transformers loads, with adapters merged; or the adapters alone.

    That is the config, tensors, tokenizer, chat template, generation config and a model card; and a
    value head, if the model has one, in value_head.safetensors, which transformers ignores. The
    tokens that end a turn are those at which the model was taught, and sampled, to end. The folder
    gets its name when it is complete.

    Args:
      params: in the place of a parameter there may be a function that returns it, which is called
        when it is written.
      dtype: of the stored tensors; adapters are float32.
      shard_bytes: a file is closed before it grows beyond that.
      adapters: writes a PEFT folder instead, for the model that this one was made of.
      card: the text of README.md; None: one that names the base.
    Raises ValueError for another dtype, for adapters of a model without any, if a parameter is not
    finite, if the model did not come from a folder, or if `folder` is not new or empty.
    """
    _check_save(folder, lm, dtype, adapters)
    if not any(map(callable, jax.tree.leaves(params))):
        finite.check_params(params, f'not saved to {folder}')
    partial = f'{os.path.abspath(folder)}.partial'
    shutil.rmtree(partial, ignore_errors=True)
    os.makedirs(partial)
    try:
        fields = hf.read_fields(lm.folder)
        if adapters:
            is_fused = fields['architectures'][0].startswith('Phi3')
            base = model_card.base_name(lm.folder)
            hf.write_adapters(partial, base, lm.config, params, is_fused=is_fused)
        else:
            _write_merged(partial, lm, params, fields, dtype, shard_bytes)
        hf.write_tokenizer(lm.folder, partial, lm.text.tokenizer, lm.text.template)
        text = card or model_card.card(lm.folder, adapters=adapters)
        with open(os.path.join(partial, 'README.md'), 'w', encoding='utf-8') as file:
            file.write(text)
        os.replace(partial, folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _check_save(folder: str, lm, dtype: str, adapters: bool) -> None:
    """ValueError where `save` cannot write."""
    if dtype not in DTYPES:
        raise ValueError(f'dtype={dtype!r}: a folder holds {" or ".join(DTYPES)}')
    if lm.folder is None:
        raise ValueError(
            'this model came from no folder, so there is no config.json to write; '
            'see models.hf.write'
        )
    if adapters and not lm.config.lora:
        raise ValueError('this model has no adapters (model.lora=0): save all of it')
    if os.path.realpath(folder) == os.path.realpath(lm.folder):
        raise ValueError(f'{folder} is where the model came from; save it elsewhere')
    if os.path.isdir(os.path.join(folder, 'rounds')):
        raise ValueError(f'{folder} is the folder of a run; choose another folder')
    if os.path.exists(folder) and (not os.path.isdir(folder) or os.listdir(folder)):
        raise ValueError(f'{folder} is there and not an empty folder; choose another folder')


def _write_merged(folder: str, lm, params, fields: dict, dtype: str, shard_bytes: int) -> None:
    """Writes config.json, generation_config.json and the tensors, adapters merged."""
    ends = list(lm.text.ends)
    end_field = {'eos_token_id': ends if len(ends) > 1 else ends[0]}
    known = {'bos_token_id': lm.text.bos, 'pad_token_id': lm.text.pad}
    known = {name: value for name, value in known.items() if value is not None}
    merged = lora.merging_loaders(lm.config, params)
    options = {'dtype': dtype, 'shard_bytes': shard_bytes}
    stored = {name: param for name, param in merged.items() if name != 'value'}
    hf.write(folder, fields | end_field, lm.config, stored, **options)
    if 'value' in merged:
        hf.write_value_head(folder, merged['value'])
    generation = known | hf.read_optional(lm.folder, 'generation_config.json') | end_field
    hf.write_json(folder, 'generation_config.json', generation)


class TurnModel(NamedTuple):
    """The model of a run's turn, not yet read."""

    lm: object
    loaders: dict  # its parameters, each a function that reads it
    turn: str
    config: dict  # of the run


def open_turn(workdir: str, turn: str | None = None, mesh: dict | None = None) -> TurnModel:
    """The model of a run's turn, or of its last one that has a state.

    mesh: {'data': …, 'fsdp': …, 'tensor': …} to place it on; None: one device.
    Raises ValueError if `workdir` is not a run, has no such state, or a damaged one.
    """
    try:
        config = run_files.read_json(os.path.join(workdir, 'config.json'), run_files.PUT_BACK)
    except FileNotFoundError:
        raise ValueError(f'{workdir!r} is not a run: it has no config.json') from None
    rounds = os.path.join(workdir, 'rounds')
    names = sorted(os.listdir(rounds) if os.path.isdir(rounds) else [], key=run_files.turn_order)
    saved = [name for name in names if Folder(workdir, name).has('state')]
    if not saved:
        raise ValueError(f'no turn of {workdir} has a saved state')
    if turn is not None and turn not in saved:
        raise ValueError(f'{workdir} has no state of turn {turn!r}; there are: {", ".join(saved)}')
    axes = dict.fromkeys(sharding.AXES, 1) | (mesh or {})
    # What computes on the devices of the run is not needed here.
    model = config['model'] | {'attention': 'xla', 'dtype': 'float32', 'cache': None}
    lm = model_describer(config | {'mesh': axes, 'model': model})()
    folder = Folder(workdir, turn or saved[-1])
    checkpoint.check_sound(folder)
    state = checkpoint.state_path(folder)
    loaders = trained = saved_models.state_loaders(lm, state)
    if lm.config.lora:
        loaders = train_state.with_trainable(lm.base_param_loaders(), trained)
    return TurnModel(lm, loaders, turn or saved[-1], config)


def load_turn(workdir: str, turn: str | None = None, mesh: dict | None = None):
    """(lm, params, name of the turn) of `open_turn`, which also says what is raised."""
    opened = open_turn(workdir, turn, mesh)
    return opened.lm, load_all(opened.loaders), opened.turn


def mesh_of(text: str) -> dict:
    """The mesh that a text such as 'fsdp=4,tensor=2' names. ValueError for another form."""
    mesh = {}
    for part in text.split(','):
        axis, equals, size = part.strip().partition('=')
        if axis not in sharding.AXES or not equals or not re.fullmatch(r'-1|[1-9]\d*', size):
            raise ValueError(
                f'--mesh={text}: want sizes of {", ".join(sharding.AXES)}, e.g. fsdp=4,tensor=2'
            )
        mesh[axis] = int(size)
    return mesh


def _with_progress(loaders):
    """The loaders, and a bar that advances with each of their calls."""
    bar = tqdm(total=len(jax.tree.leaves(loaders)), desc='export', unit='parameter')

    def counted(load):
        def load_counted():
            param = load()
            bar.update()
            return param

        return load_counted

    return jax.tree.map(counted, loaders), bar


def main() -> None:
    """The command; on a mistake, exits with status 1 and a message."""
    parser = argparse.ArgumentParser(
        prog='python -m selfrew.export',
        description='Exports the model of a run as a Hugging Face folder.',
    )
    parser.add_argument('--workdir', required=True, help='the run')
    parser.add_argument('--folder', required=True, help='the folder to make')
    parser.add_argument('--turn', help='the turn to export, e.g. 02; default: the last saved one')
    parser.add_argument('--dtype', default='float32', choices=DTYPES, help='of the stored tensors')
    parser.add_argument(
        '--adapters',
        action='store_true',
        help='write the adapters alone, as a PEFT folder, and do not merge them',
    )
    parser.add_argument(
        '--mesh', help='devices to hold a stack of matrices, e.g. fsdp=4; default: one device'
    )
    parser.add_argument(
        '--shard_gb',
        type=float,
        default=4.0,
        help='GiB; a file is closed before it grows beyond it',
    )
    args = parser.parse_args()
    try:
        opened = open_turn(args.workdir, args.turn, mesh_of(args.mesh) if args.mesh else None)
        loaders, bar = _with_progress(opened.loaders)
        card = model_card.of_run(args.workdir, opened.config, opened.turn, adapters=args.adapters)
        with bar:
            save(
                args.folder,
                opened.lm,
                loaders,
                dtype=args.dtype,
                shard_bytes=int(args.shard_gb * 2**30),
                adapters=args.adapters,
                card=card,
            )
    except KeyboardInterrupt:
        print(f'\nstopped; {args.folder} was not made', file=sys.stderr)
        sys.exit(130)
    except refusal.MISTAKES as problem:
        refusal.exit_with(problem)
    what = 'adapters, float32' if args.adapters else args.dtype
    print(f'turn {opened.turn} of {args.workdir} is in {args.folder}, {what}')


if __name__ == '__main__':
    main()
