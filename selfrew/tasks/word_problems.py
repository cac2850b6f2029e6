"""Word problems of one to four additions and subtractions over whole numbers from 0 to 40."""

import re

from selfrew.tasks import answers
from selfrew.types import Prompt, user_prompt

NAME = 'word_problems'
NAMES = 'Tom Ann Sam Eve Max Lea Ben Ida Leo Mia Jon Zoe'.split()
THINGS = 'apples coins cards books shells stones stamps eggs nuts pens cups keys'.split()
GAINS = 'finds {} more', 'buys {} more', 'gets {} from {other}', 'wins {} more', 'picks up {}'
LOSSES = 'gives {} to {other}', 'loses {}', 'sells {}', 'drops {}', 'lends {} to {other}'
LARGEST, LARGEST_STEP = 40, 9


def make(rng) -> Prompt:
    """A problem; `answer` is the number, `meta['steps']` the (left, sign, right) of each step."""
    name, other = rng.choice(NAMES, 2, replace=False)
    thing = rng.choice(THINGS)
    total = start = int(rng.integers(2, 31))
    sentences, steps = [f'{name} has {start} {thing}.'], []
    for _ in range(rng.integers(1, 5)):
        is_gain = total < 2 or (total <= LARGEST - 2 and rng.random() < 0.5)
        limit = min(LARGEST_STEP, LARGEST - total if is_gain else total)
        amount = int(rng.integers(1, limit + 1))
        phrase = rng.choice(GAINS if is_gain else LOSSES).format(amount, other=other)
        sentences.append(f'{name} {phrase}.')
        steps.append([total, '+' if is_gain else '-', amount])
        total += amount if is_gain else -amount
    sentences.append(f'How many {thing} does {name} have?')
    text = ' '.join(sentences)
    return user_prompt(NAME, text, total, task=NAME, steps=steps)


def _result(step) -> int:
    left, sign, right = step
    return left + right if sign == '+' else left - right


def _sum(step) -> str:
    left, sign, right = step
    return f'{left} {sign} {right} = {_result(step)}.'


def _sums(steps) -> str:
    return ' '.join(map(_sum, steps))


def demonstrate(prompt: Prompt, rng, flaw: str) -> str:
    """A worked solution. 'short' leaves out the last of several steps; 'slip' has a wrong sum."""
    steps = prompt.meta['steps']
    if flaw == 'slip':
        return _slip(steps, rng)
    if flaw == 'short' and len(steps) > 1:
        steps = steps[:-1]
    return f'{_sums(steps)} Final answer: {_result(steps[-1])}'


def _slip(steps, rng) -> str:
    """The solution with one sum off by one to three; the later steps go on from the wrong total."""
    totals = [-1]
    while min(totals) < 0 or max(totals) > LARGEST:  # redraw a slip that leaves the range
        wrong_step, error = rng.integers(len(steps)), int(rng.choice([-3, -2, -1, 1, 2, 3]))
        totals = [steps[0][0]]
        for i, step in enumerate(steps):
            totals.append(_result(step) + (error if i >= wrong_step else 0))
    sums = [
        f'{left} {sign} {amount} = {total}.'
        for (_, sign, amount), left, total in zip(steps, totals, totals[1:])
    ]
    return f'{" ".join(sums)} Final answer: {totals[-1]}'


def _extract(response: str, options: tuple = ()) -> str | None:
    """The number that ends a response, after its last 'Final answer:'; None if there is none."""
    del options
    match = re.search(r'Final answer:\s*(-?\d+)\.?\s*$', response)
    return match[1] if match else None


def _key(answer: str, options: tuple = ()) -> str:
    del options
    return str(int(answer))


def _same(truth: int, answer: str, options: tuple = ()) -> bool:
    del options
    return int(answer) == truth


ANSWERS = answers.Form(_extract, _key, _same)


def grade(prompt: Prompt, response: str) -> float:
    """5 for the right number, 2 for the total of an earlier step, 1 for another number, 0 for no
    number.
    """
    number = _extract(response)
    if number is None:
        return 0.0
    if _same(prompt.answer, number):
        return 5.0
    return 2.0 if int(number) in [_result(step) for step in prompt.meta['steps']] else 1.0


def worked_verdict(prompt: Prompt, response: str) -> str:
    """A verdict that solves the problem, compares the answers, and ends with the grade."""
    number = _extract(response)
    found = 'none' if number is None else _key(number)
    comparison = f'Expected {prompt.answer}, found {found}.'
    return f'{_sums(prompt.meta["steps"])} {comparison} Score: {grade(prompt, response):.0f}'
