"""Prompts for a real model from public sets, with near-copies on one side."""

import gzip
import json
import operator
import os
import re
import xml.etree.ElementTree as ElementTree

from selfrew.engine.run_files import write_atomic
from selfrew.tasks import answers, hashing, splitting

SIDES = 'train', 'dev', 'test'


def side_of(text: str) -> str:
    """Which of SIDES a prompt is on, by its topic: about 42, 18 and 40 in a hundred.

    Near-copies have one topic (tasks.splitting) and lie on one side, whatever set they come from.
    """
    if splitting.is_held_out(text, 0.4):
        return 'test'
    return 'dev' if hashing.hash_digit(splitting.split_key(text)) in DEV_DIGITS else 'train'


DEV_DIGITS = 0, 1, 2  # of ten


def write_rows(folder: str, side: str, rows: list[dict]) -> None:
    """Writes rows as `side`.jsonl."""
    os.makedirs(folder, exist_ok=True)
    text = ''.join(json.dumps(row) + '\n' for row in rows)
    write_atomic(os.path.join(folder, f'{side}.jsonl'), text.encode())


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
    with gzip.open(os.path.join(data, 'alpaca', 'alpaca_random_9k.json.gz')) as file:
        rows = json.load(file)
    texts = [' '.join(row['instruction'].split()) for row in rows if not row['input']]
    texts = [text for text in dict.fromkeys(texts) if len(text) < 120]
    texts = [text for text in texts if not ASKS_FOR_FORM.search(text)]
    for side in SIDES:
        prompts = [{'prompt': text} for text in texts if side_of(text) == side]
        write_rows(folder, side, prompts[: MOST[side]])


# --- problems with one step -----------------------------------------------------------------------

DEMONSTRATIONS = 240
CALCULATION = re.compile(r'\(?\s*(\d+(?:\.\d+)?)\s*([-+*/])\s*(\d+(?:\.\d+)?)\s*\)?(?:\s*=.*)?')
OPERATORS = {'+': operator.add, '-': operator.sub, '*': operator.mul, '/': operator.truediv}
REQUEST = 'Write the calculation, then a line with "Final answer:" and the number.'
SOLUTION = '{0} {sign} {1} = {2}\nFinal answer: {2}'


def read_problems(data: str) -> list[dict]:
    """Rows of prompt, answer and response, a worked solution, of the problems with one step."""
    rows = []
    with open(os.path.join(data, 'svamp', 'svamp_dev_700.jsonl')) as file:
        for row in map(json.loads, file):
            rows.append((row['Body'], row['Question'], row['Equation']))
    for problem in ElementTree.parse(os.path.join(data, 'asdiv', 'ASDiv.xml')).iter('Problem'):
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
