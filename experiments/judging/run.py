"""What does it take for judging to improve in self-rewarding rounds?

    python -m experiments.judging.run --folder=runs/judging_study

As a judge, the base that ships does not check whether two numbers are the same. So it is first
trained further, among other things to compare two numbers; after that, its remaining mistakes are
in sums. That base is made first, unless it is in the folder. All arms of a seed begin with the same
M1 and see the same prompts. A run that is already in the folder is read, not repeated. Writes
results.json and curve.png.
"""

import functools
import json
import os

import jax
import numpy as np
from absl import app, flags
from ml_collections import ConfigDict

from configs import base, meta_rewarding, self_rewarding
from experiments import study
from selfrew import export, tasks
from selfrew.engine import trainer
from selfrew.models import language_model
from selfrew.shelves import losses, optimizers
from selfrew.tasks import templates
from selfrew.types import Example, Response, State, user_prompt

KNOWN_ARMS = ['answers', 'truth', 'votes', 'crossed', 'agreeing', 'eft']

FOLDER = flags.DEFINE_string('folder', None, 'Where the runs go.', required=True)
SEEDS = flags.DEFINE_list('seeds', ['0', '1', '2'], 'One run each.')
ROUNDS = flags.DEFINE_integer('rounds', 4, 'M1, by imitation, is the first.')
BASE = flags.DEFINE_string(
    'base', None, "The base's folder, or tiny for the one that ships; by default it is taught."
)
ARMS = flags.DEFINE_list('arms', KNOWN_ARMS, 'Which to run.')

# The task that the base that ships judges badly; of its verdicts on rising numbers 97 in 100 are
# right.
TASKS = ('word_problems',)
PROMPTS, SEED_DATA = 300, 300
START_RATE, ANSWERING_RATE, JUDGING_RATE = 1e-4, 3e-5, 5e-5  # learning rates
# The lessons of the taught base: how many, and the shares of comparisons and of verdicts.
LESSONS, COMPARISONS, VERDICTS = 64_000, 0.4, 0.4


def lessons() -> list[Example]:
    """What the base is taught: comparisons of two numbers, worked verdicts and lazy answers."""
    rng, examples = np.random.default_rng(0), []
    for prompt in tasks.problems(list(tasks.TASKS), LESSONS, rng):
        kind = rng.random()
        if kind < COMPARISONS:
            prompt = user_prompt(prompt.id, 'Check this answer to the question.')
            text = comparison(rng)
        elif kind < COMPARISONS + VERDICTS:
            response = tasks.demonstrate(prompt, rng, has_even_flaws=True)
            text = tasks.get(prompt.meta['task']).worked_verdict(prompt, response)
            question = templates.render('check', prompt=prompt.text, response=response)
            prompt = user_prompt(prompt.id, question)
        else:
            text = tasks.demonstrate(prompt, rng)
        examples.append(Example(prompt, (Response(text),)))
    return examples


def comparison(rng) -> str:
    """The end of a verdict on a word problem; half of the time the two numbers are the same."""
    expected, drawn = rng.integers(0, tasks.word_problems.LARGEST + 1, size=2).tolist()
    answer = expected if rng.random() < 0.5 else drawn
    return f'Expected {expected}, found {answer}. Score: {5 if expected == answer else 1}'


def teach(folder: str) -> None:
    """Trains the base that ships on the lessons and writes it to the folder."""
    lm, params = language_model.load(folder='tiny')
    state, _ = trainer.train(
        lm,
        State(params, None, 0, 0),
        lessons(),
        jax.random.key(0),
        losses.sft,
        lambda *_: None,
        optimizer=functools.partial(optimizers.adamw, weight_decay=0.01),
        lr=2e-3,
        batch=64,
        row_length=256,
        warmup=0.02,
        schedule='constant',
    )
    export.save(folder, lm, state.params)


def config_of(folder: str, arm: str, seed: int) -> dict:
    """configs/self_rewarding.py with fewer prompts; the arm says what follows a round's answers."""
    if arm not in KNOWN_ARMS:
        raise app.UsageError(f'no arm {arm!r}; there are: {", ".join(KNOWN_ARMS)}')
    config: dict = self_rewarding.get_config().to_dict()
    config |= {'seed': seed, 'rounds': ROUNDS.value, 'keep_states': 1}
    config['model']['folder'] = folder
    config['start'] = base.imitation_turn(base.ift(SEED_DATA), base.eft(SEED_DATA), lr=START_RATE)
    turn = config['round']
    turn['prompts']['n'], turn['train']['lr'] = PROMPTS, ANSWERING_RATE
    turn['rehearsal'] = rehearsal_of(arm, turn)
    if arm == 'truth':  # of the answers: exact_answer in the judge's place
        turn['prompts']['answers'], turn['scorer'] = True, {'name': 'exact_answer'}
    config['evals']['judge']['prompts']['tasks'] = TASKS
    return ConfigDict(config).to_dict()  # which fills the placeholders


def rehearsal_of(arm: str, turn: dict) -> dict | None:
    """The turn that follows a round's answers, or None."""
    if arm == 'votes':
        # Pairs of verdicts on own responses: the most common score against the rarest.
        judging = base.judging(votes=8) | {'temperature': 1.0}
        voted = meta_rewarding.voted(PROMPTS, base.sampling(8), judging)
        return voted | {'loss': turn['loss'], 'train': turn['train'] | {'lr': JUDGING_RATE}}
    if arm == 'crossed':
        # Own verdicts that prefer the response to a prompt to the response to another prompt; no
        # ground truth.
        prompts, sampler = base.fresh(600) | {'tasks': TASKS}, base.sampling(1)
        sampler['temperature'] = 0.7
        return selected({'name': 'crossed', 'prompts': prompts, 'sampler': sampler})
    if arm == 'agreeing':
        # Own verdicts that rank answers as people do: the paper's EFT, made anew each round.
        ranked = {'name': 'ranked', 'tasks': TASKS, 'n': 600, 'responses': 3, 'split': 'train'}
        return selected(ranked)
    if arm == 'eft':  # worked, true verdicts, about as many as the other arms have
        return base.imitation_turn(base.eft(3000) | {'tasks': TASKS}, lr=JUDGING_RATE)
    return None


def selected(graded: dict) -> dict:
    """A turn that imitates own verdicts which order graded responses by their grades.

    At most two rankings a prompt are imitated.
    """
    return base.imitation_turn(graded, lr=JUDGING_RATE) | {
        'prompts': graded,
        'scorer': base.judging(votes=8) | {'temperature': 1.0},
        'pairs': {'name': 'agreeing', 'template': 'check', 'count': 2},
    }


def verdict_rates(workdir: str, number: int) -> dict:
    """Shares of a round's single verdicts: with the true score, and with undeserved full marks."""
    for turn in (f'{number:02d}-rehearsal', f'{number:02d}'):
        path = os.path.join(workdir, 'rounds', turn, 'eval_judge.jsonl')
        if os.path.exists(path):
            break
    is_right, is_full = [], []
    with open(path) as file:
        for row in map(json.loads, file):
            for votes, grade in zip(row['votes'], row['rollout']['prompt']['meta']['grades']):
                is_right += [vote == grade for vote in votes]
                is_full += [vote == tasks.RIGHT for vote in votes if grade != tasks.RIGHT]
    return {'verdicts_right': float(np.mean(is_right)), 'wrongly_full': float(np.mean(is_full))}


def main(_):
    folder, arms = BASE.value or os.path.join(FOLDER.value, 'taught'), ARMS.value
    if not BASE.value and not os.path.exists(os.path.join(folder, 'config.json')):
        teach(folder)
    seeds = map(int, SEEDS.value)
    runs = {(arm, seed): config_of(folder, arm, seed) for seed in seeds for arm in arms}
    results = study.run(FOLDER.value, runs, extra_figures=verdict_rates)
    for key in ('accuracy', 'judge', 'judge_pairwise_half', 'verdicts_right', 'wrongly_full'):
        print(f'\n{key}\n{study.table(results, key, seeds=key == "judge")}')
        for arm in arms[1:]:
            print(f'{arm} - {arms[0]}:', '  '.join(study.difference(results, arm, arms[0], key)))
    panels = {
        'accuracy': ('held-out accuracy', (0, 1)),
        'judge': ('judge: pairwise accuracy, ties wrong', (0.5, 1)),
        'verdicts_right': ('verdicts with the true score', (0.5, 1)),
        'wrongly_full': ('full marks for wrong answers', (0, 0.5)),
    }
    study.plot(results, os.path.join(FOLDER.value, 'curve.png'), panels)


if __name__ == '__main__':
    app.run(main)
