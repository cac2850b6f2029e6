"""Instructions with constraints: a number of integers from a range, in rising order. Each has many
right answers.
"""

from selfrew.tasks import answers
from selfrew.tasks.word_problems import LARGEST, NAMES, THINGS
from selfrew.types import Prompt, user_prompt

NAME = 'rising'


def make(rng) -> Prompt:
    """Asks for three to six numbers of a range of more than twenty; `answer` is {'count', 'low',
    'high'}.
    """
    count, low = int(rng.integers(3, 7)), int(rng.integers(0, 16))
    high = int(rng.integers(low + 20, LARGEST + 1))
    name, thing = rng.choice(NAMES), rng.choice(THINGS)
    text = (
        f'Give {name} {count} numbers from {low} to {high} for the {thing}, '
        'each larger than the one before.'
    )
    return user_prompt(NAME, text, {'count': count, 'low': low, 'high': high}, task=NAME)


def demonstrate(prompt: Prompt, rng, flaw: str) -> str:
    """Numbers that fit. 'short' gives one too few; in 'slip' one is out of the range or not larger
    than the one before.
    """
    count, low, high = prompt.answer['count'], prompt.answer['low'], prompt.answer['high']
    numbers = sorted(int(n) for n in rng.choice(range(low, high + 1), count, replace=False))
    if flaw == 'short':
        numbers = numbers[:-1]
    elif flaw == 'slip':
        outside = [n for n in range(LARGEST + 1) if not low <= n <= high]
        position = int(rng.integers(1, count))
        if outside and rng.random() < 0.5:
            numbers[position] = int(rng.choice(outside))
        else:
            numbers[position] = int(rng.integers(0, numbers[position - 1] + 1))
    return f'Final answer: {", ".join(map(str, numbers))}'


def _extract(response: str, options: tuple = ()) -> str | None:
    """What the response lists after its last 'Final answer:'; None if that is nothing."""
    del options
    _, _, tail = response.rpartition('Final answer:')
    return tail.strip() if 'Final answer:' in response and _listed(tail) else None


def _listed(answer: str | None) -> list[str]:
    """The parts of an answer between commas."""
    parts = (answer or '').strip().rstrip('.').split(',')
    return [part.strip() for part in parts if part.strip()]


def _key(answer: str, options: tuple = ()) -> str:
    del options
    return ', '.join(_listed(answer))


def _same(truth: dict, answer: str, options: tuple = ()) -> bool:
    """Whether an answer holds all constraints."""
    del options
    listed = _listed(answer)
    return all(_fits(truth, listed)) and len(listed) == truth['count']


ANSWERS = answers.Form(_extract, _key, _same)


def _fits(truth: dict, listed: list[str]) -> list[bool]:
    """Whether each is a whole number of the range and larger than all before it that fit."""
    flags, largest = [], truth['low'] - 1
    for word in listed:
        is_number = word.isascii() and word.isdigit()
        is_fitting = is_number and largest < int(word) <= truth['high']
        largest = int(word) if is_fitting else largest
        flags.append(is_fitting)
    return flags


def grade(prompt: Prompt, response: str) -> float:
    """5 if all constraints hold, 2 if only the count is wrong, 1 if a number does not fit, 0 for no
    numbers.
    """
    answer = _extract(response)
    if answer is None:
        return 0.0
    if not all(_fits(prompt.answer, _listed(answer))):
        return 1.0
    return 5.0 if _same(prompt.answer, answer) else 2.0


def worked_verdict(prompt: Prompt, response: str) -> str:
    """A verdict that counts the numbers that fit, compares the counts, and ends with the grade."""
    listed, count, lines = _listed(_extract(response)), 0, []
    for word, is_fitting in zip(listed, _fits(prompt.answer, listed)):
        count += is_fitting
        lines.append(f'{word} {count}.' if is_fitting else f'{word} no.')
    expected = prompt.answer['count']
    lines.append(f'Expected {expected}, found {count}. Score: {grade(prompt, response):.0f}')
    return ' '.join(lines)
