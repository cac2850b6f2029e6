"""The tests' own reading of built-in problems, from their text alone: totals, ranges and grades."""

import re

MARK = 'Final answer: '
GAINED = 'finds', 'buys', 'gets', 'wins', 'picks'
RISING = r'Give \w+ (\d) numbers from (\d+) to (\d+) for the \w+, each larger than the one before\.'


def running_totals(problem: str) -> list[int]:
    """The total after each sentence of a word problem, from the first one on."""
    first, *others, question = re.findall(r'[^.?]+[.?]', problem)
    totals = [int(re.search(r'\d+', first)[0])]
    name, thing = first.split()[0], first.split()[-1].rstrip('.')
    assert question.split() == ['How', 'many', thing, 'does', name, 'have?']
    for sentence in others:
        assert sentence.split()[0] == name
        amount = int(re.search(r'\d+', sentence)[0])
        totals.append(totals[-1] + (amount if sentence.split()[1] in GAINED else -amount))
    return totals


def count_and_range(problem: str) -> tuple[int, int, int]:
    """(count, low, high): how many numbers a rising problem asks for, and from where to where."""
    return tuple(map(int, re.fullmatch(RISING, problem).groups()))


def true_grade(problem: str, response: str) -> float:
    """The grade that the docstrings of the tasks give to a response with a final answer."""
    answer = response.rpartition(MARK)[2]
    if not problem.startswith('Give'):
        totals = running_totals(problem)
        if int(answer) == totals[-1]:
            return 5.0
        return 2.0 if int(answer) in totals[1:-1] else 1.0
    count, low, high = count_and_range(problem)
    numbers = list(map(int, answer.split(', ')))
    if sorted(set(numbers)) != numbers or numbers[0] < low or numbers[-1] > high:
        return 1.0
    return 5.0 if len(numbers) == count else 2.0
