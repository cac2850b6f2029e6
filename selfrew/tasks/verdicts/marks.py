"""Where a verdict concludes: marks such as 'Score:' that open a line, a sentence or a clause.

All texts have the length of the verdict's, so that positions are positions in the verdict.
"""

import re
from typing import NamedTuple


class Reading(NamedTuple):
    value: float  # nan if there is none
    how: str  # one of READ, or of UNREAD
    start: int = -1  # of a score: where its number begins in the text, -1 if there is none


READ = 'mark', 'sum', 'brackets'
UNREAD = 'no mark', 'unclear', 'out of range', 'cut'

# Characters that look alike, one for one.
_FULL_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)}
ALIKE = _FULL_WIDTH | str.maketrans(
    '−“”„«»‘’。、；\u00a0\u202f\u3000\u200b\ufeff\r', '-"""""\'\'.,;      '
)
END_TOKEN = re.compile(
    r'</s>|<\|(?:im_end|eot_id|endoftext|end_of_text|end|eom_id|im_start)\|>|<end_of_turn>|<eos>'
    r'|<\|end▁of▁sentence\|>|\[/INST\]'
)
# What is not the judge's conclusion: its thoughts, a response that it repeats, words struck out.
ASIDE = re.compile(r'<(think|response)>.*?</\1>|~~[^~\n]+~~', re.DOTALL)
FORMATTING = re.compile(
    r'</?(?:b|i|em|strong|p|div|span|u|code|h\d)>'
    r'|\\(?:boxed|text|textbf|textit|mathbf|mathrm|bm|emph)(?=\{)|\\[()\[\]]',
    re.IGNORECASE,
)
# What marks a value whatever follows.
SEPARATOR = re.compile(r'[ \t]*(?:->|=>|→|:|=(?!=))')
MARKUP = re.compile(r'[*_"`$\[\]{}【】]|(?<!\w)\'|\'(?!\w)')


def aligned(text: str) -> str:
    """The text up to its end token, with one character for those that look alike, without
    formatting.
    """
    text = text.translate(ALIKE)
    for end in END_TOKEN.finditer(text):
        if re.search(r'\w', END_TOKEN.sub('', text[: end.start()])):
            text = text[: end.start()]
            break
    text = END_TOKEN.sub(_blank, text)
    text = re.sub(r'<br ?/?>', lambda match: '\n'.ljust(len(match[0])), text)
    return FORMATTING.sub(_blank, ASIDE.sub(_blank, text))


def without_markup(text: str) -> str:
    """The text with spaces for stars, quotation marks and brackets but round ones."""
    return MARKUP.sub(_blank, text)


def skip(pattern: re.Pattern, text: str, position: int) -> int:
    """The position after what matches there, or the same position."""
    match = pattern.match(text, position)
    return match.end() if match else position


def _blank(match: re.Match) -> str:
    return re.sub(r'[^\n]', ' ', match[0])


# What may stand between the start of a sentence and its mark: all that leads to a conclusion, and
# nothing that names a part of it.
_OPENER = (
    r'(?:so|therefore|thus|hence|overall|finally|lastly|ultimately|consequently|accordingly|now'
    r'|actually|wait|no(?=[,:])|ok|okay|and|on reflection|as a result|assistant|judge'
    r'|in (?:conclusion|summary|total|sum|the end|my (?:opinion|view|judge?ment))'
    r'|to (?:conclude|sum up|summarize|summarise)|(?:based on|given) (?:this|that|these|the) ?\w*'
    r'|(?:(?:my|the|final|overall)\s+)*(?:conclusion|verdict|evaluation|judge?ment|decision'
    r'|assessment|summary)|(?:my |the )?final answer)'
)
_SUBJECT = (
    r'(?:the (?:response|answer)\'s|the|my|our|this|its|an?'
    r'|(?:i|we)(?: would| will| shall| should|\'d|\'ll)? (?:give|assign|award)'
    r'(?: it| (?:this|the)(?: response| answer)?)?(?: an?| the)?'
    r'|(?:it|(?:the|this) (?:response|answer)) (?:deserves|gets|earns|receives|merits)'
    r'(?: an?| the)?)'
)
_BULLET = r'[\s#|•=(<-]*(?:(?:step\s+)?\d+[.):]\s+)?'
LEAD_IN = re.compile(
    rf'{_BULLET}(?:{_OPENER}(?:\s*[,:]\s*|\s+|$))*'
    rf'(?:{_SUBJECT}(?:\s+|$))?(?:(?:final|total|overall|resulting|cumulative)\s+)*[\s(<-]*',
    re.IGNORECASE,
)
SENTENCE_END = re.compile(r'(?<!e\.g)(?<!i\.e)[.!?](?:["\')\]*_]*\s+|(?=[*_]*[A-Z<]))')
CLAUSE_END = re.compile(r'(?:[,;:—|]|\)|</\w+>)\s*')
# What reports the words of others, or says what would be.
REPORTS = re.compile(
    r'\b(?:says?|said|saying|claim(?:s|ed)?|states?|asks?|asked|told|wrote|writes?|written|reads?'
    r'|ends? with|contains?|quotes?|examples?|instance|e\.g|formats?|template|instructions?|if'
    r'|unless|were|had)\b',
    re.IGNORECASE,
)
# What the judge says of itself: what follows may be in quotation marks.
OWN_WORDS = re.compile(
    r'\bi(?: would| will|\'d|\'ll)? (?:rate|score|give|assign|award|grade)\b', re.I
)
GAVE_A_VALUE = re.compile(r'(?:[:=]\s*\d[\d./\s]*|\d\s*points?\s*)\W*$')


def opens(text: str, plain: str, start: int, end: int) -> bool:
    """Whether the words at `start` to `end` conclude: they open a sentence or a clause, at most
    behind words that lead to a conclusion, and are not quoted.

    text: as `aligned` returns it. plain: the same `without_markup`.
    """
    line = text.rfind('\n', 0, start) + 1
    if _is_json_key(text, line, start, end):
        return not _is_in_part(text[:start])
    above = text[:line].rstrip().rpartition('\n')[2]
    if above.endswith(':') and REPORTS.search(above):
        return False
    if _is_quoted(text[line:start], plain[line:start]):
        return False
    sentence = plain[_sentence_start(plain, start) : start]
    if LEAD_IN.fullmatch(sentence):
        return True
    clauses = list(CLAUSE_END.finditer(sentence))
    if not clauses or REPORTS.search(sentence):
        return False
    before, clause = sentence[: clauses[-1].start()], sentence[clauses[-1].end() :]
    if clauses[-1][0].startswith(':'):
        return bool(OWN_WORDS.search(before) and LEAD_IN.fullmatch(clause))
    has_lead_in = re.search(r'\w', clause) or clauses[-1][0].startswith('<')
    return bool(LEAD_IN.fullmatch(clause) and (has_lead_in or GAVE_A_VALUE.search(before)))


def _is_json_key(text: str, line: int, start: int, end: int) -> bool:
    """Whether the words are a key such as "score" or "final_score"."""
    before = re.search(r'(?:^|[{,])\s*["\'](?:(?:final|total|overall)[_ ])?$', text[line:start])
    return bool(before and re.match(r'["\']\s*:', text[end:]))


def _is_in_part(before: str) -> bool:
    """Whether a text ends inside a JSON object that is the value of a part ('"clarity": {')."""
    depth = 0
    for brace in reversed(list(re.finditer(r'[{}]', before))):
        depth += 1 if brace[0] == '}' else -1
        if depth < 0:
            key = re.search(r'"([\w ]+)"\s*:\s*$', before[: brace.start()])
            return bool(key and not CONCLUDES.search(key[1].replace('_', ' ')))
    return False


def _is_quoted(before: str, plain_before: str) -> bool:
    """Whether a quotation is open that does more than enclose a conclusion."""
    for mark in '"', '`', "'":
        opening = before.rfind(mark)
        is_open = before.rstrip().endswith("'") if mark == "'" else before.count(mark) % 2 == 1
        if is_open and not _announces(plain_before[:opening]):
            return True
    return False


def _announces(plain_before: str) -> bool:
    """Whether the judge's own conclusion follows."""
    sentence = plain_before[_sentence_start(plain_before, len(plain_before)) :]
    return bool(LEAD_IN.fullmatch(plain_before) or OWN_WORDS.search(sentence))


def _sentence_start(plain: str, position: int) -> int:
    """Where the sentence begins that `position` lies in; sentences do not cross lines."""
    start = plain.rfind('\n', 0, position) + 1
    for end in SENTENCE_END.finditer(plain, start, position + 1):
        start = end.end()
    return start


LABEL = re.compile(r'\s*(?:#|\d+[.)]|[-•]|\*\*\w)|\s*\w+(?: \w+){0,2}:?\s*$')
CONCLUDES = re.compile(
    r'\b(?:final|total|overall|conclusion|verdict|summary|evaluation|judge?ment|result|wait'
    r'|reflection|score|rating)\b',
    re.IGNORECASE,
)


def is_of_a_part(text: str, start: int) -> bool:
    """Whether the line above the mark at `start` names one of several parts ('2. Depth')."""
    before, _, line = text[:start].rpartition('\n')
    above = before.rstrip().rpartition('\n')[2]
    return bool(
        above and LABEL.match(above) and not CONCLUDES.search(above) and not CONCLUDES.search(line)
    )


# What stands before '[[4]]' in a sentence that rates, and right before the brackets.
RATES = re.compile(
    r'\b(?:rat(?:e|ed|ing)|scored?|give|award|assign|grade|verdict|winner|choice|better|prefer)\b',
    re.IGNORECASE,
)
BEFORE_BRACKETS = re.compile(
    r'\b(?:it|this|response|answer|assistant|as|follows|an?|at|of|is|be|with|rating|score|verdict'
    r'|winner|choice|better|prefer)\W*$',
    re.IGNORECASE,
)
PART_RATED = re.compile(r'(\w+)\s+(?:rating|score|winner|verdict)\b', re.IGNORECASE)
NO_PART = re.compile(
    r'(?:the|my|our|a|an|final|total|overall|of|this|its|is|as|so|and|therefore|thus|would|will)$',
    re.IGNORECASE,
)


def last_brackets(text: str, plain: str, pattern: re.Pattern) -> re.Match | None:
    """The last '[[…]]' that concludes, and is not the rating of a part, a quotation or an
    instruction.
    """
    matches = reversed(list(pattern.finditer(text)))
    return next((match for match in matches if _brackets_conclude(text, plain, match)), None)


def _brackets_conclude(text: str, plain: str, match: re.Match) -> bool:
    if re.match(r'["\'`*]*\s*(?:if|for|when)\b', text[match.end() :]):
        return False
    line = text.rfind('\n', 0, match.start()) + 1
    if _is_quoted(text[line : match.start()], plain[line : match.start()]):
        return False
    sentence = plain[_sentence_start(plain, match.start()) : match.start()]
    if LEAD_IN.fullmatch(sentence):
        return True
    clause = re.split(r'[,;]\s*', sentence)[-1]
    if REPORTS.search(sentence) or not clause.strip():
        return False
    is_rated = RATES.search(clause) and BEFORE_BRACKETS.search(clause)
    parts = PART_RATED.findall(clause)
    return bool(LEAD_IN.fullmatch(clause) or (is_rated and all(map(NO_PART.match, parts))))


def is_alone(text: str, match: re.Match) -> bool:
    """Whether no other content stands in such brackets in the sentence of a match."""
    start = _sentence_start(text, match.start())
    stop = SENTENCE_END.search(text, match.end())
    end = min(text.find('\n', match.end()) % (len(text) + 1), stop.start() if stop else len(text))
    return len({other[1].upper() for other in match.re.finditer(text, start, end)}) == 1
