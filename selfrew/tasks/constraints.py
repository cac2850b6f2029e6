"""Constraints on a response that a program can check: its length, words, letters and form.

The idea is IFEval's (arXiv 2311.07911); the kinds, their wordings and their checks are our own. A
constraint is a dict of its kind and the kind's arguments: {'kind': 'sentences', 'n': 2}.
"""

import dataclasses
import re
from collections.abc import Callable
from typing import NamedTuple

from selfrew.types import Prompt

LIST_MARK = re.compile(r'^\s*(?:[-*•]|\d+[.)])\s+')
CLOSING_MARKS = '"\')]*_”’'
REPEATED = 6  # words; no phrase that is asked for has as many
ABBREVIATIONS = {'e.g.', 'i.e.', 'etc.', 'vs.', 'dr.', 'mr.', 'mrs.', 'ms.', 'st.', 'a.m.', 'p.m.'}
KEYWORDS = (
    *('river', 'garden', 'bridge', 'window', 'music', 'friend', 'morning', 'paper', 'mountain'),
    *('kitchen', 'journey', 'weather', 'pocket', 'silver', 'teacher', 'village', 'winter', 'story'),
)
COMMON_WORDS = 'and', 'the', 'is', 'of', 'to', 'a', 'in', 'it', 'for', 'that'
OPENINGS = 'In short', 'Let me think', 'Good question', 'To begin with', 'As far as I know'
ENDINGS = 'That is all', 'I hope this helps', 'Let me know', 'End of answer', 'Thanks for asking'


class Kind(NamedTuple):
    """A kind of constraint."""

    group: str  # of a group, a prompt has one kind at most: two could contradict each other
    request: str  # the sentence that asks for it, with the arguments in braces
    choices: dict  # argument -> the values that are drawn
    is_kept: Callable[..., bool]  # (text, **arguments) -> whether a text keeps it


def count_words(text: str) -> int:
    """The words between white space that have a letter or a digit."""
    return sum(_has_word(word) for word in text.split())


def count_sentences(text: str) -> int:
    """The sentences of a text: each ends with '.', '!' or '?', or with its line.

    An abbreviation, and the number of a list's item, end none.
    """
    count = 0
    for line in text.splitlines():
        is_open = False
        for word in LIST_MARK.sub('', line).split():
            is_open = is_open or _has_word(word)
            bare = word.rstrip(CLOSING_MARKS)
            if is_open and bare.endswith(('.', '!', '?')) and bare.lower() not in ABBREVIATIONS:
                count, is_open = count + 1, False
        count += is_open
    return count


def _has_word(text: str) -> bool:
    return any(map(str.isalnum, text))


def _has_phrase(text: str, phrase: str) -> bool:
    """Whether words occur in a text, as whole words, in capitals or not."""
    return re.search(rf'\b{re.escape(phrase)}\b', text, re.IGNORECASE) is not None


def _letters_only(text: str) -> str:
    """The words of a text in small letters, without marks, one space apart."""
    return ' '.join(re.findall(r"[\w']+", text.lower()))


def _count_items(text: str, mark: str) -> int:
    return sum(re.match(mark, line) is not None for line in text.splitlines())


def _paragraphs(text: str) -> int:
    return sum(_has_word(part) for part in re.split(r'\n\s*\n', text))


def _numbers(text: str) -> list[int]:
    return [int(number) for number in re.findall(r'^\s*(\d+)[.)]\s+\S', text, re.MULTILINE)]


KINDS = {
    'at_most_words': Kind(
        'words',
        'Use at most {n} words.',
        {'n': (15, 25, 40)},
        lambda text, n: count_words(text) <= n,
    ),
    'at_least_words': Kind(
        'words',
        'Use at least {n} words.',
        {'n': (30, 40, 50)},
        lambda text, n: count_words(text) >= n,
    ),
    'sentences': Kind(
        'form',
        'The number of sentences must be exactly {n}.',
        {'n': (1, 2, 3)},
        lambda text, n: count_sentences(text) == n,
    ),
    'bullets': Kind(
        'form',
        'Answer with a list of exactly {n} lines that each begin with "- ".',
        {'n': (2, 3, 4)},
        lambda text, n: _count_items(text, r'\s*- +\S') == n,
    ),
    'numbered': Kind(
        'form',
        'Answer with a list of exactly {n} items, numbered "1." and so on, one on each line.',
        {'n': (2, 3, 4)},
        lambda text, n: _numbers(text) == list(range(1, n + 1)),
    ),
    'paragraphs': Kind(
        'form',
        'Write exactly {n} paragraphs, with an empty line between them.',
        {'n': (2, 3)},
        lambda text, n: _paragraphs(text) == n,
    ),
    'lower_case': Kind(
        'case',
        'Write in small letters only, without any capital.',
        {},
        lambda text: text.islower(),
    ),
    'upper_case': Kind(
        'case',
        'Write in capital letters only.',
        {},
        lambda text: text.isupper(),
    ),
    'with_word': Kind(
        'vocabulary',
        'The word "{word}" must occur in your answer.',
        {'word': KEYWORDS},
        lambda text, word: _has_phrase(text, word),
    ),
    'without_word': Kind(
        'vocabulary',
        'Never use the word "{word}".',
        {'word': COMMON_WORDS},
        lambda text, word: not _has_phrase(text, word),
    ),
    'starts_with': Kind(
        'edge',
        'Your answer must begin with the words "{phrase}".',
        {'phrase': OPENINGS},
        lambda text, phrase: f'{_letters_only(text)} '.startswith(f'{phrase.lower()} '),
    ),
    'ends_with': Kind(
        'edge',
        'The last words of your answer must be "{phrase}".',
        {'phrase': ENDINGS},
        lambda text, phrase: f' {_letters_only(text)}'.endswith(f' {phrase.lower()}'),
    ),
    'quoted': Kind(
        'edge',
        'Put your whole answer in double quotation marks.',
        {},
        lambda text: len(text.strip()) > 1 and text.strip()[0] in '"“' and text.strip()[-1] in '"”',
    ),
    'no_commas': Kind('marks', 'Do not use any comma.', {}, lambda text: ',' not in text),
    'titled': Kind(
        'marks',
        'Give your answer a title in double square brackets, such as [[my title]].',
        {},
        lambda text: re.search(r'\[\[[^\[\]\n]*\w[^\[\]\n]*\]\]', text) is not None,
    ),
}


def check_kinds(kinds: tuple) -> None:
    """Raises ValueError for a kind that there is not, or for none at all."""
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown or not kinds:
        problem = f'no kind of constraint {unknown[0]!r}' if unknown else 'no kinds of constraints'
        raise ValueError(f'{problem}; there are: {", ".join(KINDS)}')


def groups_of(kinds: tuple) -> list[str]:
    """The groups that the kinds are of, in order."""
    return list(dict.fromkeys(KINDS[kind].group for kind in kinds))


def draw(rng, kinds: tuple, count: int, text: str) -> list[dict]:
    """`count` constraints of different groups, and of these kinds.

    rng: a NumPy generator. text: of the prompt; a word that must occur is none of it.
    Raises ValueError where the kinds are of fewer groups.
    """
    groups = groups_of(kinds)
    if count > len(groups):
        raise ValueError(f'{count} constraints: the kinds are of {len(groups)} groups')
    drawn = []
    for i in sorted(rng.choice(len(groups), count, replace=False)):
        in_group = [kind for kind in kinds if KINDS[kind].group == groups[i]]
        kind = in_group[rng.integers(len(in_group))]
        arguments = {}
        for name, values in KINDS[kind].choices.items():
            fitting = [v for v in values if kind != 'with_word' or not _has_phrase(text, v)]
            arguments[name] = fitting[rng.integers(len(fitting))]
        drawn.append({'kind': kind} | arguments)
    return drawn


def constrained(prompt: Prompt, constraints: list[dict]) -> Prompt:
    """The prompt, its last turn followed by a sentence for each constraint.

    They lie in meta['constraints']. Answers and responses of the prompt are left out, since they
    were made without the constraints.
    """
    *earlier, last = prompt.messages
    requests = ' '.join(map(_request, constraints))
    asked = f'{last["content"]}\n\n{requests}'
    return dataclasses.replace(
        prompt,
        messages=(*earlier, last | {'content': asked}),
        answer=None,
        meta={'constraints': constraints},
    )


def are_kept(constraints: list[dict], text: str) -> list[bool]:
    """Whether a text keeps each of the constraints.

    A text without a word keeps none. Nor does one that repeats REPEATED words in a row of a
    request: a small model that learns from these scores soon answers with the request itself.
    Raises KeyError for a kind that there is not.
    """
    words, requests = _letters_only(text), map(_request, constraints)
    if not _has_word(text) or any(_has_run_of(request, words) for request in requests):
        return [False] * len(constraints)
    return [KINDS[c['kind']].is_kept(text, **_arguments(c)) for c in constraints]


def _request(constraint: dict) -> str:
    return KINDS[constraint['kind']].request.format(**_arguments(constraint))


def _has_run_of(request: str, words: str) -> bool:
    """Whether words have REPEATED words of a request in a row."""
    asked = _letters_only(request).split()
    runs = (' '.join(asked[i : i + REPEATED]) for i in range(len(asked) - REPEATED + 1))
    return any(f' {run} ' in f' {words} ' for run in runs)


def _arguments(constraint: dict) -> dict:
    return {name: value for name, value in constraint.items() if name != 'kind'}
