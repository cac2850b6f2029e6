"""What the studies of a real model measure: paired differences, and how fluent responses are."""

import os

import numpy as np
from scipy import stats

from selfrew.engine.run_files import write_atomic
from selfrew.running.stage import Folder, json_bytes
from selfrew.shelves.evals.intervals import student
from selfrew.tasks.exploration import distinct_ngrams
from selfrew.types import Judgement, Prompt, Response

RESAMPLES = 100_000
BASELINE = 'sft'  # the arm that the others should beat
READ = 64  # responses, by the untouched model
PAIRS = 5_000  # of words, that are counted: fewer than responses of any run have


def judgements(workdir: str, number: int, name: str) -> list[Judgement]:
    """The responses of an evaluation of a round, and their scores."""
    return Folder(workdir, f'{number:02d}').read_nouns(f'eval_{name}', Judgement)


def scores(judged: list[Judgement]) -> dict[str, float]:
    """Prompt id -> the mean score of its responses."""
    return {j.rollout.prompt.id: float(np.mean(j.scores)) for j in judged}


def mean_by_prompt(runs: list[dict[str, float]]) -> dict[str, float]:
    """Prompt id -> the mean of its scores over runs, so that a prompt counts once in a test."""
    ids = {name for run in runs for name in run}
    return {name: float(np.mean([run[name] for run in runs if name in run])) for name in ids}


def write_tests(folder: str, arms: list[str], seeds: list[int], names: tuple, last: int) -> dict:
    """Writes tests.json, and returns it: arm -> evaluation -> `paired`, of round `last` against the
    model before training, over all seeds; and where an arm is called BASELINE, 'ARM against
    BASELINE' for the others, both of round `last`.
    """

    def measured(number: int, arm: str, name: str) -> dict[str, float]:
        runs = [judgements(os.path.join(folder, f'{arm}-{seed}'), number, name) for seed in seeds]
        return mean_by_prompt(list(map(scores, runs)))

    after = {arm: {name: measured(last, arm, name) for name in names} for arm in arms}
    tests = {
        arm: {name: paired(after[arm][name], measured(0, arm, name)) for name in names}
        for arm in arms
    }
    for arm in arms if BASELINE in arms else ():
        if arm != BASELINE:
            tests[f'{arm} against {BASELINE}'] = {
                name: paired(after[arm][name], after[BASELINE][name]) for name in names
            }
    write_atomic(os.path.join(folder, 'tests.json'), json_bytes(tests))
    return tests


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
    low, high = student(gains)
    test = stats.permutation_test(
        (gains,), np.mean, permutation_type='samples', n_resamples=RESAMPLES, rng=0
    )
    return {
        'gain': float(gains.mean()),
        'low': low,
        'high': high,
        'p': float(test.pvalue),
        'n': len(gains),
    }


class Untouched:
    """The model before training, as a reader of what others answer.

    It remembers what it has read: the arms of a seed have the same answers before training.
    """

    def __init__(self, lm, params):
        self._lm, self._params = lm, params
        self._known: dict[tuple, dict] = {}

    def fluency(self, judged: list[Judgement]) -> dict:
        """What training may cost: whether responses are still fluent, and about what was asked.

        Of the first READ responses, under this model: 'perplexity' is exp of the mean negative
        log-probability of a token, 'relevance' the share of responses that are more probable after
        their own instruction than after that of the next one (instructions without their
        constraints, see `_instruction`). Of all responses: 'distinct_2' is the share of different
        ones among the first PAIRS pairs of neighbouring words; 'tokens' and 'cut' are the mean
        length and the share that max_tokens cut.
        """
        pairs = [(j.rollout.prompt, r) for j in judged for r in j.rollout.responses if r.tokens]
        read = tuple((prompt.text, response.tokens) for prompt, response in pairs[:READ])
        if read not in self._known:
            self._known[read] = self._read(*zip(*pairs[:READ]))
        responses = [response for _, response in pairs]
        return self._known[read] | {
            'distinct_2': distinct_ngrams(responses, 2, most=PAIRS),
            'tokens': float(np.mean([len(r.tokens) for r in responses])),
            'cut': float(np.mean([r.finish == 'length' for r in responses])),
        }

    def _read(self, prompts: tuple[Prompt, ...], read: tuple[Response, ...]) -> dict:
        instructions = list(map(_instruction, prompts))
        others = instructions[1:] + instructions[:1]
        logp, own, other = (
            self._lm.logp(self._params, asked, read).total
            for asked in (prompts, instructions, others)
        )
        return {
            'perplexity': float(np.exp(-logp.sum() / sum(len(r.tokens) for r in read))),
            'relevance': float(np.mean(own > other)),
        }


def _instruction(prompt: Prompt) -> str:
    """The first paragraph: what `constraints.constrained` adds to a prompt comes after it."""
    return prompt.text.split('\n\n')[0]
