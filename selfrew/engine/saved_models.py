"""Other models by name: a Hugging Face folder, a hub name, 'tiny', or the folder of a run.

Of a run it is the model after the last turn that has a state.
"""

import functools
import glob
import os

import jax

from selfrew.engine import finite, run_files, train_state
from selfrew.mesh import processes
from selfrew.models import hf, language_model, text
from selfrew.models.loading import load_all


def check(name: str, *, value_head: bool = False) -> None:
    """Raises FileNotFoundError or ValueError where `load` could not load that model, as far as can
    be seen without reading its tensors.

    value_head: whether it has to have a value head.
    """
    fields = _model_fields(name)
    try:
        folder = language_model.resolve_folder(fields['folder'])
    except FileNotFoundError as problem:
        where = f'the base of the run {name}: ' if _is_run(name) else ''
        other = '' if _is_run(name) else '; or the folder of a run, with its rounds'
        raise FileNotFoundError(f'{where}{problem}{other}') from None
    if hf.read_config(folder, fields.get('max_length')).scalar_head:
        raise ValueError(f'{name} has a scalar head: it is a reward model and writes no text')
    text.load(folder, fields.get('chat_template'), fold_system=fields.get('fold_system', False))
    locate(name)
    if value_head:
        has_head = fields.get('value_head') if _is_run(name) else hf.has_value_head(folder)
        if not has_head:
            raise ValueError(f'{name} has no value head; see losses.cd_q')


def locate(name: str) -> str:
    """The folder of a model's tensors: of a run, the last saved state. Every process calls this.

    Raises FileNotFoundError without such a model, ValueError for a run without a state or with a
    damaged one.
    """
    if not _is_run(name):
        return os.path.realpath(language_model.resolve_folder(name))
    return processes.on_main(lambda: _last_state(name))


def _last_state(name: str) -> str:
    manifests = glob.glob(os.path.join(glob.escape(name), 'rounds', '*', 'manifest.json'))
    turns = {os.path.basename(os.path.dirname(path)): path for path in manifests}
    for turn in sorted(turns, key=run_files.turn_order, reverse=True):
        entry = run_files.read_manifest(turns[turn]).get('state')
        if entry is not None:
            folder = os.path.join(os.path.dirname(turns[turn]), 'state')
            if problem := run_files.damage(folder, entry.get('files')):
                raise ValueError(f'{problem}; {run_files.MAKE_AGAIN}')
            return os.path.abspath(folder)
    raise ValueError(f'{name} is a run of which no turn has a saved state')


def context_length(name: str) -> int:
    """The longest context of that model, in tokens. Raises as `locate` does."""
    return language_model.context_length(**_model_fields(name))


def load(
    name: str, like: language_model.Lm, *, value_head: bool = False
) -> tuple[language_model.Lm, dict]:
    """(lm, params) of that model, on the mesh of `like`.

    A folder is loaded with the dtypes, cache and attention of `like`, and with its context where
    that is shorter than the folder's own; a run as its config says. value_head: with the value head
    of a folder.

    Raises FileNotFoundError or ValueError if there is no such model, or a parameter is not finite.
    """
    fields = _model_fields(name)
    if not _is_run(name):
        fields |= {
            'dtype': jax.numpy.dtype(like.module.dtype).name,
            'params': like.param_dtype,
            'attention': like.module.attention,
            'max_length': min(like.config.max_length, context_length(name)),
            'cache': like.cache,
            'cache_gib': like.cache_gib,
            'value_head': value_head,
        }
    lm, params = language_model.load(**fields, **like.mesh.shape)
    if _is_run(name):
        params = _restored(lm, locate(name), params)
    return lm, params


def _is_run(name: str) -> bool:
    return os.path.isdir(os.path.join(name, 'rounds'))


def _model_fields(name: str) -> dict:
    """The arguments of language_model.describe that the model was made with, without the mesh."""
    if not _is_run(name):
        return {'folder': name}
    path = os.path.join(name, 'config.json')
    if not os.path.isfile(path):
        raise ValueError(f'{name!r} has rounds but no config.json: it is not a run')
    return dict(run_files.read_json(path, run_files.PUT_BACK)['model'])


def _restored(lm, path: str, params) -> dict:
    """`params` with those replaced that a saved state holds; its optimiser state is not read."""
    return train_state.with_trainable(params, load_all(state_loaders(lm, path)))


def state_loaders(lm, path: str) -> dict:
    """The parameters of a saved state, each as a function that reads it, and nothing else.

    Each is placed as `lm` says, whatever devices it was saved from. The structure is that of
    train_state.saved_params. A function raises ValueError if its parameter is not finite.

    path: of the state, as `locate` gives it.
    """
    abstract = jax.tree.map(
        lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where),
        lm.abstract_params(),
        lm.param_shardings(),
    )
    return jax.tree_util.tree_map_with_path(
        lambda names, target: functools.partial(_restore_param, path, names, target),
        train_state.saved_params(lm, abstract),
    )


def _restore_param(path: str, names, target):
    """One parameter of a saved state; `names` lead to it."""
    import orbax.checkpoint as ocp  # noqa: PLC0415 (takes seconds)

    keys = [step.key for step in names]
    item = functools.reduce(lambda inner, key: {key: inner}, reversed(['params', *keys]), target)
    restore_args = ocp.checkpoint_utils.construct_restore_args(item)
    arguments = ocp.args.PyTreeRestore(item=item, restore_args=restore_args, partial_restore=True)
    with ocp.PyTreeCheckpointer() as checkpointer:
        (param,) = jax.tree.leaves(checkpointer.restore(path, args=arguments))
    finite.check_params({'/'.join(keys): param}, f'{path}; delete its turn to make it again')
    return param
