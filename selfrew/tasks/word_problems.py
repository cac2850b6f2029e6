"""Word problems of one to four additions and subtractions over whole numbers from 0 to 40."""

import re

from selfrew.types import Prompt, ask

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
        gain = total < 2 or (total <= LARGEST - 2 and rng.random() < 0.5)
        amount = int(rng.integers(1, min(LARGEST_STEP, LARGEST - total if gain else total) + 1))
        phrase = rng.choice(GAINS if gain else LOSSES).format(amount, other=other)
        sentences.append(f'{name} {phrase}.')
        steps.append([total, '+' if gain else '-', amount])
        total += amount if gain else -amount
    sentences.append(f'How many {thing} does {name} have?')
    text = ' '.join(sentences)
    return ask(NAME, text, total, task=NAME, steps=steps)


def _result(step) -> int:
    left, sign, right = step
    return left + right if sign == '+' else left - right


def _lines(steps) -> str:
    return ' '.join(
        f'{left} {sign} {right} = {_result((left, sign, right))}.' for left, sign, right in steps
    )


def demonstrate(prompt: Prompt, rng, flaw: str) -> str:
    """A worked solution; 'short' stops a step early where there are several, 'slip' has a wrong
    sum.
    """
    steps = prompt.meta['steps']
    if flaw == 'slip':
        return _slip(steps, rng)
    if flaw == 'short' and len(steps) > 1:
        steps = steps[:-1]
    return f'{_lines(steps)} Final answer: {_result(steps[-1])}'


def _slip(steps, rng) -> str:
    """The solution with one sum wrong by one to three; the later steps go on from the wrong total."""
    totals = [-1]
    while (
        min(totals) < 0 or max(totals) > LARGEST
    ):  # a slip that leads out of the numbers is drawn again
        at, off = rng.integers(len(steps)), int(rng.choice([-3, -2, -1, 1, 2, 3]))
        totals = [steps[0][0]] + [
            _result(step) + (off if i >= at else 0) for i, step in enumerate(steps)
        ]
    lines = [
        f'{left} {s} {n} = {total}.' for (_, s, n), left, total in zip(steps, totals, totals[1:])
    ]
    return f'{" ".join(lines)} Final answer: {totals[-1]}'


def final_answer(response: str) -> int | None:
    """The number with which a response ends after its last 'Final answer:', or None."""
    found = re.search(r'Final answer:\s*(-?\d+)\.?\s*$', response)
    return int(found[1]) if found else None


def grade(prompt: Prompt, response: str) -> float:
    """5 for the right number, 2 for the total of an earlier step, 1 for another number, 0 for none."""
    found = final_answer(response)
    if found is None:
        return 0.0
    if found == prompt.answer:
        return 5.0
    return 2.0 if found in [_result(step) for step in prompt.meta['steps']] else 1.0


def worked_verdict(prompt: Prompt, response: str) -> str:
    """Works the problem out, compares, and grades."""
    found = final_answer(response)
    said = 'none' if found is None else found
    expected = f'{_lines(prompt.meta["steps"])} Expected {prompt.answer}, found {said}.'
    return f'{expected} Score: {grade(prompt, response):.0f}'
