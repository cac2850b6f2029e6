"""What a run prints: its config and parameters at the start, and the first of everything in a turn."""

import sys

import jax

from selfrew.engine import packing, trainer
from selfrew.mesh import processes, sharding
from selfrew.models import decoder
from selfrew.run.stage import dump


def say(text: str = '') -> None:
    """A line for the person who watches, clear of the progress bars."""
    if processes.is_main():
        sys.stderr.flush()
        print(text, flush=True)


def print_run(config: dict, lm, params) -> None:
    """The config, the mesh, and the table of parameters with shapes and shardings."""
    say(dump(config).decode().rstrip())
    say(
        f'mesh {dict(lm.mesh.shape)} on {jax.devices()[0].device_kind}, compute {lm.module.dtype}, parameters {lm.param_dtype}'
    )
    shapes, names = decoder.abstract_params(lm.module)
    rows = jax.tree_util.tree_flatten_with_path(shapes)[0]
    axes = jax.tree.leaves(names, is_leaf=lambda x: isinstance(x, tuple))
    total = 0
    for (path, leaf), axis, value in zip(rows, axes, jax.tree.leaves(params)):
        name = '/'.join(str(p.key) for p in path)
        total += leaf.size
        say(
            f'  {name:24} {str(leaf.shape):18} {" ".join(str(a) for a in axis):22} {value.sharding.spec}'
        )
    say(f'  {total:,} parameters; moments lie as the parameters do')
    for name, axes in {'batch': ('rows', None), 'cache': (None, 'rows', 'kv', None, None)}.items():
        say(
            f'  {name:24} {"":18} {" ".join(str(a) for a in axes):22} {sharding.of(lm.mesh, *axes).spec}'
        )


def print_example(title: str, text: str) -> None:
    """The first of something, indented under its title."""
    say(f'{title}:\n    ' + text.replace('\n', '\n    '))


def print_packed_row(lm, batch) -> None:
    """The first packed row of a round: each document, its branches, and in [brackets] what the loss
    looks at.
    """
    tokens, doc, branch = batch.tokens[0], batch.doc[0], batch.branch[0]
    trained = set(batch.target[0][batch.mask[0] > 0].tolist())
    spans, at = [], 0
    while at < len(tokens) and doc[at]:
        end = at
        while end < len(tokens) and (doc[end], branch[end]) == (doc[at], branch[at]):
            end += 1
        text = lm.text.tokenizer.decode(tokens[at:end].tolist())
        seen = all(i in trained for i in range(at, end))
        label = 'prompt' if branch[at] == 0 else f'response {branch[at]}'
        spans.append(f'doc {doc[at]} {label:10} ' + (f'[{text}]' if seen else text))
        at = end
    filled = (batch.doc > 0).mean()
    rows, length = batch.tokens.shape
    print_example(f'first packed row of {rows} × {length} ({filled:.0%} filled)', '\n'.join(spans))


def print_turn(lm, judgements, examples, updating) -> None:
    """The first prompt as the model sees it, the first verdict, and the first packed row of a turn."""
    if judgements:
        j = judgements[0]
        print_example('first prompt', lm.text.prompt_text(j.rollout.prompt))
        print_example(
            'its first response', f'{j.rollout.responses[0].text}\n(score {j.scores[0]:.3g})'
        )
        if j.verdicts and j.verdicts[0]:
            print_example('its first verdict', j.verdicts[0][0])
    if examples:
        length = updating.keywords.get('row_length', trainer.train.__kwdefaults__['row_length'])
        docs, _ = packing.tokenise(
            lm.text, examples[:4], row_length=length, positions=lm.config.max_length
        )
        if docs:
            print_packed_row(lm, packing.batches(docs, batch=len(docs), row_length=length)[0])
