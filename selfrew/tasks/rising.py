"""An instruction with constraints: so many numbers of a range, in rising order. Many answers are
right.
"""

from selfrew.tasks.word_problems import LARGEST, NAMES, THINGS
from selfrew.types import Prompt, ask

NAME = 'rising'


def make(rng) -> Prompt:
    """Three to six numbers of a range of more than twenty; `answer` is {'count', 'low', 'high'}."""
    count, low = int(rng.integers(3, 7)), int(rng.integers(0, 16))
    high = int(rng.integers(low + 20, LARGEST + 1))
    name, thing = rng.choice(NAMES), rng.choice(THINGS)
    text = f'Give {name} {count} numbers from {low} to {high} for the {thing}, each larger than the one before.'
    return ask(NAME, text, {'count': count, 'low': low, 'high': high}, task=NAME)


def demonstrate(prompt: Prompt, rng, flaw: str) -> str:
    """Numbers that fit; 'short' names one too few, 'slip' one that is out of the range or not
    larger.
    """
    count, low, high = prompt.answer['count'], prompt.answer['low'], prompt.answer['high']
    numbers = sorted(int(n) for n in rng.choice(range(low, high + 1), count, replace=False))
    if flaw == 'short':
        numbers = numbers[:-1]
    elif flaw == 'slip':
        outside = [n for n in range(LARGEST + 1) if not low <= n <= high]
        at = int(rng.integers(1, count))
        if outside and rng.random() < 0.5:
            numbers[at] = int(rng.choice(outside))
        else:
            numbers[at] = int(rng.integers(0, numbers[at - 1] + 1))
    return f'Final answer: {", ".join(map(str, numbers))}'


def final_answer(response: str) -> list[str]:
    """What is named after the last 'Final answer:'; empty where nothing is."""
    _, found, tail = response.rpartition('Final answer:')
    return [w.strip() for w in tail.strip().rstrip('.').split(',') if w.strip()] if found else []


def _fits(prompt: Prompt, named: list[str]) -> list[bool]:
    """Whether each is a whole number of the range and larger than all that fitted before it."""
    out, last = [], prompt.answer['low'] - 1
    for word in named:
        fits = word.isascii() and word.isdigit() and last < int(word) <= prompt.answer['high']
        last = int(word) if fits else last
        out.append(fits)
    return out


def grade(prompt: Prompt, response: str) -> float:
    """5 where all holds, 2 for a wrong count of fitting numbers, 1 with one that does not fit, 0
    for none at all.
    """
    named = final_answer(response)
    if not named:
        return 0.0
    if not all(_fits(prompt, named)):
        return 1.0
    return 5.0 if len(named) == prompt.answer['count'] else 2.0


def worked_verdict(prompt: Prompt, response: str) -> str:
    """Goes through the numbers, counts those that fit, compares, and grades."""
    named, count, lines = final_answer(response), 0, []
    for word, fits in zip(named, _fits(prompt, named)):
        count += fits
        lines.append(f'{word} {count}.' if fits else f'{word} no.')
    lines.append(
        f'Expected {prompt.answer["count"]}, found {count}. Score: {grade(prompt, response):.0f}'
    )
    return ' '.join(lines)
