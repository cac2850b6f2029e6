"""One of each host noun that is a JSON line, with text that is easily broken."""

import dataclasses
import math

from selfrew.types import Example, Judgement, Prompt, Response, Rollout

MESSAGES = (
    {'role': 'system', 'content': 'é'},
    {'role': 'user', 'content': 'line\u2028sep\x85\n"日本" 🙂'},
)
PROMPT = Prompt('p', MESSAGES, 7, {'k': [1, 2]})
RESPONSES = Response('ünï\u2029', (1, 2), 'length', -3.25), Response('')
ROLLOUT = Rollout(PROMPT, RESPONSES)
VERDICTS = ('Score: 1', '…'), ()
JUDGEMENT = Judgement(ROLLOUT, (1.5, math.nan), VERDICTS, votes=((1.5, math.nan), ()))
EXAMPLE = Example(PROMPT, RESPONSES, (5.0, math.nan), 0.75)
NOUNS = [PROMPT, ROLLOUT, JUDGEMENT, EXAMPLE]


def as_text(noun) -> str:
    """A noun's fields as text, for comparisons: nan is not equal to itself, but its text is."""
    return repr(dataclasses.asdict(noun))
