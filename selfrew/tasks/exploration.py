"""How widely a model explores: measures of several responses to each prompt."""

import math
import re

from selfrew.tasks import vote

LONGEST_NGRAM = 3
RIGHT = 0.5  # a score from 0 to 1 of at least this is right


def measures(judgements, *, greedy_last: bool = False) -> dict:
    """Means over the prompts with at least two responses; {} without any, and without what no
    prompt has.

    distinct_answers: the share of different final answers among those of a prompt; responses
      without one are left out.
    distinct_1 … distinct_3: different n-grams of words among all of a prompt's responses, as a
      share.
    best_score: the best score of a prompt. coverage: the share of prompts with a right response, a
      score of at least 0.5; only where all scores are from 0 to 1.
    entropy: minus the log-probability a token, over all tokens, in nats. Of responses sampled at
      temperature 1 without truncation, it estimates the entropy of the model; of others it is a
      cross-entropy. Responses that came with the data have no log-probability and are left out.

    Args:
      greedy_last: the last response of each rollout is greedy (see samplers.with_greedy); it is
        left out of the entropy.
    """
    several = [j for j in judgements if len(j.rollout.responses) > 1]
    values: dict[str, float | None] = {'distinct_answers': _mean(map(_distinct_answers, several))}
    for n in range(1, LONGEST_NGRAM + 1):
        values[f'distinct_{n}'] = _mean(distinct_ngrams(j.rollout.responses, n) for j in several)
    scores_of = [[s for s in j.scores if not math.isnan(s)] for j in several]
    best = [max(scores) for scores in scores_of if scores]
    values['best_score'] = _mean(best)
    if all(0 <= score <= 1 for scores in scores_of for score in scores):
        values['coverage'] = _mean(float(score >= RIGHT) for score in best)
    drawn = slice(-1) if greedy_last else slice(None)
    sampled = [r for j in several for r in j.rollout.responses[drawn] if r.logp is not None]
    tokens = sum(len(response.tokens) for response in sampled)
    nats = -sum(response.logp or 0.0 for response in sampled)
    values['entropy'] = nats / tokens if tokens else None
    return {name: value for name, value in values.items() if value is not None}


def _distinct_answers(judgement) -> float | None:
    rollout = judgement.rollout
    answers = [vote(rollout.prompt, response) for response in rollout.responses]
    answers = [answer for answer in answers if answer is not None]
    return len(set(answers)) / len(answers) if answers else None


def distinct_ngrams(responses, n: int, most: int | None = None) -> float | None:
    """The different n-grams of words as a share of all in the responses; None if there are none.

    most: counts so many n-grams, the first ones; the share falls with their number. None: all.
    """
    ngrams = []
    for response in responses:
        words = re.findall(r'\w+|[^\w\s]', response.text.lower())
        ngrams += zip(*(words[i:] for i in range(n)))
    ngrams = ngrams[:most]
    return len(set(ngrams)) / len(ngrams) if ngrams else None


def _mean(values) -> float | None:
    """The mean of what is not None; None of nothing."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
