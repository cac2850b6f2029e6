"""Does IRPO teach SmolLM2 one-step problems that more of the same SFT does not?

    python -m experiments.real.problems.run --folder=runs/problems --model=MODEL --data=DATA

MODEL is a folder, hub name or GGUF file of a chat model, DATA a folder with asdiv/ASDiv.xml and
svamp/svamp_dev_700.jsonl. All arms start with the same SFT on 240 problems with their calculation.
Then each makes rounds of its own on other problems; those that learn from demonstrations make as
many updates. A run that is in the folder is read, not repeated. Writes results.json and tests.json.
"""

import json
import operator
import os
import re
import xml.etree.ElementTree as ElementTree

from absl import app, flags

import selfrew
from configs import base
from experiments import study
from experiments.real import figures
from selfrew import export
from selfrew.engine.run_files import write_atomic
from selfrew.running.stage import json_bytes
from selfrew.tasks import answers, hashing

FOLDER = flags.DEFINE_string('folder', None, 'Where the runs go.', required=True)
MODEL = flags.DEFINE_string('model', None, 'A folder, hub name or GGUF file.', required=True)
DATA = flags.DEFINE_string('data', None, 'The folder with asdiv/ and svamp/.', required=True)
SEEDS = flags.DEFINE_list('seeds', ['0', '1', '2'], 'One run of each arm each.')
ROUNDS = flags.DEFINE_integer('rounds', 2, 'Rounds after the SFT.')
SAMPLES = flags.DEFINE_integer('samples', 8, 'Answers to each problem.')
DTYPE = flags.DEFINE_string('dtype', 'float32', 'Of the compute.')
TUNE = flags.DEFINE_bool('tune', False, 'Instead, run each arm with each rate of its grid.')

DEMONSTRATIONS = 240
CALCULATION = re.compile(r'\(?\s*(\d+(?:\.\d+)?)\s*([-+*/])\s*(\d+(?:\.\d+)?)\s*\)?(?:\s*=.*)?')
OPERATORS = {'+': operator.add, '-': operator.sub, '*': operator.mul, '/': operator.truediv}
REQUEST = 'Write the calculation, then a line with "Final answer:" and the number.'
SOLUTION = '{0} {sign} {1} = {2}\nFinal answer: {2}'
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
NAMES = flags.DEFINE_list('arms', list(ARMS), 'Which to run.')


def read_problems() -> list[dict]:
    """Rows of prompt, answer and response, a worked solution, of the problems with one step."""
    rows = []
    with open(os.path.join(DATA.value, 'svamp', 'svamp_dev_700.jsonl')) as file:
        for row in map(json.loads, file):
            rows.append((row['Body'], row['Question'], row['Equation']))
    for problem in ElementTree.parse(os.path.join(DATA.value, 'asdiv', 'ASDiv.xml')).iter(
        'Problem'
    ):
        rows.append(tuple(problem.findtext(n, '') for n in ('Body', 'Question', 'Formula')))
    problems = {}
    for body, question, equation in rows:
        if match := CALCULATION.fullmatch(equation.strip()):
            left, sign, right = match.groups()
            result = OPERATORS[sign](float(left), float(right))
            if result == round(result, 2):  # one that can be written out
                body = body.strip()
                text = (
                    f'{body}{"" if body.endswith((".", "?", "!", ",")) else "."} {question.strip()}'
                )
                numbers = [answers.truth_text(float(n)) for n in (left, right, result)]
                problems[text] = sign, numbers
    return [
        {
            'prompt': f'{text}\n\n{REQUEST}',
            'answer': numbers[2],
            'response': SOLUTION.format(*numbers, sign=sign),
        }
        for text, (sign, numbers) in problems.items()
    ]


def write_problems(folder: str) -> None:
    """Writes demonstrations.jsonl, train.jsonl (other problems), dev.jsonl, on which settings are
    chosen, and test.jsonl. Near-copies lie on one side, see figures.side_of.
    """
    problems = read_problems()
    for side in figures.SIDES:
        rows = [row for row in problems if figures.side_of(row['prompt']) == side]
        if side == 'train':
            rows.sort(key=lambda row: hashing.short_id(row['prompt']))
            figures.write_rows(folder, 'demonstrations', rows[:DEMONSTRATIONS])
            rows = rows[DEMONSTRATIONS:]
        figures.write_rows(folder, side, rows)


def _records(name: str, **fields) -> dict:
    source = os.path.join(FOLDER.value, 'problems', f'{name}.jsonl')
    return {'name': 'records', 'source': source, **fields}


def _config(seed: int, rounds: int, model: str, turn: dict) -> dict:
    """A config with this turn and the evaluations: greedy answers, and eight samples of each."""
    sampler = {'name': 'sample', 'n': 1, 'temperature': 0.0, 'max_tokens': LONGEST}
    heldout = _records('dev' if TUNE.value else 'test')
    accuracy = {
        'name': 'accuracy',
        'prompts': heldout,
        'sampler': sampler,
        'scorer': {'name': 'exact_answer'},
    }
    fields = {'folder': model, 'max_length': 512, 'dtype': DTYPE.value}
    return base.get(
        seed=seed,
        rounds=rounds,
        keep_states=1,
        evals_every=rounds,
        model=base.model() | fields,
        round=turn,
        evals={'accuracy': accuracy},
    ).to_dict()


def _training(rate: float, **fields) -> dict:
    return base.training(lr=rate, batch=16, row_length=512, warmup=0.1, **fields)


def start_config(seed: int) -> dict:
    """The SFT from which all arms start."""
    turn = base.imitation_turn(_records('demonstrations'), lr=2e-5, epochs=3)
    turn['train'] |= {'batch': 16, 'row_length': 512}
    return _config(seed, 1, MODEL.value, turn)


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
    folder = FOLDER.value
    write_problems(os.path.join(folder, 'problems'))
    seeds = [study.TUNING_SEED] if TUNE.value else list(map(int, SEEDS.value))
    runs, sources, sampled = {}, {}, {}
    for seed in seeds:
        start = trained_start(folder, seed)
        for name in NAMES.value:
            source, _, rates = ARMS[name]
            for rate in rates if TUNE.value else rates[:1]:
                label = f'{name}@{rate:g}' if TUNE.value else name
                updates = None
                if source == DEMONSTRATED:
                    updates = updates_of(os.path.join(folder, f'{sampled[seed]}-{seed}'))
                else:
                    sources[label, seed] = sampled.setdefault(seed, label)
                runs[label, seed] = arm_config(name, seed, rate, start, updates)
                results = study.run(folder, runs, sources=sources)
    tests = {arm: compare(folder, arm, seeds) for arm in dict.fromkeys(arm for arm, _ in runs)}
    write_atomic(os.path.join(folder, 'tests.json'), json_bytes(tests))
    for arm, test in tests.items():
        print(f'{arm}: {test}')
    print(study.table(results))


def compare(folder: str, arm: str, seeds: list[int]) -> dict:
    """An arm's last round against the SFT that it started from, problems paired, over all seeds."""
    before, after = (
        figures.mean_by_prompt(
            [
                figures.scores(figures.judgements(f'{folder}/{arm}-{seed}', number, 'accuracy'))
                for seed in seeds
            ]
        )
        for number in (0, ROUNDS.value)
    )
    return figures.paired(after, before)


if __name__ == '__main__':
    app.run(main)
