"""LLM as a judge: the model scores responses, or compares them, with its own parameters."""

import collections
import dataclasses
import itertools
import math
from collections.abc import Callable

from selfrew.engine import generate
from selfrew.engine.generate import early_stop
from selfrew.shelves.scorers.expected_scores import expected_scores
from selfrew.tasks import templates
from selfrew.tasks.verdicts import Reading, reading_of_score, reading_of_winner
from selfrew.types import Judgement, Response, user_prompt


@templates.shows('response', prompt='p', response='r')
def judge(
    lm,
    params,
    rollouts,
    key,
    *,
    template: str = 'additive',
    votes: int = 3,
    temperature: float = 0.7,
    top_k: int = 0,
    top_p: float = 0.9,
    min_p: float = 0.0,
    max_tokens: int = 256,
    low: float | None = None,
    high: float | None = None,
    expected: bool = False,
    slots: int | None = None,
) -> list[Judgement]:
    """The mean of the valid votes of the model as a judge of responses (arXiv 2401.10020, §2.2).

    A response scores nan if its judge prompt does not fit into the context, or if none of its votes
    can be read.

    Args:
      template: a jinja file with {{ prompt }} and {{ response }}, or the name of a shipped one. It
        must ask for a last 'Score: N'.
      votes: verdicts sampled for each response.
      temperature, top_k, top_p, min_p, max_tokens, slots: of a verdict, see samplers.sample.
      low, high: the range of a score; a score out of range is no verdict. None: as the template
        sets it, else 0 and 5.
      expected: a vote is the mean of all whole scores in the range, weighted by the probability of
        each in the place of the drawn score, see expected_scores.
    Raises FileNotFoundError without the template, ValueError for an option out of range.
    """
    low, high = templates.score_range(template, low, high)

    def read(verdict: Response) -> Reading:
        return reading_of_score(verdict, low=low, high=high)

    def score_rollout(rollout, verdicts) -> tuple:
        votes = [[read(verdict).value for verdict in drawn] for drawn in verdicts]
        return tuple(map(_mean_of_valid, votes))

    fields = [{'prompt': r.prompt.text, 'response': a.text} for r in rollouts for a in r.responses]
    names = [f'{r.prompt.id}/{i}' for r in rollouts for i in range(len(r.responses))]
    sampling = {'temperature': temperature, 'top_k': top_k, 'top_p': top_p, 'min_p': min_p}
    sampling |= {'max_tokens': max_tokens, 'slots': slots}
    parts = _parts(rollouts, [len(rollout.responses) for rollout in rollouts])
    checks = _Checks(read, parts, None if expected else score_rollout)
    prompts, verdicts = _sample_verdicts(
        lm, params, key, template, fields, names, votes, checks, **sampling
    )
    readings = [list(map(read, drawn)) for drawn in verdicts]
    scores = [[reading.value for reading in drawn] for drawn in readings]
    if expected:
        points = [str(point) for point in range(math.ceil(low), math.floor(high) + 1)]
        scores = _expected_votes(lm, params, prompts, verdicts, readings, points)
    return [
        _judgement(rollout, verdicts[part], scores[part], readings[part]) for rollout, part in parts
    ]


@templates.shows('first', 'second', prompt='p', first='f', second='s')
def compare(
    lm,
    params,
    rollouts,
    key,
    *,
    template: str = 'pairwise',
    votes: int = 1,
    temperature: float = 0.7,
    top_k: int = 0,
    top_p: float = 0.9,
    min_p: float = 0.0,
    max_tokens: int = 256,
    slots: int | None = None,
) -> list[Judgement]:
    """The share of comparisons that a response wins against each other response, in both orders.

    A vote is two verdicts, one for each order. If they disagree, or agree on a tie, it is half a
    win for both responses (as in the head-to-heads of arXiv 2401.10020, §3.1.3). If either cannot
    be read, it is no vote. A response's verdicts are those in which it is shown first.

    Args:
      template: a jinja file with {{ prompt }}, {{ first }} and {{ second }}, or the name of a
        shipped one. It must ask for a last 'Winner: A', 'B' or 'tie'; '[[A]]', '[[B]]' and '[[C]]'
        are read too.
      votes: votes for each pair of responses.
      temperature, top_k, top_p, min_p, max_tokens, slots: of a verdict, see samplers.sample.
    Raises FileNotFoundError without the template, ValueError for an option out of range.
    """
    fields, names = [], []
    for rollout in rollouts:
        texts = [response.text for response in rollout.responses]
        for i, j in itertools.permutations(range(len(texts)), 2):
            shown = {'prompt': rollout.prompt.text, 'first': texts[i], 'second': texts[j]}
            fields.append(shown)
            names.append(f'{rollout.prompt.id}/{i}/{j}')
    sampling = {'temperature': temperature, 'top_k': top_k, 'top_p': top_p, 'min_p': min_p}
    sampling |= {'max_tokens': max_tokens, 'slots': slots}

    def judge_rollout(rollout, verdicts) -> Judgement:
        orders = itertools.permutations(range(len(rollout.responses)), 2)
        verdicts_of = dict(zip([f'{rollout.prompt.id}/{i}/{j}' for i, j in orders], verdicts))
        readings_of = {name: list(map(reading_of_winner, v)) for name, v in verdicts_of.items()}
        return _share_of_wins(rollout, verdicts_of, readings_of)

    def score_rollout(rollout, verdicts) -> tuple:
        return judge_rollout(rollout, verdicts).scores

    parts = _parts(rollouts, [len(r.responses) * (len(r.responses) - 1) for r in rollouts])
    checks = _Checks(reading_of_winner, parts, score_rollout)
    _, verdicts = _sample_verdicts(
        lm, params, key, template, fields, names, votes, checks, **sampling
    )
    return [judge_rollout(rollout, verdicts[part]) for rollout, part in parts]


def shortest_judge_prompt(template: str, lm) -> int:
    """Tokens of a judge's or comparer's prompt whose prompt and responses are one word each."""
    fields = dict.fromkeys(('prompt', 'response', 'first', 'second'), 'a')
    return len(lm.text.prompt_tokens(user_prompt('', templates.render(template, **fields))))


def _share_of_wins(rollout, verdicts_of: dict, readings_of: dict) -> Judgement:
    """The judgement of a rollout; verdicts_of, readings_of: 'prompt id/index shown first/second' ->
    verdicts, and how they are read.
    """
    indices = range(len(rollout.responses))
    shown_first, votes, readings = [], [], []
    for i in indices:
        drawn, wins, read = [], [], []
        for j in indices:
            if i != j:
                name = f'{rollout.prompt.id}/{i}/{j}'
                forward, backward = readings_of[name], readings_of[f'{rollout.prompt.id}/{j}/{i}']
                drawn += verdicts_of[name]
                read += forward
                wins += [
                    _win(first.value, 1.0 - second.value)
                    for first, second in zip(forward, backward)
                ]
        shown_first.append(drawn)
        votes.append(wins)
        readings.append(read)
    return _judgement(rollout, shown_first, votes, readings)


def _win(forward: float, backward: float) -> float:
    """One vote from the wins of both orders: 0.5 where they differ, nan where either is nan."""
    if math.isnan(forward + backward):
        return math.nan
    return forward if forward == backward else 0.5


def _parts(rollouts, counts: list[int]) -> list:
    """(rollout, the slice of its judge prompts) of each rollout that has so many of them."""
    stops = list(itertools.accumulate(counts))
    return [
        (rollout, slice(stop - count, stop))
        for rollout, count, stop in zip(rollouts, counts, stops)
    ]


@dataclasses.dataclass(frozen=True)
class _Checks:
    """How the first verdicts of a turn are checked, see engine.generate.early_stop."""

    read: Callable[[Response], Reading]
    parts: list  # of `_parts`
    score_rollout: Callable | None  # (rollout, the verdicts on each of its judge prompts) -> scores

    def of_requests(self, requests: list[tuple[int, int]]) -> list:
        """The checks where each request is (index of the judge prompt, number of the vote)."""
        if early_stop.current() is None:
            return []

        def reason(i: int, verdict: Response) -> str | None:
            reading = self.read(verdict)
            return reading.how if math.isnan(reading.value) else None

        checks = early_stop.unread_check('verdicts', len(requests), reason)
        score_rollout = self.score_rollout
        if score_rollout is None:
            return checks
        requests_of = collections.defaultdict(list)
        for i, (prompt, _) in enumerate(requests):
            requests_of[prompt].append(i)
        groups, rollout_of = [], {}
        for rollout, part in self.parts:
            group = [i for prompt in range(part.start, part.stop) for i in requests_of[prompt]]
            if len(rollout.responses) > 1 and group:
                rollout_of[group[0]] = rollout, part
                groups.append(group)

        def scores(group: list[int], verdicts: list[Response]) -> list[float]:
            rollout, part = rollout_of[group[0]]
            drawn_of = collections.defaultdict(list)
            for i, verdict in zip(group, verdicts):
                drawn_of[requests[i][0]].append(verdict)
            drawn = [drawn_of[prompt] for prompt in range(part.start, part.stop)]
            return [s for s in score_rollout(rollout, drawn) if not math.isnan(s)]

        return checks + early_stop.ties_check(groups, scores)


def _sample_verdicts(lm, params, key, template, fields, names, votes: int, checks, **sampling):
    """(tokens of the judge prompt, its verdicts) of each dict of template fields, as two lists.

    A judge prompt that does not fit into the context gets no verdicts. `checks` is a `_Checks`.
    """
    if votes < 1:
        raise ValueError(f'votes={votes}: want at least 1')
    prompts = [
        lm.text.prompt_tokens(user_prompt('', templates.render(template, **each)))
        for each in fields
    ]
    room = lm.config.max_length - sampling['max_tokens']
    fitting = [i for i, tokens in enumerate(prompts) if len(tokens) <= room]
    requests = [(i, vote) for i in fitting for vote in range(votes)]
    ids = [f'judge/{names[i]}' for i, _ in requests]
    keys = generate.request_keys(key, ids, [vote for _, vote in requests])
    tokens = [prompts[i] for i, _ in requests]
    responses = generate.generate(
        lm, params, tokens, keys, title='judge', checks=checks.of_requests(requests), **sampling
    )
    verdicts = [[] for _ in prompts]
    for (i, _), verdict in zip(requests, responses):
        verdicts[i].append(verdict)
    return prompts, verdicts


def _expected_votes(lm, params, prompts, verdicts, readings, points: list[str]):
    """The votes, each that can be read replaced by its expected score, where that is known."""
    valid = []  # (index of the response, index of its vote)
    for response, drawn in enumerate(readings):
        valid += [(response, i) for i, reading in enumerate(drawn) if not math.isnan(reading.value)]
    written = [
        (prompts[response], verdicts[response][i].tokens, readings[response][i].start)
        for response, i in valid
    ]
    votes = [[reading.value for reading in drawn] for drawn in readings]
    for (response, i), mean in zip(valid, expected_scores(lm, params, written, points)):
        if mean is not None:
            votes[response][i] = mean
    return votes


def _judgement(rollout, verdicts, votes, readings) -> Judgement:
    """The mean of each response's valid votes as its score; the texts of its verdicts are kept."""
    texts = tuple(tuple(verdict.text for verdict in drawn) for drawn in verdicts)
    how = tuple(tuple(reading.how for reading in drawn) for drawn in readings)
    scores = tuple(map(_mean_of_valid, votes))
    return Judgement(rollout, scores, texts, tuple(map(tuple, votes)), how)


def _mean_of_valid(votes) -> float:
    valid = [vote for vote in votes if not math.isnan(vote)]
    return sum(valid) / len(valid) if valid else math.nan
