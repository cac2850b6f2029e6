"""The method: prompts, samples, scores, pairs, updates; round after round.

Every method in configs/ runs through this loop. One that needs another control flow copies this
file.
"""

import dataclasses
import os
import time

import jax

from selfrew.engine import progress, train_state
from selfrew.engine.finite import NotFinite
from selfrew.engine.generate import early_stop
from selfrew.mesh import keys, memory, processes
from selfrew.run import (
    checkpoint,
    console,
    metrics_log,
    report,
    reuse,
    selection,
    turn_files,
    turn_stats,
)
from selfrew.run.config import bind_config
from selfrew.run.stage import Folder, claim_workdir, start_time
from selfrew.shelves import samplers, scorers
from selfrew.types import Example, Judgement, Prompt, Rollout, State

# Fields of a config that may differ when a run is resumed. The latter three change how much memory
# a run takes, and its numbers by rounding.
MAY_CHANGE = 'rounds', 'max_unread', 'accumulate', 'remat', 'cache_gib'


def run(
    workdir: str,
    source: str | None = None,
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
    evals_every: int = 1,
    states_every: int = 1,
) -> str:
    """Runs a config to its end, or resumes a killed run; returns the table by round.

    Args:
      source: a run whose finished prompts, rollouts and judgements are taken where this config
        would make them alike, see reuse.take.
      seed: of all random draws. model: see language_model.describe. mesh: data, fsdp, tensor.
      rounds, round, start, by_round: see turns.bind_turns.
      evals: name -> entry of the shelf evals; each runs before the first round, and after every
        `evals_every` rounds and the last.
      keep_states: how many of the saved states stay on disk, the last ones, or None for all.
        states_every: the states of every so many rounds are saved, and of the last. A run that is
        resumed makes the updates since then again, of the samples that it has.
    Raises ValueError if the config or the data are wrong, before any work starts where possible.
    """
    keys.check_seed(seed)
    config = {
        'seed': seed,
        'model': model,
        'mesh': mesh,
        'rounds': rounds,
        'round': round,
        'start': start,
        'by_round': by_round,
        'evals': evals,
        'keep_states': keep_states,
        'evals_every': evals_every,
        'states_every': states_every,
    }
    turns, evaluations, describe_model = bind_config(config)
    if source:
        reuse.check(source, config)
    lm = describe_model()
    claim_workdir(workdir, config, free=MAY_CHANGE)
    for line in reuse.take(workdir, source, config) if source else ():
        console.say(line)
    params = lm.base_params()
    lm = at_start(lm, start_time(workdir))
    key, log = jax.random.key(seed), metrics_log.MetricsLog(workdir)
    state = State(params, None, 0, 0)
    console.print_run(config, lm, params)
    del params  # the first round's updates overwrite them
    try:
        evaluate(lm, state, evaluations, Folder(workdir, '00'), key, log)
        folders = [Folder(workdir, turn.name) for turn in turns]
        first = max((i for i, folder in enumerate(folders) if folder.has('state')), default=0)
        for turn, following, folder in zip(
            turns[first:], [*turns[first + 1 :], None], folders[first:]
        ):
            if folder.has('state'):
                optimizer = train_state.cached_optimizer(turn.train.keywords['optimizer'])
                trained = train_state.training_only(lm, turn.train.keywords.get('only'))
                state = checkpoint.restore(trained, folder, optimizer, state.params)
            else:
                state = learn(lm, state, turn, folder, keys.fold_name(key, turn.name), log)
                if is_due(turn, states_every, rounds):
                    checkpoint.save(lm, folder, state)
            if following is None or not following.keeps_optimizer:
                state = state._replace(opt=None)  # sampling needs the memory
            if turn.ends_round and is_due(turn, evals_every, rounds):
                evaluate(lm, state, evaluations, folder, key, log)
            if turn.ends_round:
                checkpoint.delete_old(folders, keep=keep_states)
        return processes.on_main(lambda: report.write_report(workdir))
    finally:
        log.close()


def is_due(turn, every: int, rounds: int) -> bool:
    """Whether something that happens every so many rounds, and in the last, happens in a turn's."""
    return turn.round % every == 0 or turn.round == rounds


def at_start(lm, started):
    """The model with the run's start for the date that its chat template writes, if it does."""
    text = lm.text.at(started)
    if text is lm.text:
        return lm
    console.say(f'the chat template is given the date {started:%Y-%m-%d}, see started.json')
    return dataclasses.replace(lm, text=text)


def learn(lm, state: State, turn, folder, key, log) -> State:
    """One turn: from the parameters M_t, through their scored samples, to M_t+1.

    The turn's own examples come first, then those of each pipeline that is joined to it.

    Raises ValueError if there are no prompts, no examples to train on, or if a number of the
    training is not finite.
    """
    begun, compiled, before = time.time(), log.compiled, progress.totals()
    log.start_turn(turn.name)
    examples, stats, unread = [], {}, []
    for pipeline in turn.pipelines:
        console.say(f'\n=== turn {pipeline.name}')
        title = pipeline.title
        k_pipeline = keys.fold_name(key, f'join/{title}') if title else key
        own_folder = Folder(folder.workdir, pipeline.name) if title else folder
        try:
            prompts, judgements, made = make_stages(
                lm, state.params, pipeline, own_folder, k_pipeline
            )
        except early_stop.StopEarly as problem:
            raise ValueError(
                f'turn {pipeline.name}: {problem}\nWhat was sampled is kept; a larger max_unread '
                f'of the turn (1.0: never stops) goes on with it.'
            ) from None
        console.print_turn(lm, judgements, made, turn.train)
        unread += turn_stats.unread_verdicts(judgements)
        kept = turn_files.earlier_examples(folder.workdir, pipeline)
        examples += made + kept
        ends_greedy = samplers.ends_greedy(pipeline.sampler)
        numbers = turn_stats.summarize(prompts, judgements, made, greedy_last=ends_greedy)
        numbers |= {'earlier': len(kept)} if kept else {}
        stats |= {f'{title}/{name}' if title else name: n for name, n in numbers.items()}
    if not examples:
        numbers = ', '.join(f'{name} {value:.4g}' for name, value in stats.items())
        raise ValueError(f'turn {turn.name} has nothing to learn from: {numbers}')

    step, k_update = int(state.step), keys.fold_name(key, 'update')

    def log_step(i: int, metrics: dict) -> None:
        log.write(turn.name, step + i, metrics)

    try:
        state, totals = turn.train(lm, state, examples, k_update, turn.loss, log_step)
    except NotFinite as problem:
        raise ValueError(
            turn_files.write_not_finite(turn, folder, step, examples, problem)
        ) from None
    state = state._replace(round=lm.replicate(jax.numpy.int32(turn.round)))

    stats |= totals | {'seconds': time.time() - begun, 'compiled': log.compiled - compiled}
    stats['peak_gib'] = memory.peak_bytes(lm.mesh.local_devices[0]) / 2**30
    stats |= progress.totals().since(before, stats['seconds'], totals['tokens'])
    log.write(turn.name, int(state.step), {f'turn/{name}': v for name, v in stats.items()})
    folder.write_json('turn.json', stats | ({'unread_verdicts': unread} if unread else {}))
    console.print_metrics(stats)
    return state


def make_stages(lm, params, turn, folder, key) -> tuple[list, list, list]:
    """(prompts, judgements, examples) of a turn. Each stage is made once and kept as a file."""

    def key_of(stage: str):
        return keys.fold_name(key, stage)

    prompts = folder.make_once(
        'prompts', Prompt, lambda: turn.prompts(lm, params, key_of('prompts'))
    )
    if not prompts:
        raise ValueError(f'turn {turn.name}: no prompts came from {turn.prompts.func.__name__}')
    with early_stop.watching(turn.max_unread, scorers.unread_reason(turn.scorer)):
        rollouts = folder.make_once(
            'rollouts', Rollout, lambda: turn.sampler(lm, params, prompts, key_of('sampler'))
        )
        judgements = folder.make_once(
            'judgements', Judgement, lambda: turn.scorer(lm, params, rollouts, key_of('scorer'))
        )
    examples = folder.make_once(
        'examples', Example, lambda: make_examples(turn, judgements, key_of('pairs'))
    )
    return prompts, judgements, examples


def make_examples(turn, judgements, key) -> list[Example]:
    """The examples of all judgements, balanced and subsampled as turns.turn says.

    Each judgement is paired with a random generator of its own, seeded by the prompt's id.
    """
    examples = []
    for judgement in judgements:
        examples += turn.pairs(judgement, keys.named_rng(key, judgement.rollout.prompt.id))
    examples = selection.balance_scores(examples, turn.balance, keys.named_rng(key, 'balance'))
    return selection.subsample(examples, turn.max_examples, keys.named_rng(key, ''))


def evaluate(lm, state: State, evaluations: dict, folder, key, log) -> None:
    """Evaluates a round, unless that is done; prompts and draws are the same for every round."""
    if folder.has('evals'):
        return
    begun, results, judgements_of = time.time(), {}, {}
    title = f'{os.path.basename(folder.path)}~evals'
    log.start_turn(title)
    for name, evaluation in evaluations.items():
        with folder.recording(f'eval_{name}'):
            results[name], judgements_of[name] = evaluation(
                lm, state.params, keys.fold_name(key, name)
            )
        console.print_metrics(results[name], title=name)
    # Only after the last evaluation: writing a stage deletes the recorded samples that a resumed
    # run would reuse.
    for name, judgements in judgements_of.items():
        folder.make_once(f'eval_{name}', Judgement, lambda judgements=judgements: judgements)
    folder.write_json('evals.json', results)
    flat = {f'{name}/{k}': v for name, metrics in results.items() for k, v in metrics.items()}
    log.write(title, int(state.step), flat | {'evals/seconds': time.time() - begun})
    folder.mark_done('evals', {})
