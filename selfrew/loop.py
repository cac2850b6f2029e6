"""The method: prompts, samples, scores, pairs, updates; round after round.

Every method in configs/ runs through this loop. One that needs another control flow copies this
file.
"""

import contextlib
import dataclasses
import os
import time

import jax

from selfrew.engine import progress, train_state
from selfrew.engine.finite import NotFinite
from selfrew.engine.generate import early_stop
from selfrew.engine.sampling_layout import SamplingCopy
from selfrew.mesh import keys, memory, processes, stopping
from selfrew.running import (
    checkpoint,
    console,
    default_evals,
    inputs,
    lock,
    metrics_log,
    report,
    reuse,
    selection,
    starts,
    status,
    turn_files,
    turn_stats,
)
from selfrew.running.config import bind_config, check_judges_fit
from selfrew.running.stage import Folder, check_local, claim_workdir, has_config, start_time
from selfrew.shelves import samplers, scorers
from selfrew.types import Example, Judgement, Prompt, Rollout, State

# Fields of a config that may differ when a run is resumed. Those of the last line change what a run
# takes of its devices, and its numbers by rounding.
MAY_CHANGE = (
    *('rounds', 'max_unread', 'keep_states', 'save_every', 'save_minutes', 'keep_saves'),
    *('mesh', 'accumulate', 'remat', 'cache_gib'),
)


def run(
    workdir: str,
    source: str | None = None,
    allow_changed_inputs: bool = False,
    tensorboard: bool = True,
    wandb: str | None = None,
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
      allow_changed_inputs: goes on with files of prompts or templates that are not those that the
        run began with. tensorboard, wandb: see MetricsLog.
      seed: of all random draws. model: see language_model.describe. mesh: data, fsdp, tensor.
      rounds, round, start, by_round: see turns.bind_turns.
      evals: name -> entry of the shelf evals; each runs before the first round, and after every
        `evals_every` rounds and the last. None: see default_evals; {}: none.
      keep_states: how many of the saved states stay on disk, the last ones, or None for all.
        states_every: the states of every so many rounds are saved, and of the last. A run that is
        resumed makes the updates since then again, of the samples that it has.
    Raises ValueError if the config or the data are wrong, before any work starts where possible, or
    if another process runs there; OSError, with the path, where a file cannot be written;
    stopping.Stopped if it was asked to stop.
    """
    keys.check_seed(seed)
    check_local(workdir)
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
    bind_config(config | {'evals': evals or {}})  # what is wrong is told before files are read
    config, about_evals = default_evals.with_default(config, workdir)
    bound = bind_config(config)
    if source:
        reuse.check(source, config)
    turns, evaluations, lm = bound.turns, bound.evaluations, bound.describe_model()
    check_judges_fit(bound, lm)
    if is_finished(workdir, config, turns):
        return processes.on_main(lambda: report.write_if_possible(workdir))
    with lock.held(workdir, console.say):
        changes = claim_workdir(workdir, config, free=MAY_CHANGE)
        changes += inputs.check(workdir, config, allow_changed_inputs)
        with (
            status.reporting(workdir) as run_status,
            contextlib.closing(metrics_log.MetricsLog(workdir, tensorboard, wandb)) as log,
        ):
            if about_evals:
                console.say(about_evals)
            console.print_changes(changes, starts.record(workdir, seed, changes))
            for line in reuse.take(workdir, source, config) if source else ():
                console.say(line)
            run_turns(workdir, config, lm, turns, evaluations, log, run_status)
    return processes.on_main(lambda: report.table(report.read_rounds(workdir)))


def run_turns(workdir: str, config: dict, lm, turns, evaluations: dict, log, run_status) -> None:
    """Evaluates the base, then makes all turns that are not yet made, in order."""
    run_status.begin('00', 'load')
    params = lm.base_params()
    lm = at_start(lm, start_time(workdir))
    key, state = jax.random.key(config['seed']), State(params, None, 0, 0)
    for_sampling = SamplingCopy(lm)
    console.print_run(config, lm, params, for_sampling.lm.mesh)
    del params  # the first round's updates overwrite them
    rounds = config['rounds']
    evaluate(for_sampling, state, evaluations, Folder(workdir, '00'), key, log, run_status)
    if turns:
        status.write_report(workdir, 'running')
    folders = [Folder(workdir, turn.name) for turn in turns]
    first = checkpoint.last_sound(folders, console.say) or 0
    for turn, following, folder in zip(turns[first:], [*turns[first + 1 :], None], folders[first:]):
        saves = checkpoint.TrainingSaves(folder, console.say)
        if folder.has('state'):
            optimizer = train_state.cached_optimizer(turn.train.keywords['optimizer'])
            trained = train_state.training_only(lm, turn.train.keywords.get('only'))
            state = checkpoint.restore(trained, folder, optimizer, state.params)
        else:
            k_turn = keys.fold_name(key, turn.name)
            state = learn(lm, for_sampling, state, turn, folder, k_turn, log, saves, run_status)
            if is_due(turn, config['states_every'], rounds):
                run_status.begin(turn.name, 'save')
                checkpoint.save(lm, folder, state)
            stopping.check()
        saves.delete()
        if following is None or not following.keeps_optimizer:
            state = state._replace(opt=None)  # sampling needs the memory
        if turn.ends_round and is_due(turn, config['evals_every'], rounds):
            evaluate(for_sampling, state, evaluations, folder, key, log, run_status)
            if following is not None:
                status.write_report(workdir, 'running')
        if turn.ends_round:
            checkpoint.delete_old(folders, keep=config['keep_states'])


def is_finished(workdir: str, config: dict, turns) -> bool:
    """Whether the workdir holds this run, finished, so that there is nothing to do or to write."""
    if not has_config(workdir, config):
        return False
    folders = [Folder(workdir, turn.name) for turn in turns]
    is_evaluated = all(f.has_json('evals') for f in (Folder(workdir, '00'), *folders[-1:]))
    return is_evaluated and all(checkpoint.is_sound(folder) for folder in folders[-1:])


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


def learn(
    lm, for_sampling: SamplingCopy, state: State, turn, folder, key, log, saves, run_status
) -> State:
    """One turn: from the parameters M_t, through their scored samples, to M_t+1.

    The turn's own examples come first, then those of each pipeline that is joined to it.
    `for_sampling` is the model as it samples. `saves` has the states amid a training that was
    stopped.

    Raises ValueError if there are no prompts, no examples to train on, or if a number of the
    training is not finite.
    """
    begun, compiled, before = time.time(), log.compiled, progress.totals()
    log.start_turn(turn.name, int(state.step) + saves.updates)
    examples, stats, unread, missing = [], {}, [], []
    for pipeline in turn.pipelines:
        console.say(f'\n=== turn {pipeline.name}')
        title = pipeline.title
        k_pipeline = keys.fold_name(key, f'join/{title}') if title else key
        own_folder = Folder(folder.workdir, pipeline.name) if title else folder
        try:
            prompts, judgements, made = make_stages(
                for_sampling, state.params, pipeline, own_folder, k_pipeline, run_status
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
        missing.append(turn_stats.what_fell_out(pipeline, prompts, judgements, made))
    if not examples:
        raise ValueError(f'turn {turn.name} has nothing to learn from: {"; ".join(missing)}')

    for_sampling.drop()
    step, k_update = int(state.step), keys.fold_name(key, 'update')

    def log_step(i: int, metrics: dict) -> None:
        log.write(turn.name, step + i, metrics)

    run_status.begin(turn.name, 'update')
    try:
        state, totals = turn.train(lm, state, examples, k_update, turn.loss, log_step, saves)
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


def make_stages(
    for_sampling: SamplingCopy, params, turn, folder, key, run_status
) -> tuple[list, list, list]:
    """(prompts, judgements, examples) of a turn. Each stage is made once and kept as a file."""

    def key_of(stage: str):
        run_status.begin(turn.name, stage)
        stopping.check()
        return keys.fold_name(key, stage)

    prompts = folder.make_once(
        'prompts', Prompt, lambda: turn.prompts(*for_sampling.of(params), key_of('prompts'))
    )
    if not prompts:
        raise ValueError(f'turn {turn.name}: no prompts came from {turn.prompts.func.__name__}')
    with early_stop.watching(turn.max_unread, scorers.unread_reason(turn.scorer)):
        rollouts = folder.make_once(
            'rollouts',
            Rollout,
            lambda: turn.sampler(*for_sampling.of(params), prompts, key_of('sampler')),
        )
        judgements = folder.make_once(
            'judgements',
            Judgement,
            lambda: turn.scorer(*for_sampling.of(params), rollouts, key_of('scorer')),
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


def evaluate(
    for_sampling: SamplingCopy, state: State, evaluations: dict, folder, key, log, run_status
) -> None:
    """Evaluates a round, unless that is done; prompts and draws are the same for every round."""
    if folder.has_json('evals'):
        return
    begun, results, judgements_of = time.time(), {}, {}
    title = f'{os.path.basename(folder.path)}~evals'
    log.start_turn(title)
    for name, evaluation in evaluations.items():
        run_status.begin(os.path.basename(folder.path), f'evals/{name}')
        stopping.check()
        with folder.recording(f'eval_{name}'):
            results[name], judgements_of[name] = evaluation(
                *for_sampling.of(state.params), keys.fold_name(key, name)
            )
        console.print_metrics(results[name], title=name)
    # Only after the last evaluation: writing a stage deletes the recorded samples that a resumed
    # run would reuse.
    for name, judgements in judgements_of.items():
        folder.make_once(f'eval_{name}', Judgement, lambda judgements=judgements: judgements)
    sha256 = folder.write_json('evals.json', results)
    flat = {f'{name}/{k}': v for name, metrics in results.items() for k, v in metrics.items()}
    log.write(title, int(state.step), flat | {'evals/seconds': time.time() - begun})
    folder.mark_done('evals', {'sha256': sha256})
