"""Does IRPO teach SmolLM2 one-step problems that more of the same SFT does not?

    python -m experiments.real.problems.run --folder=runs/problems --model=MODEL --data=DATA

MODEL is a folder, hub name or GGUF file of a chat model, DATA a folder with asdiv/ASDiv.xml and
svamp/svamp_dev_700.jsonl. The arms start with the same SFT on 240 problems with their calculation.
Then each makes rounds of its own on other problems; those that learn from demonstrations make as
many updates. A run that is in the folder is read, not repeated. Writes results.json and tests.json.
"""

import json
import os

from absl import app, flags

import selfrew
from configs import base
from experiments import study
from experiments.real import figures, settings, sources
from selfrew import export
from selfrew.engine.run_files import PUT_BACK, read_json

ROUNDS = flags.DEFINE_integer('rounds', 1, 'Rounds after the SFT.')
SAMPLES = flags.DEFINE_integer('samples', 8, 'Answers to each problem.')
EPOCHS = flags.DEFINE_integer('epochs', 2, 'Passes of the SFT over its 240 problems.')

LONGEST = 48  # tokens of an answer
PROMPTS = 240  # problems to train on after the SFT
SAMPLED_PROBLEMS = 200  # held-out ones, that are also answered with samples at temperature 1

SFT = {'name': 'sft', 'mean': 'token'}
DPO = {'name': 'dpo', 'beta': 0.1}
IRPO = {'name': 'dpo', 'beta': 0.1, 'nll': 1.0}
SAMPLED, GOLD, DEMONSTRATED = 'sampled', 'gold', 'demonstrated'
# What an arm learns from, with which loss, and the rates tried with --tune, the chosen one first.
# sampled: pairs of a right and a wrong answer of its own; of these SFT learns the right ones.
# gold: the same, with the demonstration among the right ones, also where no answer is right.
# demonstrated: the demonstrations of the SFT once more, in each round as many updates as the first
# arm that samples makes in its first.
ARMS = {
    'irpo': (SAMPLED, IRPO, (1e-5, 5e-6, 2e-5)),
    'dpo': (SAMPLED, DPO, (2e-6, 5e-6, 1e-6)),
    'own_sft': (SAMPLED, SFT, (1e-5, 5e-6, 3e-5)),
    'sft': (DEMONSTRATED, SFT, (1e-5, 5e-6, 3e-5)),
    'irpo_gold': (GOLD, IRPO, (5e-6, 1e-5, 2e-5)),
    'gold_sft': (GOLD, SFT, (1e-5, 5e-6, 3e-5)),
}
ON_TWO_CORES = 'irpo', 'sft'


def _records(name: str, **fields) -> dict:
    source = os.path.join(settings.FOLDER.value, 'problems', f'{name}.jsonl')
    return {'name': 'records', 'source': source, **fields}


def _config(seed: int, rounds: int, model: str, turn: dict) -> dict:
    """A config with this turn, which evaluates answers before it and after the last: the accuracy
    of greedy ones, and of sampled ones to a part of the problems.
    """
    greedy = {'name': 'sample', 'n': 1, 'temperature': 0.0, 'max_tokens': LONGEST}
    exact, heldout = {'name': 'exact_answer'}, settings.heldout()
    evals = {
        'accuracy': {'name': 'accuracy', 'prompts': _records(heldout), 'sampler': greedy},
        'sampled': {
            'name': 'mean_score',
            'prompts': _records(heldout, n=SAMPLED_PROBLEMS),
            'sampler': greedy | {'n': 4, 'temperature': 1.0},
        },
    }
    return base.get(
        seed=seed,
        rounds=rounds,
        keep_states=1,
        evals_every=rounds,
        model=base.model() | settings.model(folder=model, sampling_dtype='bfloat16'),
        round=turn,
        evals={name: evaluation | {'scorer': exact} for name, evaluation in evals.items()},
    ).to_dict()


def _training(rate: float, **fields) -> dict:
    return base.training(lr=rate, batch=16, row_length=512, warmup=0.1, **fields)


def start_config(seed: int) -> dict:
    """The SFT from which all arms start."""
    turn = base.imitation_turn(_records('demonstrations'), lr=2e-5, epochs=EPOCHS.value)
    turn['train'] |= {'batch': 16, 'row_length': 512}
    config = _config(seed, 1, settings.MODEL.value, turn)
    return config | {'evals': {}}  # an arm's evaluations before its first round are those after it


def arm_config(name: str, seed: int, rate: float, start: str, updates: int | None) -> dict:
    """An arm's rounds. updates: of an arm on demonstrations, in each round."""
    source, loss, _ = ARMS[name]
    if source == DEMONSTRATED:
        turn = base.imitation_turn(_records('demonstrations'), lr=rate)
        turn['train'] = _training(rate, epochs=1000, max_steps=updates)
        return _config(seed, ROUNDS.value, start, turn)
    turn = {
        'prompts': _records('train', n=settings.PROMPTS.value or PROMPTS),
        'sampler': base.sampling(SAMPLES.value) | {'max_tokens': LONGEST},
        'scorer': {'name': 'exact_answer'},
        'pairs': {'name': 'right_vs_wrong', 'count': 3, 'gold': source == GOLD},
        'loss': loss,
        'train': _training(rate, epochs=1),
    }
    return _config(seed, ROUNDS.value, start, turn)


def trained_start(folder: str, seed: int) -> str:
    """The model after the SFT, as a folder; trained if it is not there yet."""
    out = os.path.join(folder, f'start-{seed}', 'export')
    if not os.path.exists(os.path.join(out, 'config.json')):
        study.run(folder, {('start', seed): start_config(seed)})
        lm, params, _ = export.load_turn(os.path.join(folder, f'start-{seed}'))
        selfrew.save(out, lm, params)
    return out


def updates_of(workdir: str) -> int:
    """The updates of the first round of a run."""
    return read_json(os.path.join(workdir, 'rounds', '01', 'turn.json'), PUT_BACK)['steps']


def main(_):
    folder, seeds = settings.FOLDER.value, settings.seeds()
    sources.write_problems(os.path.join(folder, 'problems'), settings.DATA.value)
    trials = settings.trials({name: rates for name, (_, _, rates) in ARMS.items()}, ON_TWO_CORES)
    sampling = [trial for trial in trials if ARMS[trial[1]][0] != DEMONSTRATED]
    if not sampling:
        raise app.UsageError('--arms: want one that samples, which says how many updates there are')
    first = sampling[0][0]
    starts = {seed: trained_start(folder, seed) for seed in seeds}

    def configs(some, updates: dict) -> dict:
        return {
            (label, seed): arm_config(name, seed, rate, starts[seed], updates.get(seed))
            for seed in seeds
            for label, name, rate in some
        }

    takes_from = {(label, seed): first for seed in seeds for label, _, _ in trials}
    study.run(folder, configs(sampling, {}), sources=takes_from)
    updates = {seed: updates_of(os.path.join(folder, f'{first}-{seed}')) for seed in seeds}
    results = study.run(folder, configs(trials, updates), sources=takes_from)
    arms = [label for label, _, _ in trials]
    tests = figures.write_tests(folder, arms, seeds, ('accuracy', 'sampled'), ROUNDS.value)
    print(json.dumps(tests, indent=1))
    print(study.table(results), study.table(results, 'sampled'), sep='\n\n')


if __name__ == '__main__':
    settings.run_study(main)
