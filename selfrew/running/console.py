"""What a run prints: its config and parameters at the start, and samples of each turn."""

import contextlib
import logging
import sys
from collections.abc import Iterator

import jax

from selfrew.engine import packing, trainer
from selfrew.mesh import processes, sharding
from selfrew.models import decoder
from selfrew.running import turn_stats
from selfrew.running.stage import json_bytes

_logs: list[str] = []  # paths of the files that also get what is said, the innermost last


def say(text: str = '') -> None:
    """Prints a line from process 0 only, without disturbing the progress bars; logs it too."""
    if processes.is_main():
        sys.stderr.flush()
        print(text, flush=True)
        say_to_log(text)


def say_to_log(text: str) -> None:
    """Appends a line to the log alone; nothing where it cannot be written."""
    if _logs and processes.is_main():
        with contextlib.suppress(OSError), open(_logs[-1], 'a', encoding='utf-8') as file:
            file.write(text + '\n')


@contextlib.contextmanager
def logging_to(path: str) -> Iterator[None]:
    """A context in which what is said, and each warning, is also appended to a file."""
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: say_to_log(f'{record.levelname}: {record.getMessage()}')
    _logs.append(path)
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
        _logs.pop()


def print_run(config: dict, lm, params, sampling_mesh) -> None:
    """Prints the config, both meshes, and the table of parameters with shapes and shardings."""
    say(json_bytes(config).decode().rstrip())
    say(
        f'mesh {dict(lm.mesh.shape)} on {jax.devices()[0].device_kind}, '
        f'compute {lm.module.dtype}, parameters {lm.param_dtype}'
    )
    if sampling_mesh != lm.mesh:
        say(f'it samples on the mesh {dict(sampling_mesh.shape)}, with a copy of the parameters')
    if lm.module.dtype == 'bfloat16' and lm.mesh.devices.flat[0].platform == 'cpu':
        say(
            'bfloat16 is about three times slower on a CPU than float32: model.dtype=float32 '
            'computes in float32 from the same weights'
        )
    shapes, axis_names = decoder.abstract_params(lm.module)
    leaves = jax.tree_util.tree_flatten_with_path(shapes)[0]
    axes_of = jax.tree.leaves(axis_names, is_leaf=lambda x: isinstance(x, tuple))
    total = 0
    for (path, leaf), axes, value in zip(leaves, axes_of, jax.tree.leaves(params)):
        name = '/'.join(str(p.key) for p in path)
        total += leaf.size
        _print_array(name, str(leaf.shape), axes, value.sharding.spec)
    say(f'  {total:,} parameters; the optimizer moments are sharded like them')
    for name, axes in {'batch': ('rows', None), 'cache': (None, 'rows', 'kv', None, None)}.items():
        _print_array(name, '', axes, sharding.of(lm.mesh, *axes).spec)


def print_changes(changes: list[str], differences: list[str]) -> None:
    """Prints what is not as at the run's last start: of its config and inputs, and around it."""
    for change in changes:
        say(f'changed since the last start: {change}')
    if differences:
        say(
            f'since the last start, {"; ".join(differences)}: from here on the last bits of '
            f'numbers, and so samples, may differ from those of a run that was not stopped'
        )


def _print_array(name: str, shape: str, axes, spec) -> None:
    say(f'  {name:24} {shape:18} {" ".join(str(a) for a in axes):22} {spec}')


def print_metrics(metrics: dict, title: str = '') -> None:
    """Prints numbers by name on a line, after a title if there is one."""
    shown = [f'{k} {v:.4g}' if isinstance(v, float) else f'{k} {v}' for k, v in metrics.items()]
    say((f'{title}: ' if title else '') + ', '.join(shown))


def print_example(title: str, text: str) -> None:
    """Prints a text indented under its title."""
    say(f'{title}:\n    ' + text.replace('\n', '\n    '))


def print_packed_row(lm, batch) -> None:
    """Prints the first packed row: each document's branches, with trained text in [brackets]."""
    tokens, doc, branch = batch.tokens[0], batch.doc[0], batch.branch[0]
    trained = set(batch.target[0][batch.mask[0] > 0].tolist())
    spans, start = [], 0
    while start < len(tokens) and doc[start]:
        end = start
        while end < len(tokens) and (doc[end], branch[end]) == (doc[start], branch[start]):
            end += 1
        shown = tokens[start:end].tolist()
        text = lm.text.tokenizer.decode(shown, clean_up_tokenization_spaces=False)
        is_trained = all(i in trained for i in range(start, end))
        label = 'prompt' if branch[start] == 0 else f'response {branch[start]}'
        spans.append(f'doc {doc[start]} {label:10} ' + (f'[{text}]' if is_trained else text))
        start = end
    filled = (batch.doc > 0).mean()
    rows, length = batch.tokens.shape
    print_example(f'first packed row of {rows} × {length} ({filled:.0%} filled)', '\n'.join(spans))


def print_turn(lm, judgements, examples, train) -> None:
    """Prints a turn's first prompt as the model sees it, first response, verdict and packed row,
    and some verdicts that could not be read.

    `train` is the turn's bound trainer.train.
    """
    if judgements:
        judgement = judgements[0]
        prompt, response = judgement.rollout.prompt, judgement.rollout.responses[0]
        print_example('first prompt', lm.text.prompt_text(prompt))
        scored = f'{response.text}\n(score {judgement.scores[0]:.3g})'
        print_example('its first response', scored)
        if judgement.verdicts and judgement.verdicts[0]:
            print_example('its first verdict', judgement.verdicts[0][0])
    for text in turn_stats.unread_verdicts(judgements):
        print_example('a verdict that could not be read', text)
    if examples:
        defaults = trainer.train.__kwdefaults__ or {}
        length = train.keywords.get('row_length', defaults['row_length'])
        docs, _ = packing.tokenise(
            lm.text, examples[:4], row_length=length, positions=lm.config.max_length
        )
        if docs:
            print_packed_row(lm, packing.batches(docs, batch=len(docs), row_length=length)[0])
