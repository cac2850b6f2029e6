"""Iterative DPO: best against worst of n samples by a fixed scorer, a new reference each round.

    python -m selfrew.main --config=configs/iterative_dpo.py --workdir=runs/iterative_dpo

Held-out accuracy, seed 0, 1,000 problems: 0.351 → 0.938, 0.867, 0.721 (± 0.03). One round is enough
here; after it, plain DPO unlearns sums. Half a minute on two cores.

--config.round.earlier=-1 also trains on the pairs of all earlier rounds: 0.938, 0.880, 0.871.
--config.round.train.reference=base keeps the base as the reference: 0.938, 0.851, 0.728.

":llama2_7b" is a run of the size of AlpacaFarm's (arXiv 2312.16682, §4): a reward model in the
folder reward_model scores 4 samples for each prompt of prompts.jsonl; the pairs of all rounds add
up, with pairs of people from human.jsonl (prompts.preferences lists the forms). Of the training,
the numbers are those that AlpacaFarm gives for DPO; the numbers of samples, prompts and pairs, and
the lengths, are recollections. To see what it needs of a TPU:

    python -m selfrew.plan --config=configs/iterative_dpo.py:llama2_7b --topology=v5p:2x2x2 \\
        --prompt_tokens=192
"""

from configs import base, self_rewarding

SCALES = ('llama2_7b',)


def get_config(arg: str = ''):
    if arg in SCALES:
        return at_scale(arg)
    if arg not in ('', 'smoke'):
        raise ValueError(
            f'no variant {arg!r} of this config; there are: smoke, {", ".join(SCALES)}'
        )
    small = arg == 'smoke'
    return base.get(
        rounds=1 if small else 3,
        round={
            'prompts': base.fresh(40 if small else 1000, answers=True),
            'sampler': base.sampling(8),
            'scorer': {'name': 'exact_answer'},
            'pairs': {'name': 'extremes', 'count': 1},
            'earlier': 0,
            'loss': {'name': 'dpo', 'beta': 0.1},
            'train': base.training(lr=3e-5, batch=32),
        },
        evals={'accuracy': base.accuracy(40 if small else 1000)},
    )


def at_scale(name: str):
    """Iterative DPO with a published model and a reward model, on AlpacaFarm's kinds of data."""
    prompts = {'name': 'records', 'source': 'prompts.jsonl', 'heldout': 0.02}
    scorer = {
        'name': 'reward_model',
        'checkpoint': 'reward_model',
        'dtype': 'bfloat16',
        'stored': 'bfloat16',
    }
    sampler = {'name': 'sample', 'max_tokens': 300}
    human = {'name': 'preferences', 'source': 'human.jsonl', 'n': 10_000}
    return base.get(
        rounds=3,
        keep_states=1,
        # A prompt and a response have 512 tokens, so that the prompt has 212 at most.
        model=self_rewarding.model_at_scale(name, lora=False) | {'max_length': 512},
        mesh=base.mesh(fsdp=-1),
        round={
            'prompts': prompts | {'split': 'train', 'n': 20_000},
            'sampler': sampler | {'n': 4, 'temperature': 1.0},
            'scorer': scorer,
            'pairs': {'name': 'extremes', 'count': 1},
            'earlier': -1,
            'loss': {'name': 'dpo', 'beta': 0.1},
            'train': base.training(
                lr=1e-6, batch=64, epochs=2, row_length=1024, schedule='cosine', warmup=0.03
            ),
            'join': {
                'human': {
                    'prompts': human,
                    'sampler': {'name': 'given'},
                    'scorer': {'name': 'given'},
                    'pairs': {'name': 'extremes', 'count': 1},
                }
            },
        },
        evals={
            'reward': {
                'name': 'mean_score',
                'prompts': prompts | {'split': 'heldout', 'n': 400},
                'sampler': sampler | {'n': 1, 'temperature': 0.0},
                'scorer': scorer,
            }
        },
    )
