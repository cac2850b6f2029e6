"""What became of a turn's prompts: how many fell out and why, scores, votes and lengths."""

import itertools
import math

import numpy as np


def summarize(prompts, judgements, examples) -> dict:
    """What became of a turn's prompts: how many fell out, and why; shares are of judgements or of
    votes.

    too_long: prompts that did not fit into the context. cut: responses that hit the length limit.
    no_verdict: judgements with fewer than two verdicts (than one, of a single response). ties: all
      verdicts equal.
    unasked: responses whose judge prompt did not fit. parse_failures: votes that could not be read.
    score: the mean. full_scores: scores of 5. scores/0 … scores/5: the histogram, by whole points.
    agreement: pairs of votes on one response that are the same. length_score: the correlation of
    length, in characters, and score among the responses to a prompt.
    """
    heard = [[s for s in j.scores if not math.isnan(s)] for j in judgements]
    wanted = [min(2, len(j.scores)) for j in judgements]
    votes = [v for j in judgements for mine in j.votes for v in mine]
    scores = [s for mine in heard for s in mine]
    responses = [r for j in judgements for r in j.rollout.responses]

    def share(found, of):
        return sum(found) / len(of) if of else None

    out = {
        'prompts': len(prompts),
        'too_long': len(prompts) - len(judgements),
        'examples': len(examples),
        'pairs': sum(len(e.responses) > 1 for e in examples),
        'cut': share([r.finish == 'length' for r in responses], responses),
        'no_verdict': share([len(h) < w for h, w in zip(heard, wanted)], judgements),
    }
    several = [h for h in heard if len(h) > 1]
    out['ties'] = share([min(h) == max(h) for h in several], several)
    asked = [bool(mine) for j in judgements for mine in j.votes]
    out['unasked'] = share([not a for a in asked], asked)
    out['parse_failures'] = share([math.isnan(v) for v in votes], votes)
    out['score'] = share(scores, scores)
    if votes:
        out['full_scores'] = share([s == 5.0 for s in scores], scores)
        points = [round(s) for s in scores]
        out |= {
            f'scores/{k}': share([p == k for p in points], points)
            for k in sorted({*range(6), *points})
        }
        both = [
            a == b
            for j in judgements
            for mine in j.votes
            for a, b in itertools.combinations(mine, 2)
            if not math.isnan(a + b)
        ]
        out['agreement'] = share(both, both)
    out['length_score'] = _within(
        [([len(r.text) for r in j.rollout.responses], j.scores) for j in judgements]
    )
    return {k: v for k, v in out.items() if v is not None}


def _within(columns) -> float | None:
    """The correlation of (x, y) pairs, each list of them taken from its own mean; pairs with a nan
    left out.
    """
    apart = []
    for x, y in columns:
        pairs = np.array([(a, b) for a, b in zip(x, y) if not math.isnan(b)], float).reshape(-1, 2)
        apart.append(pairs - pairs.mean(axis=0) if len(pairs) else pairs)
    x, y = np.concatenate(apart).T if apart else ([], [])
    norm = np.linalg.norm(x) * np.linalg.norm(y)
    return float(np.dot(x, y) / norm) if norm else None
