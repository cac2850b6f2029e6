"""Which of the instructions that a model made up are worth asking: Self-Instruct's filters (arXiv
2212.10560, §2.2). Layer 0.
"""

import re

UNSEEN = (
    'image images graph graphs picture pictures file files map maps draw plot'.split()
)  # nothing can be shown
FEWEST, MOST = 4, 150  # words
WORD = re.compile(r'[a-z0-9]+')


def words(text: str) -> list[str]:
    """What ROUGE counts: runs of letters and digits, without case."""
    return WORD.findall(text.casefold())


def common_length(one: list[str], other: list[str]) -> int:
    """The length of the longest common subsequence, a bit for each word of `one` (Hyyrö 2004)."""
    places = {}
    for i, word in enumerate(one):
        places[word] = places.get(word, 0) | 1 << i
    everything = (1 << len(one)) - 1
    free = everything  # a 0 where the subsequence grew
    for word in other:
        here = free & places.get(word, 0)
        free = (free + here | free - here) & everything
    return len(one) - free.bit_count()


def rouge_l(one: list[str], other: list[str]) -> float:
    """F1 of the longest common subsequence of words."""
    same = common_length(one, other)
    return 2 * same / (len(one) + len(other)) if same else 0.0


def is_similar(new: list[str], known: list, limit: float) -> bool:
    """Whether ROUGE-L of `new` with one of the known is above the limit; no more are compared than
    can be.
    """
    return any(
        2 * min(len(new), len(old)) > limit * (len(new) + len(old)) and rouge_l(new, old) > limit
        for old in known
    )


def fault(instruction: str) -> str | None:
    """What is wrong with an instruction, in a word; None where nothing is."""
    count = len(instruction.split())
    if not FEWEST <= count <= MOST:
        return 'length'
    spoken = re.findall(r"[\w']+", instruction.casefold())
    if set(spoken) & set(UNSEEN) or re.search(r'\bgo to\b', instruction, re.IGNORECASE):
        return 'keyword'
    if instruction.casefold().startswith('write a program'):
        return 'program'
    if not instruction[0].isascii() or not instruction[0].isalnum():
        return 'beginning'
    return None
