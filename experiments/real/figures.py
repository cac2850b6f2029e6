"""What the studies of a real model measure: paired differences, and how fluent responses are."""

import json
import math
import os

import numpy as np
from scipy import stats

from selfrew.types import Judgement, from_json

RESAMPLES = 100_000


def judgements(workdir: str, number: int, name: str) -> list[Judgement]:
    """The responses of an evaluation of a round, and their scores."""
    path = os.path.join(workdir, 'rounds', f'{number:02d}', f'eval_{name}.jsonl')
    with open(path) as file:
        return [from_json(Judgement, json.loads(line)) for line in file]


def scores(judged: list[Judgement]) -> dict[str, float]:
    """Prompt id -> the mean score of its responses."""
    return {j.rollout.prompt.id: float(np.mean(j.scores)) for j in judged}


def mean_by_prompt(runs: list[dict[str, float]]) -> dict[str, float]:
    """Prompt id -> the mean of its scores over runs, so that a prompt counts once in a test."""
    ids = {name for run in runs for name in run}
    return {name: float(np.mean([run[name] for run in runs if name in run])) for name in ids}


def against_the_start(folder: str, arm: str, seeds: list[int], name: str, number: int) -> dict:
    """An arm's evaluation after a round against that before training, paired, over all seeds."""
    before, after = (
        mean_by_prompt(
            [scores(judgements(f'{folder}/{arm}-{seed}', rounds, name)) for seed in seeds]
        )
        for rounds in (0, number)
    )
    return paired(after, before)


def paired(after: dict[str, float], before: dict[str, float]) -> dict:
    """How much more scores are after than before, over the same prompts.

    'gain' is the mean difference, 'low' and 'high' its 95 % t interval, 'p' the two-sided chance of
    one as large if each prompt's difference were as likely to have the other sign (a permutation
    test of RESAMPLES draws), 'n' the prompts.
    Raises ValueError where the prompts are not the same.
    """
    if after.keys() != before.keys():
        raise ValueError('the prompts are not the same')
    gains = np.array([after[name] - before[name] for name in sorted(before)])
    mean, count = float(gains.mean()), len(gains)
    half = stats.t.ppf(0.975, count - 1) * gains.std(ddof=1) / math.sqrt(count)
    test = stats.permutation_test(
        (gains,), np.mean, permutation_type='samples', n_resamples=RESAMPLES, rng=0
    )
    return {
        'gain': mean,
        'low': float(mean - half),
        'high': float(mean + half),
        'p': float(test.pvalue),
        'n': count,
    }


def fluency(base, judged: list[Judgement]) -> dict:
    """What training may cost: perplexity under the base, and how much responses repeat themselves.

    base: (lm, params) of the untouched model. 'perplexity' is exp of the mean negative
    log-probability of a token, 'distinct_2' the share of the pairs of neighbouring words of all
    responses that differ, of as many words from each run; 'tokens' and 'cut' are the mean length
    and the share that max_tokens cut.
    """
    lm, params = base
    pairs = [(j.rollout.prompt, r) for j in judged for r in j.rollout.responses if r.tokens]
    logp = lm.logp(params, [prompt for prompt, _ in pairs], [response for _, response in pairs])
    lengths = [len(response.tokens) for _, response in pairs]
    words = ' '.join(response.text for _, response in pairs).split()[:WORDS]
    neighbours = list(zip(words, words[1:]))
    return {
        'perplexity': float(np.exp(-logp.total.sum() / sum(lengths))),
        'distinct_2': len(set(neighbours)) / len(neighbours),
        'tokens': float(np.mean(lengths)),
        'cut': float(np.mean([response.finish == 'length' for _, response in pairs])),
    }


WORDS = 5_000  # of the share of distinct pairs, which falls with the number of words
