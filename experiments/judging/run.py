"""What does it take for judging to improve in self-rewarding rounds?

    python -m experiments.judging.run --folder=runs/judging_study

The base that ships does not look, as a judge, whether two numbers are the same. So it is taught on,
among other things to compare two numbers: what it still gets wrong then are its sums. That base is
made first, unless it is in the folder. All arms of a seed begin with the same M1 and see the same
prompts. A run that is in the folder already is read, not repeated. Writes results.json and
curve.png.
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
from selfrew.types import Example, Response, State, ask

FOLDER = flags.DEFINE_string('folder', None, 'Where the runs go.', required=True)
SEEDS = flags.DEFINE_list('seeds', ['0', '1', '2'], 'One run each.')
ROUNDS = flags.DEFINE_integer('rounds', 4, 'M1, by imitation, is the first.')
BASE = flags.DEFINE_string(
    'base', None, "The base's folder, or tiny for the one that ships; without it, it is taught."
)

TASKS = (
    'word_problems',
)  # where the base that ships judges badly; of rising numbers it is right in 97 of 100 verdicts
PROMPTS, SEED_DATA, START = 300, 300, 1e-4
ANSWERING, JUDGING = 3e-5, 5e-5  # learning rates
ARMS = flags.DEFINE_list(
    'arms', ['answers', 'truth', 'votes', 'crossed', 'agreeing', 'eft'], 'Which to run.'
)
LESSONS, COMPARISONS, VERDICTS = 64_000, 0.4, 0.4


def lessons() -> list[Example]:
    """Texts to teach with: comparisons of two numbers, worked verdicts, and, the rest of them, lazy
    answers.
    """
    rng, out = np.random.default_rng(0), []
    for prompt in tasks.problems(list(tasks.TASKS), LESSONS, rng):
        task, kind = tasks.get(prompt.meta['task']), rng.random()
        if (
            kind < COMPARISONS
        ):  # how a verdict on a word problem ends, alone: half of the time it is the same number
            one, other = (int(n) for n in rng.integers(0, tasks.word_problems.LARGEST + 1, size=2))
            other = one if rng.random() < 0.5 else other
            said = f'Expected {one}, found {other}. Score: {5 if one == other else 1}'
            prompt = ask(prompt.id, 'Check this answer to the question.')
        elif kind < COMPARISONS + VERDICTS:
            response = tasks.demonstrate(prompt, rng, evenly=True)
            said = task.worked_verdict(prompt, response)
            prompt = ask(
                prompt.id, templates.render('check', prompt=prompt.text, response=response)
            )
        else:
            said = tasks.demonstrate(prompt, rng)
        out.append(Example(prompt, (Response(said),)))
    return out


def teach(folder: str) -> None:
    """Writes the base that ships as it is after those texts."""
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
    """configs/self_rewarding.py with fewer prompts, and after each round's answers what the arm
    says.
    """
    config = self_rewarding.get_config().to_dict() | {
        'seed': seed,
        'rounds': ROUNDS.value,
        'keep_states': 1,
    }
    config['model']['folder'] = folder
    config['start'] = base.imitate(base.ift(SEED_DATA), base.eft(SEED_DATA), lr=START)
    turn = config['round']
    turn['prompts']['n'], turn['train']['lr'], turn['rehearsal'] = PROMPTS, ANSWERING, None
    if arm == 'truth':  # of the answers: exact_answer in the judge's place
        turn['prompts']['answers'], turn['scorer'] = True, {'name': 'exact_answer'}
    elif (
        arm == 'votes'
    ):  # pairs of verdicts on own responses: the most common score against the rarest
        judging = base.judging(votes=8) | {'temperature': 1.0}
        turn['rehearsal'] = meta_rewarding.voted(
            PROMPTS, base.sampling(8), judging, turn['train'] | {'lr': JUDGING}, turn['loss']
        )
    elif (
        arm == 'crossed'
    ):  # own verdicts, where they prefer the response to this prompt to one to another prompt: no truth
        turn['rehearsal'] = selected(
            {
                'name': 'crossed',
                'prompts': base.fresh(600) | {'tasks': TASKS},
                'sampler': base.sampling(1) | {'temperature': 0.7},
            }
        )
    elif (
        arm == 'agreeing'
    ):  # where they rank answers as people do: EFT as the paper makes it, but each round anew
        turn['rehearsal'] = selected(
            {'name': 'ranked', 'tasks': TASKS, 'n': 600, 'responses': 3, 'split': 'train'}
        )
    elif arm == 'eft':  # worked, true verdicts, about as many
        turn['rehearsal'] = base.imitate(base.eft(3000) | {'tasks': TASKS}, lr=JUDGING)
    elif arm != 'answers':
        raise app.UsageError(
            f'no arm {arm!r}; there are: answers, truth, votes, crossed, agreeing, eft'
        )
    config['evals']['judge']['prompts']['tasks'] = TASKS
    return ConfigDict(config).to_dict()  # which fills the placeholders


def selected(graded: dict) -> dict:
    """A turn that imitates own verdicts, at most two rankings a prompt, that put graded responses
    in the order of the grades.
    """
    return base.imitate(graded, lr=JUDGING) | {
        'prompts': graded,
        'scorer': base.judging(votes=8) | {'temperature': 1.0},
        'pairs': {'name': 'agreeing', 'template': 'check', 'count': 2},
    }


def verdicts(where: str, number: int) -> dict:
    """Of a round's single verdicts: how many have the true score, and how many give full marks
    where they should not.
    """
    (folder,) = [
        f
        for f in (f'{number:02d}-rehearsal', f'{number:02d}')
        if os.path.exists(os.path.join(where, 'rounds', f, 'eval_judge.jsonl'))
    ]
    right, praised = [], []
    with open(os.path.join(where, 'rounds', folder, 'eval_judge.jsonl')) as file:
        for row in map(json.loads, file):
            for votes, grade in zip(row['votes'], row['rollout']['prompt']['meta']['grades']):
                right += [vote == grade for vote in votes]
                praised += [vote == tasks.RIGHT for vote in votes if grade != tasks.RIGHT]
    return {'verdicts_right': float(np.mean(right)), 'wrongly_full': float(np.mean(praised))}


def main(_):
    folder = BASE.value or os.path.join(FOLDER.value, 'taught')
    if not BASE.value and not os.path.exists(os.path.join(folder, 'config.json')):
        teach(folder)
    runs = {
        (arm, int(seed)): config_of(folder, arm, int(seed))
        for seed in SEEDS.value
        for arm in ARMS.value
    }
    results = study.run(FOLDER.value, runs, more=verdicts)
    for key in ('accuracy', 'judge', 'judge_pairwise_half', 'verdicts_right', 'wrongly_full'):
        print(f'\n{key}\n{study.table(results, key, seeds=key == "judge")}')
        for arm in ARMS.value[1:]:
            print(
                f'{arm} - {ARMS.value[0]}:',
                '  '.join(study.difference(results, arm, ARMS.value[0], key)),
            )
    study.plot(
        results,
        os.path.join(FOLDER.value, 'curve.png'),
        {
            'accuracy': ('held-out accuracy', (0, 1)),
            'judge': ('judge: pairwise accuracy, ties wrong', (0.5, 1)),
            'verdicts_right': ('verdicts with the true score', (0.5, 1)),
            'wrongly_full': ('full marks for wrong answers', (0, 0.5)),
        },
    )


if __name__ == '__main__':
    app.run(main)
