"""Which of a model's made-up instructions to keep: the filters of Self-Instruct (arXiv 2212.10560,
§2.2).
"""

import re

VISUAL_WORDS = set(  # an instruction with one of these needs something that text cannot show
    'image images graph graphs picture pictures file files map maps draw plot'.split()
)
MIN_WORDS, MAX_WORDS = 4, 150
WORD = re.compile(r'[a-z0-9]+')


def words(text: str) -> list[str]:
    """The units that ROUGE counts: runs of letters and digits, in lower case."""
    return WORD.findall(text.casefold())


def lcs_length(first: list[str], second: list[str]) -> int:
    """The length of the longest common subsequence of two lists of words.

    Bit-parallel (Hyyrö 2004): one bit for each word of `first`.
    """
    positions = {}
    for i, word in enumerate(first):
        positions[word] = positions.get(word, 0) | 1 << i
    all_bits = (1 << len(first)) - 1
    unmatched = all_bits  # a bit turns 0 where the subsequence grows
    for word in second:
        matches = unmatched & positions.get(word, 0)
        unmatched = (unmatched + matches | unmatched - matches) & all_bits
    return len(first) - unmatched.bit_count()


def rouge_l(first: list[str], second: list[str]) -> float:
    """ROUGE-L: the F1 score of the longest common subsequence of words."""
    common = lcs_length(first, second)
    return 2 * common / (len(first) + len(second)) if common else 0.0


def is_similar(new: list[str], known: list[list[str]], limit: float) -> bool:
    """Whether the ROUGE-L of `new` with any known instruction exceeds the limit.

    Skips those whose lengths alone rule it out.
    """
    return any(
        2 * min(len(new), len(old)) > limit * (len(new) + len(old)) and rouge_l(new, old) > limit
        for old in known
    )


def rejection_reason(instruction: str) -> str | None:
    """Why the filters reject an instruction, in one word; None if they accept it."""
    if not MIN_WORDS <= len(instruction.split()) <= MAX_WORDS:
        return 'length'
    lowered = instruction.casefold()
    if VISUAL_WORDS & set(re.findall(r"[\w']+", lowered)):
        return 'keyword'
    if re.search(r'\bgo to\b', instruction, re.IGNORECASE):
        return 'keyword'
    if lowered.startswith('write a program'):
        return 'program'
    if not instruction[0].isascii() or not instruction[0].isalnum():
        return 'beginning'
    return None
