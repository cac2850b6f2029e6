"""Every noun is one JSON line and comes back from it unchanged."""

import json

import pytest
from nouns import NOUNS, as_text

from selfrew.types import from_json, to_json


@pytest.mark.parametrize('noun', NOUNS, ids=lambda noun: type(noun).__name__)
def test_a_noun_is_a_json_line_and_comes_back_the_same(noun):
    line = json.dumps(to_json(noun), allow_nan=False)
    assert '\n' not in line and as_text(from_json(type(noun), json.loads(line))) == as_text(noun)


def test_a_type_that_is_no_noun_is_refused():
    with pytest.raises(TypeError, match='there are: Prompt, Rollout, Judgement, Example'):
        from_json(dict, {})
