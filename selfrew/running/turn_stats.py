"""Statistics of a turn: how many prompts fell out and why, scores, votes and lengths."""

import collections
import itertools
import math

import numpy as np

from selfrew.engine.generate.early_stop import shortened
from selfrew.tasks import exploration
from selfrew.tasks.verdicts import READ, UNREAD

UNREAD_SHOWN, UNREAD_CHARACTERS = 3, 400


def summarize(prompts, judgements, examples, *, greedy_last: bool = False) -> dict:
    """The numbers of a turn by name; those that do not apply are left out.

    prompts, examples, pairs: counts; an example with several responses is a pair.
    limited, flipped: examples with a limit of words; those of them whose winner and loser changed
      places (pairs.length_limited).
    too_long: prompts that did not fit into the context.
    cut: share of the responses that hit the length limit.
    no_verdict: share of the judgements with fewer than two scores (than one, of one response).
    ties: share of the judgements with several scores in which all are equal.
    unasked: share of the responses without a vote, because their judge prompt did not fit.
    parse_failures: share of the votes that could not be parsed. evals.missing_votes also counts
      each response of `unasked` as one such vote; here they are left out.
    read/mark, read/sum, read/brackets: share of the verdicts that were read after a mark, as the
      total of a sum, in double brackets; unread/no mark, /unclear, /out of range, /cut: share that
      could not be read, and why. See tasks.verdicts.
    score: the mean. full_scores: the share that is 5. scores/0, scores/0.5 … scores/5: the
      histogram, with scores rounded to half points; a half point is listed where there is one.
    agreement: share of the pairs of votes on one response that are equal.
    distinct_answers, distinct_1 … distinct_3, best_score, coverage, entropy: of prompts with
      several responses, see tasks.exploration.measures.
    length_score: the correlation of length, in characters, and score within a prompt's responses.

    Args:
      greedy_last: whether each rollout's last response is greedy, see samplers.with_greedy.
    """
    scores_of = [[s for s in j.scores if not math.isnan(s)] for j in judgements]
    wanted = [min(2, len(j.scores)) for j in judgements]
    several = [scores for scores in scores_of if len(scores) > 1]
    votes_of = [votes for j in judgements for votes in j.votes]  # by response
    scores = [s for scores in scores_of for s in scores]
    responses = [r for j in judgements for r in j.rollout.responses]
    votes = [v for votes in votes_of for v in votes]
    stats = {
        'prompts': len(prompts),
        'too_long': len(prompts) - len(judgements),
        'examples': len(examples),
        'pairs': sum(len(e.responses) > 1 for e in examples),
        'limited': _count('limit', examples),
        'flipped': _count('flipped', examples),
        'cut': _mean([r.finish == 'length' for r in responses]),
        'no_verdict': _mean([len(s) < least for s, least in zip(scores_of, wanted)]),
        'ties': _mean([min(s) == max(s) for s in several]),
        'unasked': _mean([not votes for votes in votes_of]),
        'parse_failures': _mean([math.isnan(v) for v in votes]),
        'score': _mean(scores),
    }
    stats |= _shares_of_readings([how for j in judgements for drawn in j.readings for how in drawn])
    if votes:
        points = [math.floor(2.0 * s + 0.5) / 2.0 for s in scores]
        stats['full_scores'] = _mean([s == 5.0 for s in scores])
        for value in sorted({*range(6), *points}):
            stats[f'scores/{value:g}'] = _mean([p == value for p in points])
        stats['agreement'] = _agreement(votes_of)
    stats |= exploration.measures(judgements, greedy_last=greedy_last)
    lengths_of = [[len(r.text) for r in j.rollout.responses] for j in judgements]
    stats['length_score'] = _correlation_within(lengths_of, [j.scores for j in judgements])
    return {name: value for name, value in stats.items() if value is not None}


def what_fell_out(turn, prompts, judgements, examples) -> str:
    """Where a turn's prompts went, in words, up to the examples that they became."""
    scores_of = [[s for s in j.scores if not math.isnan(s)] for j in judgements]
    unread = sum(len(s) < min(2, len(j.scores)) for s, j in zip(scores_of, judgements))
    ties = sum(len(scores) > 1 and min(scores) == max(scores) for scores in scores_of)
    cut = _mean([r.finish == 'length' for j in judgements for r in j.rollout.responses])
    parts = [f'{len(prompts)} prompts']
    if too_long := len(prompts) - len(judgements):
        parts.append(f'{too_long} did not fit into the context')
    if unread:
        parts.append(f'{unread} had no two scores that say something ({turn.scorer.func.__name__})')
    if ties:
        parts.append(f'{ties} had the same score for all responses')
    parts.append(f'{turn.pairs.func.__name__} and the limits of the turn left {len(examples)}')
    if cut:
        parts.append(f'{cut:.0%} of the responses were cut by the token limit')
    return f'{turn.name}: ' + ', '.join(parts)


def _count(mark: str, examples) -> int | None:
    """The examples whose prompt's meta has a mark; None if none has."""
    return sum(mark in example.prompt.meta for example in examples) or None


def _shares_of_readings(readings: list[str]) -> dict:
    """The share of each way in which verdicts were read, or were not."""
    counts = collections.Counter(readings)
    kinds = [(f'read/{how}', how) for how in READ] + [(f'unread/{how}', how) for how in UNREAD]
    return {name: counts[how] / len(readings) for name, how in kinds if counts[how]}


def unread_verdicts(judgements) -> list[str]:
    """The first few verdicts that could not be read, each with the reason; long ones without their
    middle.
    """
    unread = []
    for judgement in judgements:
        for texts, readings in zip(judgement.verdicts, judgement.readings):
            for text, how in zip(texts, readings):
                if how in UNREAD and len(unread) < UNREAD_SHOWN:
                    unread.append(f'({how}) {shortened(text, UNREAD_CHARACTERS)}')
    return unread


def _mean(values) -> float | None:
    return sum(values) / len(values) if values else None


def _agreement(votes_of) -> float | None:
    """The share of equal pairs among the pairs of readable votes on one response."""
    pairs = [pair for votes in votes_of for pair in itertools.combinations(votes, 2)]
    return _mean([a == b for a, b in pairs if not math.isnan(a + b)])


def _correlation_within(xs_of, ys_of) -> float | None:
    """The correlation of x and y after each group's mean is subtracted; pairs whose y is nan are
    left out.

    xs_of, ys_of: a list of values for each group. None if x or y is constant in every group.
    """
    groups = []
    for xs, ys in zip(xs_of, ys_of):
        pairs = [(x, y) for x, y in zip(xs, ys) if not math.isnan(y)]
        if pairs:
            points = np.array(pairs, float)
            groups.append(points - points.mean(axis=0))
    if not groups:
        return None
    centred_x, centred_y = np.concatenate(groups).T
    norm = np.linalg.norm(centred_x) * np.linalg.norm(centred_y)
    return float(np.dot(centred_x, centred_y) / norm) if norm else None
