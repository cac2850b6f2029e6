"""The method: prompts, samples, scores, pairs, updates; round after round. Layer 8.

Every method of the shelf is a config of this loop. One that needs another control flow copies this
file.
"""

import collections
import json
import os
import time
import zlib

import jax
import numpy as np

from selfrew.engine import train_state
from selfrew.mesh import processes
from selfrew.models import language_model
from selfrew.run import binding, checkpoint, console, metrics_log, report, turn_stats
from selfrew.run.stage import Folder, claim_workdir
from selfrew.run.turns import bind_turns
from selfrew.shelves import evals as eval_shelf
from selfrew.types import Example, Judgement, Prompt, Rollout, State


def run(
    workdir: str,
    *,
    seed: int,
    model: dict,
    mesh: dict,
    rounds: int,
    round: dict,
    start: dict | None = None,
    by_round: dict | None = None,
    evals: dict | None = None,
    keep_states: int | None = None,
) -> str:
    """Runs a config to its end, or goes on where a killed run stopped; returns the table by round.

    Args:
      seed: of everything drawn. model: see language_model.load. mesh: data, fsdp, tensor.
      rounds, round, start, by_round: see turns.bind_turns.
      evals: name -> entry of the shelf evals; each runs before the first round and after each.
      keep_states: how many of the last rounds' states stay on disk, or None for all.
    Raises ValueError where the config or the data are wrong; before work starts where that can be
    known then.
    """
    config = {k: v for k, v in locals().items() if k != 'workdir'}
    turns = bind_turns(rounds=rounds, round=round, start=start, by_round=by_round)
    tests = {
        name: binding.bind('evals', entry, f'evals.{name}', eval_shelf)
        for name, entry in (evals or {}).items()
    }
    opening = binding.bind_arguments(language_model.load, dict(model) | dict(mesh), 'model, mesh')
    context = language_model.context_length(**opening.keywords)
    for part in [p for turn in turns for p in (turn.sampler, turn.scorer)] + list(tests.values()):
        binding.check_lengths(part, context)
    lm, params = opening()
    if processes.on_main(lambda: config) != config:
        raise ValueError(
            'this process has another config than process 0; start all with the same command'
        )
    processes.on_main(lambda: claim_workdir(workdir, config, free=('rounds',)))
    key, log, state = (
        jax.random.key(seed),
        metrics_log.MetricsLog(workdir),
        State(params, None, 0, 0),
    )
    console.print_run(config, lm, params)
    del params  # the first round's updates write over them
    try:
        measure(lm, state, tests, Folder(workdir, '00'), key, log)
        folders = [Folder(workdir, turn.name) for turn in turns]
        finished = max((i for i, folder in enumerate(folders) if folder.has('state')), default=-1)
        for i, (turn, folder) in enumerate(zip(turns, folders)):
            if i == finished:
                optimizer = train_state.cached_optimizer(turn.train.keywords['optimizer'])
                state = checkpoint.restore(lm, folder, optimizer, state.params)._replace(opt=None)
            elif i > finished:
                state = learn(
                    lm,
                    state,
                    turn,
                    folder,
                    jax.random.fold_in(key, zlib.crc32(turn.name.encode())),
                    log,
                )
            if i >= finished and turn.ends_round:
                measure(lm, state, tests, folder, key, log)
                for old in (
                    [f for f in folders[: i + 1] if f.has('state')][:-keep_states]
                    if keep_states
                    else []
                ):
                    checkpoint.delete(old)
        return processes.on_main(lambda: report.write_report(workdir))
    finally:
        log.close()


def learn(lm, state: State, turn, folder, key, log) -> State:
    """One turn: from the parameters M_t, through what they sample and how that is scored, to M_t+1."""
    begun, compiled = time.time(), log.compiled
    key_of = lambda word: jax.random.fold_in(key, zlib.crc32(word.encode()))
    log.start_turn(turn.name)
    console.say(f'\n=== round {turn.name}')

    prompts = folder.make_once(
        'prompts', Prompt, lambda: turn.prompts(lm, state.params, key_of('prompts'))
    )
    if not prompts:
        raise ValueError(f'round {turn.name}: no prompts came from {turn.prompts.func.__name__}')
    rollouts = folder.make_once(
        'rollouts', Rollout, lambda: turn.sampler(lm, state.params, prompts, key_of('sampler'))
    )
    judgements = folder.make_once(
        'judgements', Judgement, lambda: turn.scorer(lm, state.params, rollouts, key_of('scorer'))
    )
    examples = folder.make_once('examples', Example, lambda: pair(turn, judgements, key_of('pairs')))

    stats = turn_stats.summarize(prompts, judgements, examples)
    console.print_turn(lm, judgements, examples, turn.train)
    if not examples:
        raise ValueError(f'round {turn.name} has nothing to learn from: {json.dumps(stats)}')
    step = int(state.step)
    state, totals = turn.train(
        lm,
        state,
        examples,
        key_of('update'),
        turn.loss,
        lambda i, metrics: log.write(turn.name, step + i, metrics),
    )
    state = state._replace(round=lm.replicate(jax.numpy.int32(turn.round)))

    produced = sum(len(r.tokens) for rollout in rollouts for r in rollout.responses)
    stats |= totals | {'seconds': time.time() - begun, 'compiled': log.compiled - compiled}
    stats['tokens_per_s'] = (produced + totals['tokens']) / stats['seconds']
    log.write(turn.name, int(state.step), {f'turn/{k}': v for k, v in stats.items()})
    folder.write_json('turn.json', stats)
    checkpoint.save(lm, folder, state)
    console.say(
        ', '.join(f'{k} {v:.4g}' if isinstance(v, float) else f'{k} {v}' for k, v in stats.items())
    )
    return state._replace(
        opt=None
    )  # each round's moments start afresh: what samples next has their memory


def pair(turn, judgements, key) -> list[Example]:
    """The examples of all judgements; each draws from a generator of its own prompt. See turns.turn
    for what is left out.
    """
    seed = np.asarray(jax.random.key_data(key)).tolist()
    rng_of = lambda text: np.random.default_rng([*seed, zlib.crc32(text.encode())])
    examples = [e for j in judgements for e in turn.pairs(j, rng_of(j.rollout.prompt.id))]
    if turn.balance is not None and len({e.scores[0] for e in examples}) > 1:
        score, many = collections.Counter(e.scores[0] for e in examples).most_common(1)[0]
        most = int(
            turn.balance * (len(examples) - many) / (1 - turn.balance)
        )  # then they are that share of all
        common = [i for i, e in enumerate(examples) if e.scores[0] == score]
        kept = set(rng_of('balance').choice(common, min(most, many), replace=False).tolist())
        examples = [e for i, e in enumerate(examples) if e.scores[0] != score or i in kept]
    if turn.max_examples is None or turn.max_examples >= len(examples):
        return examples
    return [
        examples[i]
        for i in sorted(rng_of('').choice(len(examples), turn.max_examples, replace=False))
    ]


def measure(lm, state: State, tests: dict, folder, key, log) -> None:
    """Evaluates a round once: the same prompts and draws for every round."""
    if folder.has('evals'):
        return
    begun, results, judged, name = time.time(), {}, {}, f'{os.path.basename(folder.path)}~evals'
    log.start_turn(name)
    for kind, test in tests.items():
        with folder.recording(f'eval_{kind}'):
            results[kind], judged[kind] = test(
                lm, state.params, jax.random.fold_in(key, zlib.crc32(kind.encode()))
            )
        console.say(f'{kind}: ' + ', '.join(f'{k} {v:.4g}' for k, v in results[kind].items()))
    for (
        kind,
        judgements,
    ) in judged.items():  # now that all are done: a killed run measures none of them again
        folder.make_once(f'eval_{kind}', Judgement, lambda judgements=judgements: judgements)
    folder.write_json('evals.json', results)
    flat = {f'{kind}/{k}': v for kind, metrics in results.items() for k, v in metrics.items()}
    log.write(name, int(state.step), flat | {'evals/seconds': time.time() - begun})
    folder.mark_done('evals', {})
