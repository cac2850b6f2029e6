"""Does IRPO teach SmolLM2 one-step problems that more of the same SFT does not?

    python -m experiments.real.problems.run --folder=runs/problems --model=MODEL --data=DATA

MODEL is a folder, hub name or GGUF file of a chat model, DATA a folder with asdiv/ASDiv.xml and
svamp/svamp_dev_700.jsonl. All arms start with the same SFT on 240 problems with their calculation.
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
from selfrew.engine.run_files import write_atomic
from selfrew.running.stage import json_bytes

ROUNDS = flags.DEFINE_integer('rounds', 2, 'Rounds after the SFT.')
SAMPLES = flags.DEFINE_integer('samples', 8, 'Answers to each problem.')

LONGEST = 48  # tokens of an answer

SFT = {'name': 'sft', 'mean': 'token'}
DPO = {'name': 'dpo', 'beta': 0.1}
IRPO = {'name': 'dpo', 'beta': 0.1, 'nll': 1.0}
SAMPLED, GOLD, DEMONSTRATED = 'sampled', 'gold', 'demonstrated'
# What an arm learns from, with which loss, and the rates tried with --tune, the chosen one first.
# sampled: pairs of a right and a wrong answer of its own; of these SFT learns the right ones.
# gold: the same, with the demonstration among the right ones, also where no answer is right.
# demonstrated: the demonstrations of the SFT once more, as many updates as irpo makes.
ARMS = {
    'irpo': (SAMPLED, IRPO, (5e-6, 2e-6, 1e-5)),
    'dpo': (SAMPLED, DPO, (2e-6, 5e-6, 1e-6)),
    'own_sft': (SAMPLED, SFT, (1e-5, 5e-6, 3e-5)),
    'sft': (DEMONSTRATED, SFT, (1e-5, 5e-6, 3e-5)),
    'irpo_gold': (GOLD, IRPO, (5e-6, 2e-6, 1e-5)),
    'gold_sft': (GOLD, SFT, (1e-5, 5e-6, 3e-5)),
}


def _records(name: str, **fields) -> dict:
    source = os.path.join(settings.FOLDER.value, 'problems', f'{name}.jsonl')
    return {'name': 'records', 'source': source, **fields}


def _config(seed: int, rounds: int, model: str, turn: dict) -> dict:
    """A config with this turn and the evaluations: greedy answers, and eight samples of each."""
    sampler = {'name': 'sample', 'n': 1, 'temperature': 0.0, 'max_tokens': LONGEST}
    heldout = _records('dev' if settings.TUNE.value else 'test')
    accuracy = {
        'name': 'accuracy',
        'prompts': heldout,
        'sampler': sampler,
        'scorer': {'name': 'exact_answer'},
    }
    return base.get(
        seed=seed,
        rounds=rounds,
        keep_states=1,
        evals_every=rounds,
        model=base.model() | settings.model() | {'folder': model},
        round=turn,
        evals={'accuracy': accuracy},
    ).to_dict()


def _training(rate: float, **fields) -> dict:
    return base.training(lr=rate, batch=16, row_length=512, warmup=0.1, **fields)


def start_config(seed: int) -> dict:
    """The SFT from which all arms start."""
    turn = base.imitation_turn(_records('demonstrations'), lr=2e-5, epochs=3)
    turn['train'] |= {'batch': 16, 'row_length': 512}
    return _config(seed, 1, settings.MODEL.value, turn)


def arm_config(name: str, seed: int, rate: float, start: str, updates: int | None) -> dict:
    """An arm's rounds. updates: of an arm on demonstrations, in each round."""
    source, loss, _ = ARMS[name]
    if source == DEMONSTRATED:
        turn = base.imitation_turn(_records('demonstrations'), lr=rate)
        turn['train'] = _training(rate, epochs=1000, max_steps=updates)
        return _config(seed, ROUNDS.value, start, turn)
    turn = {
        'prompts': _records('train'),
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
    with open(os.path.join(workdir, 'metrics.jsonl')) as file:
        return sum('loss' in row and row['turn'] == '01' for row in map(json.loads, file))


def main(_):
    folder = settings.FOLDER.value
    sources.write_problems(os.path.join(folder, 'problems'), settings.DATA.value)
    seeds = [study.TUNING_SEED] if settings.TUNE.value else list(map(int, settings.SEEDS.value))
    runs, takes_from, sampled = {}, {}, {}
    for seed in seeds:
        start = trained_start(folder, seed)
        for name in settings.ARMS.value or ARMS:
            source, _, rates = ARMS[name]
            for rate in rates if settings.TUNE.value else rates[:1]:
                label = f'{name}@{rate:g}' if settings.TUNE.value else name
                updates = None
                if source == DEMONSTRATED:
                    updates = updates_of(os.path.join(folder, f'{sampled[seed]}-{seed}'))
                else:
                    takes_from[label, seed] = sampled.setdefault(seed, label)
                runs[label, seed] = arm_config(name, seed, rate, start, updates)
                results = study.run(folder, runs, sources=takes_from)
    tests = {
        arm: figures.against_the_start(folder, arm, seeds, 'accuracy', ROUNDS.value)
        for arm in dict.fromkeys(arm for arm, _ in runs)
    }
    write_atomic(os.path.join(folder, 'tests.json'), json_bytes(tests))
    for arm, test in tests.items():
        print(f'{arm}: {test}')
    print(study.table(results))


if __name__ == '__main__':
    app.run(main)
