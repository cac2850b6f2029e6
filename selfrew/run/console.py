"""What a run says while it runs: metrics.jsonl, TensorBoard, and what is worth seeing of a turn. Layer 7."""

import itertools
import json
import math
import os
import sys

import jax
import numpy as np

from selfrew import encode, hosts, sharding, update
from selfrew.models import decoder
from selfrew.stage import dump, write_atomic
from selfrew.types import to_json


class Log:
    """Appends metrics; a turn that is run again replaces what its first try wrote."""

    def __init__(self, workdir: str):
        from tensorboardX import SummaryWriter

        self._path = os.path.join(workdir, 'metrics.jsonl')
        self._board = SummaryWriter(os.path.join(workdir, 'tensorboard')) if hosts.main() else None
        self.compiled = 0
        jax.monitoring.register_event_duration_secs_listener(self._count)

    def _count(self, event: str, duration: float, **_) -> None:
        self.compiled += event == '/jax/core/compile/backend_compile_duration'

    def begin(self, turn: str) -> None:
        """Forgets what a killed run wrote of this turn and of later ones."""
        hosts.by_main(lambda: self._begin(turn))

    def _begin(self, turn: str) -> None:
        if os.path.exists(self._path):
            with open(self._path) as file:
                rows = [line for line in file if line.endswith('\n') and json.loads(line)['turn'] < turn]
            write_atomic(self._path, ''.join(rows).encode())

    def write(self, turn: str, step: int, metrics: dict) -> None:
        """One line. `step` counts updates from the start of the run."""
        if not hosts.main():
            return
        with open(self._path, 'a') as file:
            file.write(json.dumps({'turn': turn, 'step': step, **to_json(metrics)}) + '\n')
        for name, value in metrics.items():
            if isinstance(value, (int, float)) and not math.isnan(value):
                self._board.add_scalar(name, value, step)

    def close(self) -> None:
        if hosts.main():
            self._board.close()
        jax.monitoring.unregister_event_duration_listener(self._count)


def say(text: str = '') -> None:
    """A line for the person who watches, clear of the progress bars."""
    if hosts.main():
        sys.stderr.flush()
        print(text, flush=True)


def opening(config: dict, lm, params) -> None:
    """The config, the mesh, and the table of parameters with shapes and shardings."""
    say(dump(config).decode().rstrip())
    say(f'mesh {dict(lm.mesh.shape)} on {jax.devices()[0].device_kind}, compute {lm.module.dtype}, parameters {lm.stored}')
    shapes, names = decoder.abstract(lm.module)
    rows = jax.tree_util.tree_flatten_with_path(shapes)[0]
    axes = jax.tree.leaves(names, is_leaf=lambda x: isinstance(x, tuple))
    total = 0
    for (path, leaf), axis, value in zip(rows, axes, jax.tree.leaves(params)):
        name = '/'.join(str(p.key) for p in path)
        total += leaf.size
        say(f'  {name:24} {str(leaf.shape):18} {" ".join(str(a) for a in axis):22} {value.sharding.spec}')
    say(f'  {total:,} parameters; moments lie as the parameters do')
    for name, axes in {'batch': ('rows', None), 'cache': (None, 'rows', 'kv', None, None)}.items():
        say(f'  {name:24} {"":18} {" ".join(str(a) for a in axes):22} {sharding.of(lm.mesh, *axes).spec}')


def first(title: str, text: str) -> None:
    """The first of something, indented under its title."""
    say(f'{title}:\n    ' + text.replace('\n', '\n    '))


def first_row(lm, batch) -> None:
    """The first packed row of a round: each document, its branches, and in [brackets] what the loss looks at."""
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
    first(f'first packed row of {rows} × {length} ({filled:.0%} filled)', '\n'.join(spans))


def counts(prompts, judgements, examples) -> dict:
    """What became of a turn's prompts: how many fell out, and why; shares are of judgements or of votes.

    too_long: prompts that did not fit into the context. cut: responses that hit the length limit.
    no_verdict: judgements with fewer than two verdicts (than one, of a single response). ties: all verdicts equal.
    unasked: responses whose judge prompt did not fit. parse_failures: votes that could not be read.
    score: the mean. full_scores: scores of 5. scores/0 … scores/5: the histogram, by whole points.
    agreement: pairs of votes on one response that are the same. length_score: the correlation of length, in characters,
    and score among the responses to a prompt.
    """
    heard = [[s for s in j.scores if not math.isnan(s)] for j in judgements]
    wanted = [min(2, len(j.scores)) for j in judgements]
    votes = [v for j in judgements for mine in j.votes for v in mine]
    scores = [s for mine in heard for s in mine]
    responses = [r for j in judgements for r in j.rollout.responses]

    def share(found, of):
        return sum(found) / len(of) if of else None

    out = {
        'prompts': len(prompts), 'too_long': len(prompts) - len(judgements), 'examples': len(examples),
        'pairs': sum(len(e.responses) > 1 for e in examples),
        'cut': share([r.finish == 'length' for r in responses], responses),
        'no_verdict': share([len(h) < w for h, w in zip(heard, wanted)], judgements),
    }  # fmt: skip
    several = [h for h in heard if len(h) > 1]
    out['ties'] = share([min(h) == max(h) for h in several], several)
    asked = [bool(mine) for j in judgements for mine in j.votes]
    out['unasked'] = share([not a for a in asked], asked)
    out['parse_failures'] = share([math.isnan(v) for v in votes], votes)
    out['score'] = share(scores, scores)
    if votes:
        out['full_scores'] = share([s == 5.0 for s in scores], scores)
        points = [round(s) for s in scores]
        out |= {f'scores/{k}': share([p == k for p in points], points) for k in sorted({*range(6), *points})}
        both = [a == b for j in judgements for mine in j.votes for a, b in itertools.combinations(mine, 2)
                if not math.isnan(a + b)]  # fmt: skip
        out['agreement'] = share(both, both)
    out['length_score'] = _within([([len(r.text) for r in j.rollout.responses], j.scores) for j in judgements])
    return {k: v for k, v in out.items() if v is not None}


def _within(columns) -> float | None:
    """The correlation of (x, y) pairs, each list of them taken from its own mean; pairs with a nan left out."""
    apart = []
    for x, y in columns:
        pairs = np.array([(a, b) for a, b in zip(x, y) if not math.isnan(b)], float).reshape(-1, 2)
        apart.append(pairs - pairs.mean(axis=0) if len(pairs) else pairs)
    x, y = np.concatenate(apart).T if apart else ([], [])
    norm = np.linalg.norm(x) * np.linalg.norm(y)
    return float(np.dot(x, y) / norm) if norm else None


def show(lm, judgements, examples, updating) -> None:
    """The first prompt as the model sees it, the first verdict, and the first packed row of a turn."""
    if judgements:
        j = judgements[0]
        first('first prompt', lm.text.rendered(j.rollout.prompt))
        first('its first response', f'{j.rollout.responses[0].text}\n(score {j.scores[0]:.3g})')
        if j.verdicts and j.verdicts[0]:
            first('its first verdict', j.verdicts[0][0])
    if examples:
        length = updating.keywords.get('row_length', update.train.__kwdefaults__['row_length'])
        docs, _ = encode.tokenise(lm.text, examples[:4], row_length=length, positions=lm.config.max_length)
        if docs:
            first_row(lm, encode.batches(docs, batch=len(docs), row_length=length)[0])
