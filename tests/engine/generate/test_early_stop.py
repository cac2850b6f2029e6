"""A stage stops after its first responses where these say nothing, and nowhere else."""

import jax
import pytest

from selfrew.engine import generate
from selfrew.engine.generate import early_stop, journal
from selfrew.types import Response


def _cut(i, response):
    return None if response.finish == 'stop' else 'cut'


def _responses(unread, count=early_stop.FIRST):
    """`unread` responses that were cut, and then such as were not."""
    return [Response(f'text {i}', (), 'length' if i < unread else 'stop') for i in range(count)]


def _problem(unread, max_unread=0.9):
    with early_stop.watching(max_unread, None):
        (check,) = early_stop.unread_check('verdicts', 1000, _cut)
    return check.problem(_responses(unread))


def test_more_than_the_share_stops_and_no_more_than_the_share_does_not():
    assert _problem(43) is None  # 43 / 48 = 0.896
    assert '44 of the first 48 verdicts say nothing, more than max_unread=0.9' in _problem(44)
    assert _problem(24, 0.5) is None and _problem(25, 0.5) is not None
    assert _problem(48, 1.0) is None
    assert _problem(1, 0.0) is not None


def test_three_of_those_that_say_nothing_are_shown_with_the_reason_on_a_line_each():
    lines = _problem(48).split('\n')
    assert lines[1:] == ['  (cut) text 0', '  (cut) text 1', '  (cut) text 2']


def test_outside_of_a_turn_and_in_a_small_stage_nothing_is_checked():
    assert early_stop.current() is None
    assert early_stop.unread_check('verdicts', 1000, _cut) == []
    assert early_stop.ties_check([[0, 1]] * 100, None) == []
    with early_stop.watching(0.9, None):
        assert early_stop.unread_check('verdicts', early_stop.FIRST - 1, _cut) == []
        assert early_stop.ties_check([[0, 1]] * 23, None) == []
    assert early_stop.current() is None


@pytest.mark.parametrize(
    ('scores', 'max_unread', 'stops'),
    [
        ([[3.0, 3.0]] * 24, 0.9, True),
        ([[3.0, 3.0]] * 23 + [[3.0, 4.0]], 0.9, False),
        ([[3.0, 3.0]] * 24, 1.0, False),
        ([[]] * 24, 0.9, False),  # without a verdict there is no tie
    ],
)
def test_only_ties_everywhere_stop(scores, max_unread, stops):
    groups = [[2 * i, 2 * i + 1] for i in range(30)]

    def value(group, responses):
        assert [r.text for r in responses] == [f'text {i}' for i in group]
        return scores[group[0] // 2]

    with early_stop.watching(max_unread, None):
        (check,) = early_stop.ties_check(groups, value)
    assert check.count == 48
    problem = check.problem(_responses(0))
    assert (problem is not None) == stops
    if stops:
        assert (
            'all responses to each of the first 24 prompts have the same score (3, 3, 3' in problem
        )


def _generate(tiny, tmp_path, checks, requests=200):
    lm, params = tiny
    prompts = [lm.text.encode(f'{i % 7} + {i} =') for i in range(requests)]
    keys = generate.request_keys(jax.random.key(0), list(map(str, range(requests))), [0] * requests)
    with journal.recording(str(tmp_path / 'samples.jsonl')):
        return generate.generate(lm, params, prompts, keys, max_tokens=24, slots=16, checks=checks)


def test_the_first_requests_are_checked_whatever_ends_first_and_the_rest_is_not_sampled(
    tiny, tmp_path
):
    seen = []
    checks = [early_stop.Check(48, lambda first: seen.append(first))]
    responses = _generate(tiny, tmp_path / 'all', checks)
    assert seen == [responses[:48]]

    checks = [early_stop.Check(48, lambda first: 'they say nothing')]
    for _ in range(2):  # a resumed run is stopped by what was sampled before
        with pytest.raises(early_stop.StopEarly, match='they say nothing'):
            _generate(tiny, tmp_path / 'stopped', checks)
        lines = (tmp_path / 'stopped/samples.jsonl').read_text().count('\n')
        assert 48 <= lines < 100
    assert _generate(tiny, tmp_path / 'stopped', []) == responses  # and kept for one that goes on
