"""Prompts for a real model from public sets, with near-copies on one side."""

import gzip
import itertools
import json
import operator
import os
import re
from typing import NamedTuple

from selfrew.engine.run_files import write_atomic
from selfrew.tasks import answers, hashing, published, records, splitting

SIDES = 'train', 'dev', 'test'


def side_of(text: str) -> str:
    """Which of SIDES a prompt is on, by its topic: about 42, 18 and 40 in a hundred.

    Near-copies have one topic (tasks.splitting) and lie on one side, whatever set they come from.
    """
    if splitting.is_held_out(text, 0.4):
        return 'test'
    return 'dev' if hashing.hash_digit(splitting.split_key(text)) in DEV_DIGITS else 'train'


DEV_DIGITS = 0, 1, 2  # of ten


def write_rows(folder: str, name: str, rows: list[dict]) -> None:
    """Writes rows as `name`.jsonl."""
    os.makedirs(folder, exist_ok=True)
    text = ''.join(json.dumps(row) + '\n' for row in rows)
    write_atomic(os.path.join(folder, f'{name}.jsonl'), text.encode())


def read_rows(folder: str, name: str) -> list[dict]:
    """The rows of a file that `write_rows` wrote."""
    return _read(folder, f'{name}.jsonl')


def _read(data: str, path: str) -> list[dict]:
    """All rows of a file."""
    return records.read_records(os.path.join(data, path), lambda _, row: row, max_bad=0)


# Instructions that already ask for a form, or for more than a short answer.
ASKS_FOR_FORM = re.compile(
    r'sentence|word|list|paragraph|bullet|letter|poem|haiku|code|essay|story|article|script|\d|"',
    re.IGNORECASE,
)
MOST = {'train': None, 'dev': 256, 'test': 512}  # instructions of each file


def write_instructions(folder: str, data: str) -> None:
    """Writes short instructions of Alpaca that ask for no form: train.jsonl, dev.jsonl, on which
    settings are chosen, and test.jsonl; see `side_of`.

    data: the folder with alpaca/alpaca_random_9k.json.gz, rows of instruction, input and output.
    """
    texts = [text for text, _ in _alpaca(data) if not ASKS_FOR_FORM.search(text)]
    for side in SIDES:
        prompts = [{'prompt': text} for text in texts if side_of(text) == side]
        write_rows(folder, side, prompts[: MOST[side]])


def _alpaca(data: str) -> list[tuple[str, str]]:
    """Short instructions without an input, each once, and their outputs."""
    # read_records takes no .json.gz.
    with gzip.open(os.path.join(data, 'alpaca', 'alpaca_random_9k.json.gz')) as file:
        rows = json.load(file)
    outputs = {}
    for row in rows:
        text = ' '.join(row['instruction'].split())
        if not row['input'] and len(text) < 120:
            outputs.setdefault(text, row['output'])
    return list(outputs.items())


# --- problems with one step -----------------------------------------------------------------------

DEMONSTRATIONS = 240
CALCULATION = re.compile(r'\(?\s*(\d+(?:\.\d+)?)\s*([-+*/])\s*(\d+(?:\.\d+)?)\s*\)?(?:\s*=.*)?')
OPERATORS = {'+': operator.add, '-': operator.sub, '*': operator.mul, '/': operator.truediv}
REQUEST = 'Write the calculation, then a line with "Final answer:" and the number.'
SOLUTION = '{0} {sign} {1} = {2}\nFinal answer: {2}'


def read_problems(data: str) -> list[dict]:
    """Rows of prompt, answer and response, a worked solution, of the problems with one step."""
    equations = {}  # by question
    for form, path, field in (
        ('svamp', 'svamp/svamp_dev_700.jsonl', 'Equation'),
        ('asdiv', 'asdiv/ASDiv.xml', 'Formula'),
    ):
        for row in _read(data, path):
            equations[published.read(form, row).question.strip()] = row[field]
    problems = {}
    for text, equation in equations.items():
        if match := CALCULATION.fullmatch(equation.strip()):
            left, sign, right = match.groups()
            result = OPERATORS[sign](float(left), float(right))
            if result == round(result, 2):  # one that can be written out
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


def write_problems(folder: str, data: str) -> None:
    """Writes demonstrations.jsonl, train.jsonl (other problems), dev.jsonl, on which settings are
    chosen, and test.jsonl. Near-copies lie on one side, see `side_of`.

    data: the folder with asdiv/ASDiv.xml and svamp/svamp_dev_700.jsonl.
    """
    problems = read_problems(data)
    for side in SIDES:
        rows = [row for row in problems if side_of(row['prompt']) == side]
        if side == 'train':
            rows.sort(key=lambda row: hashing.short_id(row['prompt']))
            write_rows(folder, 'demonstrations', rows[:DEMONSTRATIONS])
            rows = rows[DEMONSTRATIONS:]
        write_rows(folder, side, rows)


# --- pairs of a better and a worse response -------------------------------------------------------


class Pair(NamedTuple):
    prompt: str
    chosen: str
    rejected: str


def write_pairs(folder: str, data: str, longest: int) -> None:
    """Writes pairs, rows of prompt, chosen and rejected, of five kinds.

    oasst: replies to a first message, as people ranked them. ultrafeedback: as the set has them.
    crossed: a response of Alpaca's, and one to another instruction. llmbar_natural and
    llmbar_adversarial, which are tested alone: one response does what is asked, the other does not.
    The first three have files of each of SIDES, such as oasst_train.jsonl.

    longest: the most characters of a prompt and the longer of its responses.
    """
    for name, pairs in {
        'oasst': _oasst(data),
        'ultrafeedback': _ultrafeedback(data),
        'crossed': _crossed(data),
    }.items():
        for side in SIDES:
            chosen = [pair for pair in _short(pairs, longest) if side_of(pair.prompt) == side]
            write_rows(folder, f'{name}_{side}', [pair._asdict() for pair in chosen])
    for name, pairs in _llmbar(data).items():
        write_rows(folder, f'llmbar_{name}', [pair._asdict() for pair in _short(pairs, longest)])


def _short(pairs: list[Pair], longest: int) -> list[Pair]:
    return [
        pair
        for pair in pairs
        if pair.chosen.strip() != pair.rejected.strip()
        and len(pair.prompt) + max(len(pair.chosen), len(pair.rejected)) <= longest
    ]


def _oasst(data: str) -> list[Pair]:
    pairs = []
    for tree in _read(data, 'oasst/en_100_tree.jsonl'):
        ranked = [r for r in tree['prompt']['replies'] if r.get('rank') is not None]
        ranked.sort(key=lambda reply: reply['rank'])
        for better, worse in itertools.combinations(ranked, 2):
            pairs.append(Pair(tree['prompt']['text'], better['text'], worse['text']))
    return pairs


def _ultrafeedback(data: str) -> list[Pair]:
    rows = _read(data, 'ultrafeedback_sample/train_clean.jsonl.gz')
    return [Pair(row['prompt'], row['chosen'], row['rejected']) for row in rows]


def _crossed(data: str) -> list[Pair]:
    rows = _alpaca(data)
    following = [*rows[1:], rows[0]]
    return [Pair(text, output, other) for (text, output), (_, other) in zip(rows, following)]


def _llmbar(data: str) -> dict[str, list[Pair]]:
    sets = {'natural': [], 'adversarial': []}
    for name in sorted(os.listdir(os.path.join(data, 'llmbar'))):
        if name.endswith('.json'):
            kind = 'natural' if name == 'natural.json' else 'adversarial'
            for row in _read(data, f'llmbar/{name}'):
                outputs = row['output_1'], row['output_2']
                best, worst = outputs if row['label'] == 1 else outputs[::-1]
                sets[kind].append(Pair(row['input'], best, worst))
    return sets
