"""Every method of alignment on one plane: what reward it buys for how much KL from the base.

    python -m experiments.reward_kl.run --folder=runs/reward_kl

Two tasks. `letters`: a model whose answers can all be counted, so that every number is exact.
`words`: the tiny base answers word problems and instructions, and the reward is whether an answer
is right. Writes results.json and curve.png. A task and seed that is in the folder already is read,
not run again.
"""

import functools
import json
import os
import time

import jax
import numpy as np
from absl import app, flags

from experiments.reward_kl import figure, letters, online
from selfrew.engine.generate import Control
from selfrew.engine.run_files import write_atomic
from selfrew.mesh import keys
from selfrew.models import language_model
from selfrew.running.stage import json_bytes
from selfrew.shelves import evals, losses, pairs, prompts as sources, samplers, scorers
from selfrew.shelves.samplers.plain import sample_with
from selfrew.tasks import laws

FOLDER = flags.DEFINE_string('folder', None, 'Where the results go.', required=True)
SEEDS = flags.DEFINE_list('seeds', ['0', '1', '2'], 'One run of each task each.')
TASKS = flags.DEFINE_list('tasks', ['letters', 'words'], 'Which to run.')

ADAPTERS = 8  # rank, of prefix scorers
SAMPLES = 256  # of a round of training on samples
CANDIDATES = 2, 6, 16, 50  # K
SIZES = 2, 4, 8, 16, 50, 128  # N
GROUP = functools.partial(pairs.group, all_ties=True)
PAIR = functools.partial(pairs.extremes, count=1)


def online_methods(beta: dict) -> dict:
    """Method -> (loss, rule, samples of a prompt). beta: of each method."""
    return {
        'rloo': (functools.partial(losses.rloo, beta=beta['rloo']), GROUP, 8),
        'grpo': (functools.partial(losses.grpo, beta=beta['grpo']), GROUP, 8),
        'online dpo': (functools.partial(losses.dpo, beta=beta['online dpo']), PAIR, 2),
        'online ipo': (functools.partial(losses.ipo, tau=beta['online ipo']), PAIR, 2),
    }


def load(folder: str) -> tuple:
    """((lm, params) of the base, the same with adapters and a value head)."""
    base = language_model.load(folder=folder)
    return base, language_model.load(folder=folder, lora=ADAPTERS, value_head=True)


# --- letters: everything is exact ---------------------------------------------------------------

LETTER_BETAS = {
    'rloo': (0.25, 1.0),
    'grpo': (0.05, 0.3),
    'online dpo': (0.1, 0.5),
    'online ipo': (0.1, 0.5),
}
LETTER_MARKS = 10, 20, 40, 80


def run_letters(folder: str, seed: int) -> list[dict]:
    """The rows of the task `letters`."""
    model_folder = os.path.join(folder, f'letters-{seed}')
    if not os.path.exists(os.path.join(model_folder, 'config.json')):
        letters.write_folder(model_folder, seed)
    base, scorer_model = load(model_folder)
    world = letters.make_world(base[0])
    law, _ = letters.token_laws(world, base[1])
    base_law = letters.outcome_law(world, law)
    rows = []

    def add(method: str, knob: float, outcome_law, **more) -> None:
        row = letters.place(world, outcome_law, base_law)
        best = laws.ceiling(base_law, world.outcome_rewards, row['kl'])
        rows.append({'method': method, 'knob': knob} | row | {'ceiling': best} | more)
        print(rows[-1], flush=True)

    add('base', 0.0, base_law)
    for n in SIZES:
        add('best-of-n', n, letters.best_of_n(world, base_law, n))
    for strength in (0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0):
        add('tilted (ceiling)', strength, letters.tilted(world, base_law, strength))
    truth = letters.true_values(world, law)
    values = {'true values': truth}
    for loss in ('cd_q', 'cd_fudge'):
        params = online.learn_values(
            base,
            scorer_model,
            letters.prompts(200),
            letters.score,
            seed,
            loss=loss,
            n=8,
            max_tokens=letters.MAX_TOKENS,
            batch=64,
            lr=3e-3,
            epochs=16,
        )
        values[loss] = letters.values_of(world, scorer_model[0], params)
        error = letters.unexplained(world, law, values[loss], truth)
        print(f'{loss}: {error:.4f} of the variance of the values is not explained', flush=True)
        rows.append({'method': f'{loss} values', 'knob': 0.0, 'unexplained': error})
    for name, value in values.items():
        for strength in (0.5, 1.0, 2.0, 4.0):
            add(
                f'token-wise {name}',
                strength,
                letters.outcome_law(world, letters.tokenwise(law, value, strength)),
            )
        for candidates in CANDIDATES:
            add(
                f'block-wise {name}',
                candidates,
                letters.blockwise(world, law, value, candidates, 2),
            )
    for block in (1, 3, 5):
        add(
            f'block-wise cd_q, M={block}',
            6,
            letters.blockwise(world, law, values['cd_q'], 6, block),
        )
    for i in range(2):
        methods = online_methods({name: betas[i] for name, betas in LETTER_BETAS.items()})
        for method, (loss, rule, n) in methods.items():
            trained = online.train_online(
                base,
                lambda number, count: letters.prompts(count // len(letters.QUESTIONS), number),
                letters.score,
                seed,
                loss=loss,
                rule=rule,
                n=n,
                samples=SAMPLES,
                rounds=max(LETTER_MARKS),
                marks=LETTER_MARKS,
                max_tokens=letters.MAX_TOKENS,
                batch=32,
                lr=1e-3,
                epochs=2 if rule is GROUP else 1,
            )
            beta = LETTER_BETAS[method][i]
            for number, params in trained:
                policy, _ = letters.token_laws(world, params)
                add(method, number, letters.outcome_law(world, policy), beta=beta)
                if method == 'online dpo' and number == 20:
                    _add_transfer(add, world, policy, values['cd_q'], beta)
    return rows


def _add_transfer(add, world, policy, values, beta: float) -> None:
    """The base's scorer steers a policy that online DPO made."""
    for strength in (0.5, 1.0, 2.0):
        steered = letters.tokenwise(policy, values, strength)
        add('dpo + token-wise cd_q', strength, letters.outcome_law(world, steered), beta=beta)
    for candidates in (2, 6, 16):
        steered = letters.blockwise(world, policy, values, candidates, 2)
        add('dpo + block-wise cd_q', candidates, steered, beta=beta)


# --- words: by sampling -------------------------------------------------------------------------

LONGEST = 40  # tokens of an answer
PROBLEMS, POOL, DRAWS = 100, 256, 4  # held out; samples of each for best-of-n; for other methods
BLOCK = 8
WORD_BETAS = {'rloo': 0.05, 'grpo': 0.05, 'online dpo': 0.1, 'online ipo': 0.1}
WORD_MARKS = 5, 10, 20, 40
NAMES = 'word_problems', 'rising'
STRENGTHS = 0.5, 1.0, 2.0, 4.0, 8.0, 16.0  # of the tilted law


def run_words(folder: str, seed: int) -> list[dict]:
    """The rows of the task `words`."""
    del folder
    base, scorer_model = load('tiny')
    lm, params = base
    key = jax.random.key(seed)
    problems = sources.task(
        lm,
        params,
        jax.random.fold_in(key, 0),
        tasks=NAMES,
        n=PROBLEMS,
        split='heldout',
        answers=True,
    )

    def held_out(*_):
        return problems  # the same for all methods

    def training_problems(number, count):
        k_round = jax.random.fold_in(keys.fold_name(key, 'training'), number)
        return sources.task(lm, params, k_round, tasks=NAMES, n=count, answers=True)

    sample = functools.partial(samplers.sample, n=DRAWS, max_tokens=LONGEST)
    rows = []

    def add(method: str, knob: float, sampler, policy=params, bound=None, **more) -> dict:
        begun = time.time()
        figures, judgements = evals.reward_kl(
            lm,
            policy,
            jax.random.fold_in(key, 1),
            prompts=held_out,
            sampler=sampler,
            scorer=scorers.exact_answer,
            base_sampler=sample,
        )
        row = {
            'reward': figures['value'],
            'reward_low': figures['low'],
            'reward_high': figures['high'],
            'win_rate': figures['win_rate'],
            'kl': figures['kl'],
            'kl_low': figures['kl_low'],
            'kl_high': figures['kl_high'],
            'kl_kind': 'sampled',
            'length': figures['length'],
        }
        if bound is not None:
            lengths = [len(a.tokens) for j in judgements for a in j.rollout.responses]
            row |= {'kl': bound(lengths), 'kl_kind': 'bound'}
        row['ceiling'] = laws.ceiling(uniform, pool_rewards, row['kl'])
        rows.append({'method': method, 'knob': knob} | row | more)
        print(rows[-1], f'{time.time() - begun:.1f} s', flush=True)
        return rows[-1]

    pool_rows, pool_rewards = _pool(lm, params, key, held_out)
    uniform = [np.full(len(rewards), 1 / len(rewards)) for rewards in pool_rewards]
    for row in pool_rows:
        row['ceiling'] = laws.ceiling(uniform, pool_rewards, row['kl'])
    rows += pool_rows
    add('base', 0.0, sample)
    controls = {}
    for loss in ('cd_q', 'cd_fudge'):
        scorer_params = online.learn_values(
            base,
            scorer_model,
            training_problems(0, 1600),
            scorers.exact_answer,
            seed,
            loss=loss,
            n=4,
            max_tokens=LONGEST,
            batch=64,
            lr=3e-3,
            epochs=4,
        )
        controls[loss] = Control(None, ((scorer_model[0], scorer_params),), loss)
    for loss, control in controls.items():
        for strength in (1.0, 2.0, 4.0, 8.0):
            add(f'token-wise {loss}', strength, _steered(control, strength=strength))
        for candidates in CANDIDATES:
            add(
                f'block-wise {loss}',
                candidates,
                _steered(control, candidates=candidates, block=BLOCK),
                bound=functools.partial(_block_bound, candidates, BLOCK),
            )
    for block in (2, 4, 32):
        add(
            f'block-wise cd_q, M={block}',
            6,
            _steered(controls['cd_q'], candidates=6, block=block),
            bound=functools.partial(_block_bound, 6, block),
        )
    for method, (loss, rule, n) in online_methods(WORD_BETAS).items():
        trained = online.train_online(
            base,
            training_problems,
            scorers.exact_answer,
            seed,
            loss=loss,
            rule=rule,
            n=n,
            samples=SAMPLES,
            rounds=max(WORD_MARKS),
            marks=WORD_MARKS,
            max_tokens=LONGEST,
            batch=32,
            lr=3e-5,
            epochs=2 if rule is GROUP else 1,
        )
        for number, policy in trained:
            row = add(method, number, sample, policy, beta=WORD_BETAS[method])
            if method == 'online dpo' and number == 20:
                _add_word_transfer(add, policy, row['kl'], controls['cd_q'])
    return rows


def _pool(lm, params, key, held_out) -> tuple[list[dict], list]:
    """(rows of best-of-n and of the tilted law, the rewards of each problem's samples)."""
    figures, judgements = evals.best_of_n(
        lm,
        params,
        jax.random.fold_in(key, 2),
        prompts=held_out,
        sampler=functools.partial(samplers.sample, n=POOL, max_tokens=LONGEST),
        scorer=scorers.exact_answer,
        sizes=SIZES,
        strengths=STRENGTHS,
    )
    rewards, rows = [np.sort(judgement.scores) for judgement in judgements], []
    for n in SIZES:
        low, high = evals.student([laws.selection_weights(POOL, n) @ own for own in rewards])
        row = {name: figures[f'{name}/{n}'] for name in ('reward', 'win_rate', 'kl')}
        row |= {'reward_low': low, 'reward_high': high, 'kl_bound': figures[f'kl_bound/{n}']}
        rows.append({'method': 'best-of-n', 'knob': n, 'kl_kind': 'estimate'} | row)
    for strength in STRENGTHS:
        row = {name: figures[f'tilted_{name}/{strength:g}'] for name in ('reward', 'kl', 'samples')}
        tilted = [laws.tilted_estimate(own, 1.0 / strength).reward for own in rewards]
        low, high = evals.student(tilted)
        row |= {'reward_low': low, 'reward_high': high, 'kl_kind': 'weights'}
        rows.append({'method': 'tilted (ceiling)', 'knob': strength} | row)
    return rows + [_first_of_ties(rewards, n, row) for n, row in zip(SIZES, rows)], rewards


def _first_of_ties(rewards: list, n: int, by_order: dict) -> dict:
    """The row of best-of-n where the first of equal rewards is taken, as samplers.best_of_n does.

    Of its KL only the two rewards count, so that the pool's own law serves.
    """
    kls = []
    for own in rewards:
        uniform = np.full(len(own), 1 / len(own))
        kls.append(laws.kl(laws.best_of_n_law(uniform, own, n, ties='first'), uniform))
    row = by_order | {'method': 'best-of-n, first of ties', 'kl_kind': 'pool'}
    return {k: v for k, v in row.items() if k != 'kl_bound'} | {'kl': float(np.mean(kls))}


def _steered(control: Control, **fields):
    """A sampler of controlled decoding."""
    return functools.partial(sample_with, control=control, n=DRAWS, max_tokens=LONGEST, **fields)


def _block_bound(candidates: int, block: int, lengths) -> float:
    """The bound of block-wise control's KL (arXiv 2310.17022, Eq. 11), mean over answers."""
    return float(np.mean(np.ceil(np.array(lengths) / block)) * laws.kl_bound(candidates))


def _add_word_transfer(add, policy, policy_kl: float, control: Control) -> None:
    """The base's scorer steers a policy that online DPO made."""
    for strength in (1.0, 2.0, 4.0):
        add('dpo + token-wise cd_q', strength, _steered(control, strength=strength), policy)
    for candidates in (2, 6, 16):
        add(
            'dpo + block-wise cd_q',
            candidates,
            _steered(control, candidates=candidates, block=BLOCK),
            policy,
            bound=lambda lengths, k=candidates: policy_kl + _block_bound(k, BLOCK, lengths),
        )


RUNS = {'letters': run_letters, 'words': run_words}


def main(_):
    results = []
    for seed in map(int, SEEDS.value):
        for task in TASKS.value:
            if task not in RUNS:
                raise app.UsageError(f'no task {task!r}; there are: {", ".join(RUNS)}')
            path = os.path.join(FOLDER.value, f'{task}-{seed}.json')
            if not os.path.exists(path):
                print(f'##### {task}, seed {seed}', flush=True)
                begun = time.time()
                rows = RUNS[task](FOLDER.value, seed)
                write_atomic(path, json_bytes({'seconds': time.time() - begun, 'rows': rows}))
            with open(path) as file:
                made = json.load(file)
            print(f'{task}, seed {seed}: {made["seconds"]:.0f} s')
            results += [{'task': task, 'seed': seed} | row for row in made['rows']]
    write_atomic(os.path.join(FOLDER.value, 'results.json'), json_bytes(results))
    print(figure.table(results))
    figure.plot(results, os.path.join(FOLDER.value, 'curve.png'))


if __name__ == '__main__':
    app.run(main)
