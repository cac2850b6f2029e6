"""Prints the verdict on each row of a file: is an answer right, what did a judge decide?

    python -m selfrew.verdict --form=gsm8k --file=answers.jsonl
    python -m selfrew.verdict --form=score --file=verdicts.jsonl

A row is a JSON object. For a form of answers (gsm8k, math, arc, svamp, mawps, asdiv, records) it
has 'truth' and 'response', for arc perhaps 'options', and the output is {"right": …, "said": …,
"key": …}: whether the response is right, what it concludes with, and the form by which votes count
it. For score and winner it has 'verdict', for score 'low' and 'high' (else 0 and 5), and the output
is {"value": …}, null for no verdict. 'finish': 'length' says that a text was cut. There is one line
for each row, in order; a bad row's has an "error", which is named on standard error too.
"""

import argparse
import json
import sys

from selfrew import tasks
from selfrew.running import refusal
from selfrew.tasks import published, verdicts
from selfrew.types import Response, to_json, user_prompt

ANY_ANSWER = 'records'
JUDGE_FORMS = 'score', 'winner'
FORMS = (*published.FORMS, ANY_ANSWER, *JUDGE_FORMS)


def judge_row(form: str, row) -> dict:
    """The verdict on a row. ValueError says what is wrong with the row."""
    if not isinstance(row, dict):
        raise ValueError(f'want an object, got {type(row).__name__}')
    response = Response(_text(row, 'verdict' if form in JUDGE_FORMS else 'response'))
    if row.get('finish', 'stop') != 'stop':
        response = Response(response.text, finish='length')
    if form == 'score':
        low, high = _number(row, 'low', 0.0), _number(row, 'high', 5.0)
        return {'value': verdicts.score(response, low=low, high=high)}
    if form == 'winner':
        return {'value': verdicts.winner(response)}
    if row.get('truth') in (None, '', []):
        raise ValueError('it has no truth')
    meta = {} if form == ANY_ANSWER else {'task': form}
    prompt = user_prompt('row', '', row['truth'], options=_options(row), **meta)
    said = tasks.conclusion(prompt, response)
    return {
        'right': said is not None and tasks.is_truth(prompt, said),
        'said': said,
        'key': None if said is None else tasks.key_of(prompt, said),
    }


def _text(row: dict, field: str) -> str:
    if not isinstance(row.get(field), str):
        raise ValueError(f'{field}={row.get(field)!r}: want a text')
    return row[field]


def _number(row: dict, field: str, default: float) -> float:
    value = row.get(field, default)
    if not isinstance(value, (int, float)):
        raise ValueError(f'{field}={value!r}: want a number')
    return value


def _options(row: dict) -> list[str]:
    options = row.get('options') or []
    if not isinstance(options, list) or not all(isinstance(option, str) for option in options):
        raise ValueError(f'options={options!r}: want a list of texts')
    return options


def main(argv=None) -> None:
    """Prints a line for each row of --file; exits with status 1 if the file cannot be read."""
    parser = argparse.ArgumentParser(
        prog='python -m selfrew.verdict',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('--form', required=True, choices=FORMS, help='how the rows are read')
    parser.add_argument('--file', required=True, help='JSON lines')
    options = parser.parse_args(argv)
    try:
        with open(options.file, 'rb') as file:
            lines = file.read().split(b'\n')
    except OSError as problem:
        refusal.exit_with(problem)
    for number, line in enumerate(lines, 1):
        if line.strip():
            print(json.dumps(to_json(_verdict(options.form, line, f'line {number}'))))


def _verdict(form: str, line: bytes, place: str) -> dict:
    """The verdict on a line, or its error."""
    empty = {'value': None} if form in JUDGE_FORMS else {'right': None, 'said': None, 'key': None}
    try:
        return judge_row(form, json.loads(line.decode('utf-8-sig')))
    except (ValueError, RecursionError) as problem:
        print(f'bad row, {place}: {problem}', file=sys.stderr)
        return empty | {'error': f'{place}: {problem}'}


if __name__ == '__main__':
    main()
