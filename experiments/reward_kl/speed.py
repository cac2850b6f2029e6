"""How fast is steered sampling beside plain sampling, in one run?

    python -m experiments.reward_kl.speed

Six samples of each of 128 problems by the tiny base; then token-wise, λ = 1; then block-wise, K = 6
and M = 32, whose candidates are counted like samples. All three are decoded with a limit of 128
tokens, once as the model ends its answers, and once without end tokens. Medians of rounds in turn,
after one that compiles.
"""

import statistics
import time

import jax
import numpy as np
from absl import app, flags

from selfrew.engine import generate, progress
from selfrew.engine.generate import Control
from selfrew.models import language_model
from selfrew.shelves import prompts as sources

ROUNDS = flags.DEFINE_integer('rounds', 5, 'Timed calls of each kind.', lower_bound=1)
PROBLEMS = flags.DEFINE_integer('problems', 128, 'That are answered.', lower_bound=1)

CANDIDATES, BLOCK, LONGEST = 6, 32, 128
KINDS = {
    'plain': {},
    'token-wise': {'strength': 1.0},
    'block-wise': {'candidates': CANDIDATES, 'block': BLOCK},
}


def main(_):
    lm, params = language_model.load(folder='tiny', value_head=True)
    key = jax.random.key(0)
    problems = sources.task(lm, params, key, tasks=('word_problems', 'rising'), n=PROBLEMS.value)
    prompts = [lm.text.prompt_tokens(problem) for problem in problems]
    control = Control(0.1 * jax.random.normal(key, params['value'].shape))

    def tokens_per_second(kind: str, ends) -> float:
        fields = {'control': control} | KINDS[kind] if KINDS[kind] else {}
        copies = 1 if kind == 'block-wise' else CANDIDATES
        ids = [problem.id for problem in problems for _ in range(copies)]
        keys = generate.request_keys(key, ids, list(range(copies)) * len(problems))
        repeated = [prompt for prompt in prompts for _ in range(copies)]
        before, begun = progress.totals().sampled_tokens, time.perf_counter()
        generate.generate(lm, params, repeated, keys, max_tokens=LONGEST, ends=ends, **fields)
        seconds = time.perf_counter() - begun
        return (progress.totals().sampled_tokens - before) / seconds

    for title, ends in (('as answers end', None), ('without end tokens', ())):
        rates = {kind: [] for kind in KINDS}
        for round in range(ROUNDS.value + 1):
            for kind in KINDS:
                rate = tokens_per_second(kind, ends)
                if round:
                    rates[kind].append(rate)
        plain = statistics.median(rates['plain'])
        for kind, own in rates.items():
            spread = f'{np.min(own):,.0f} to {np.max(own):,.0f}'
            share = statistics.median(own) / plain
            print(f'{title}: {kind} {statistics.median(own):,.0f} tokens/s ({spread}), {share:.2f}')


if __name__ == '__main__':
    app.run(main)
