"""Does SmolLM2 learn to keep constraints from its own answers?

    python -m experiments.real.instructions.run --folder=runs/instructions --model=MODEL --data=DATA

MODEL is a folder, hub name or GGUF file of a chat model, DATA a folder with
alpaca/alpaca_random_9k.json.gz (Alpaca's rows: instruction, input, output). The model samples eight
answers to each training prompt, which asks for one or two constraints that a program checks
(selfrew.tasks.constraints). The arms learn from the answers that keep most and fewest. Held-out
prompts ask for constraints of the kinds that were trained on, and of kinds that were not.
A run that is in the folder is read, not repeated. Writes results.json.
"""

import dataclasses
import gzip
import json
import os
import re

import numpy as np
from absl import app, flags

import selfrew
from configs import base
from experiments import study
from experiments.real import figures
from selfrew.engine.run_files import write_atomic
from selfrew.running.stage import json_bytes
from selfrew.tasks import constraints

FOLDER = flags.DEFINE_string('folder', None, 'Where the runs go.', required=True)
MODEL = flags.DEFINE_string('model', None, 'A folder, hub name or GGUF file.', required=True)
DATA = flags.DEFINE_string('data', None, 'The folder with alpaca/.', required=True)
SEEDS = flags.DEFINE_list('seeds', ['0', '1', '2'], 'One run of each arm each.')
PROMPTS = flags.DEFINE_integer('prompts', 256, 'Training prompts of a run.')
DTYPE = flags.DEFINE_string('dtype', 'float32', 'Of the compute.')
TUNE = flags.DEFINE_bool('tune', False, 'Instead, run each arm with each rate of its grid.')

NOT_TRAINED = 'numbered', 'starts_with', 'without_word'  # kinds
TRAINED = tuple(kind for kind in constraints.KINDS if kind not in NOT_TRAINED)
SAMPLES = 8
LONGEST = 96  # tokens of an answer
MOST = {'train': None, 'dev': 256, 'test': 512}  # prompts of each file


@dataclasses.dataclass(frozen=True)
class Arm:
    """What an arm learns from the pairs of the most and the fewest constraints kept."""

    loss: dict
    lora: int  # rank, 0 for all parameters
    rates: tuple  # tried with --tune; the first is the one chosen


SFT = {'name': 'sft', 'mean': 'token'}
DPO = {'name': 'dpo', 'beta': 0.1}
IRPO = {'name': 'dpo', 'beta': 0.1, 'nll': 1.0}
FULL_RATES, LORA_RATES = (3e-6, 1e-5, 1e-6), (1e-4, 3e-4, 3e-5)
ARMS = {
    'sft': Arm(SFT, 0, (1e-5, 3e-5, 3e-6)),
    'dpo': Arm(DPO, 0, FULL_RATES),
    'irpo': Arm(IRPO, 0, FULL_RATES),
    'sft_lora': Arm(SFT, 16, LORA_RATES),
    'dpo_lora': Arm(DPO, 16, LORA_RATES),
    'irpo_lora': Arm(IRPO, 16, LORA_RATES),
}
NAMES = flags.DEFINE_list('arms', list(ARMS), 'Which to run.')

# Instructions that already ask for a form, or for more than a short answer.
TAKEN = re.compile(
    r'sentence|word|list|paragraph|bullet|letter|poem|haiku|code|essay|story|article|script|\d|"',
    re.IGNORECASE,
)


def write_prompts(folder: str) -> None:
    """Writes train.jsonl, dev.jsonl, on which settings are chosen, and test.jsonl.

    Near-copies lie in one file, see figures.side_of.
    """
    with gzip.open(os.path.join(DATA.value, 'alpaca', 'alpaca_random_9k.json.gz')) as file:
        rows = json.load(file)
    texts = [' '.join(row['instruction'].split()) for row in rows if not row['input']]
    texts = [text for text in dict.fromkeys(texts) if len(text) < 120 and not TAKEN.search(text)]
    for side in figures.SIDES:
        rows = [{'prompt': text} for text in texts if figures.side_of(text) == side]
        figures.write_rows(folder, side, rows[: MOST[side]])


def config_of(name: str, seed: int, rate: float) -> dict:
    """One round of an arm."""
    arm = ARMS[name]

    def asked(side: str, kinds: tuple, **fields) -> dict:
        source = os.path.join(FOLDER.value, 'prompts', f'{side}.jsonl')
        prompts = {'name': 'records', 'source': source, **fields}
        return {'name': 'constrained', 'prompts': prompts, 'most': 2, 'kinds': kinds}

    def heldout(kinds: tuple) -> dict:
        greedy = {'name': 'sample', 'n': 1, 'temperature': 0.0, 'max_tokens': LONGEST}
        scorer = {'name': 'constraints'}
        prompts = asked('dev' if TUNE.value else 'test', kinds)
        return {'name': 'mean_score', 'prompts': prompts, 'sampler': greedy, 'scorer': scorer}

    model = base.model() | {'folder': MODEL.value, 'max_length': 512, 'dtype': DTYPE.value}
    return base.get(
        seed=seed,
        rounds=1,
        keep_states=1,
        model=model | {'lora': arm.lora},
        round={
            'prompts': asked('train', TRAINED, n=PROMPTS.value),
            'sampler': {
                'name': 'sample',
                'n': SAMPLES,
                'temperature': 0.7,
                'max_tokens': LONGEST,
            },
            'scorer': {'name': 'constraints'},
            'pairs': {'name': 'extremes', 'count': 2},
            'loss': arm.loss,
            'train': base.training(lr=rate, batch=32, row_length=512, epochs=1, warmup=0.1),
        },
        evals={'trained': heldout(TRAINED), 'others': heldout(NOT_TRAINED)},
    ).to_dict()


def main(_):
    folder = FOLDER.value
    write_prompts(os.path.join(folder, 'prompts'))
    untouched = selfrew.load(MODEL.value, mesh={})

    def extra_figures(workdir: str, number: int) -> dict:
        more = {}
        for name in ('trained', 'others'):
            judged = figures.judgements(workdir, number, name)
            kept_all = [score == 1.0 for score in figures.scores(judged).values()]
            made = figures.fluency(untouched, judged) | {'all_kept': float(np.mean(kept_all))}
            more |= {f'{name}_{key}': value for key, value in made.items()}
        return more

    seeds = [study.TUNING_SEED] if TUNE.value else list(map(int, SEEDS.value))
    runs = {
        (f'{name}@{rate:g}' if TUNE.value else name, seed): config_of(name, seed, rate)
        for seed in seeds
        for name in NAMES.value
        for rate in (ARMS[name].rates if TUNE.value else ARMS[name].rates[:1])
    }
    first = {seed: next(arm for arm, other in runs if other == seed) for seed in seeds}
    sources = {(arm, seed): first[seed] for arm, seed in runs}
    results = study.run(folder, runs, extra_figures, sources)
    tests = {arm: compare(folder, arm, seeds) for arm in dict.fromkeys(arm for arm, _ in runs)}
    write_atomic(os.path.join(folder, 'tests.json'), json_bytes(tests))
    for arm, by_name in tests.items():
        for name, test in by_name.items():
            print(f'{arm} {name}: {test}')
    print(study.table(results, 'trained'))


def compare(folder: str, arm: str, seeds: list[int]) -> dict:
    """An arm against the untouched model, each evaluation's prompts paired, over all seeds."""
    tests = {}
    for name in ('trained', 'others'):
        before, after = (
            figures.mean_by_prompt(
                [
                    figures.scores(figures.judgements(f'{folder}/{arm}-{seed}', number, name))
                    for seed in seeds
                ]
            )
            for number in (0, 1)
        )
        tests[name] = figures.paired(after, before)
    return tests


if __name__ == '__main__':
    app.run(main)
