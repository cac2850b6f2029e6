"""Does SmolLM2 learn to keep constraints from its own answers?

    python -m experiments.real.instructions.run --folder=runs/instructions --model=MODEL --data=DATA

MODEL is a folder, hub name or GGUF file of a chat model, DATA a folder with
alpaca/alpaca_random_9k.json.gz (Alpaca's rows: instruction, input, output). The model samples eight
answers to each training prompt, which asks for one or two constraints that a program checks
(selfrew.tasks.constraints). The arms learn from the answers that keep most and fewest. Held-out
prompts ask for constraints of the kinds that were trained on, and of kinds that were not.
A run that is in the folder is read, not repeated. Writes results.json and tests.json.
"""

import dataclasses
import json
import os

import numpy as np
from absl import flags

from configs import base
from experiments import study
from experiments.real import figures, settings, sources
from selfrew.tasks import constraints

OTHERS = flags.DEFINE_integer('others', 128, 'Held-out prompts with constraints of other kinds.')

NOT_TRAINED = 'numbered', 'starts_with', 'without_word'  # kinds
TRAINED = tuple(kind for kind in constraints.KINDS if kind not in NOT_TRAINED)
SAMPLES = 8
PROMPTS = 128
LONGEST = 96  # tokens of an answer
EVALUATIONS = 'trained', 'others'  # with constraints of kinds that were trained on, and of others


@dataclasses.dataclass(frozen=True)
class Arm:
    """What an arm learns from the pairs of the most and the fewest constraints kept."""

    loss: dict
    lora: int  # rank, 0 for all parameters
    rates: tuple  # tried with --tune; the first is the one chosen


SFT = {'name': 'sft', 'mean': 'token'}
DPO = {'name': 'dpo', 'beta': 0.1}
IRPO = {'name': 'dpo', 'beta': 0.1, 'nll': 1.0}
FULL_RATES, LORA_RATES = (2e-5, 1e-5, 5e-6), (5e-4, 2e-4)
ARMS = {
    'sft': Arm(SFT, 0, (2e-5, 5e-5, 1e-5)),
    'dpo': Arm(DPO, 0, FULL_RATES),
    'irpo': Arm(IRPO, 0, FULL_RATES),
    'dpo_lora': Arm(DPO, 16, LORA_RATES),
    'irpo_lora': Arm(IRPO, 16, LORA_RATES),
}
ON_TWO_CORES = 'sft', 'dpo_lora', 'irpo_lora'


def config_of(name: str, seed: int, rate: float) -> dict:
    """One round of an arm."""
    arm = ARMS[name]

    def asked(side: str, kinds: tuple, **fields) -> dict:
        source = os.path.join(settings.FOLDER.value, 'prompts', f'{side}.jsonl')
        prompts = {'name': 'records', 'source': source, **fields}
        return {'name': 'constrained', 'prompts': prompts, 'most': 2, 'kinds': kinds}

    def heldout(kinds: tuple, n: int | None) -> dict:
        greedy = {'name': 'sample', 'n': 1, 'temperature': 0.0, 'max_tokens': LONGEST}
        scorer = {'name': 'constraints'}
        prompts = asked(settings.heldout(), kinds, n=n)
        return {'name': 'mean_score', 'prompts': prompts, 'sampler': greedy, 'scorer': scorer}

    return base.get(
        seed=seed,
        rounds=1,
        keep_states=1,
        model=base.model() | settings.model(lora=arm.lora),
        round={
            'prompts': asked('train', TRAINED, n=settings.PROMPTS.value or PROMPTS),
            'sampler': {
                'name': 'sample',
                'n': SAMPLES,
                'temperature': 0.7,
                'max_tokens': LONGEST,
            },
            'scorer': {'name': 'constraints'},
            'pairs': {'name': 'extremes', 'count': 2},
            'loss': arm.loss,
            'train': base.training(
                lr=rate, batch=8, row_length=512, epochs=1, warmup=0.1, reference='sampler'
            ),
        },
        evals={
            'trained': heldout(TRAINED, None),
            'others': heldout(NOT_TRAINED, 64 if settings.TUNE.value else OTHERS.value),
        },
    ).to_dict()


def main(_):
    folder = settings.FOLDER.value
    sources.write_instructions(os.path.join(folder, 'prompts'), settings.DATA.value)

    def extra_figures(workdir: str, number: int) -> dict:
        more = {}
        for name in EVALUATIONS:
            judged = figures.judgements(workdir, number, name)
            kept_all = [score == 1.0 for score in figures.scores(judged).values()]
            more[f'{name}_all_kept'] = float(np.mean(kept_all))
            if name == 'trained':
                made = settings.untouched().fluency(judged)
                more |= {f'{name}_{key}': value for key, value in made.items()}
        return more

    seeds = settings.seeds()
    trials = settings.trials({name: arm.rates for name, arm in ARMS.items()}, ON_TWO_CORES)
    runs = {
        (label, seed): config_of(name, seed, rate) for seed in seeds for label, name, rate in trials
    }
    arms = [label for label, _, _ in trials]
    results = study.run(folder, runs, extra_figures, sources=dict.fromkeys(runs, arms[0]))
    print(json.dumps(figures.write_tests(folder, arms, seeds, EVALUATIONS, 1), indent=1))
    print(study.table(results, 'trained'))


if __name__ == '__main__':
    settings.run_study(main)
