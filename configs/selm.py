"""Self-Exploring Language Models (arXiv 2405.19332) on the tiny base: DPO that also makes the
model's own greedy response less likely.

    python -m selfrew.main --config=configs/selm.py --workdir=runs/selm

Held-out accuracy, seed 0, 1,000 problems: 0.351 → 0.931, 0.945, 0.963 (± 0.02); one of four samples
is right for a share of 0.723 → 0.853, 0.877, 0.903 of 300 problems (± 0.05). Forty seconds on two
cores. experiments/selm compares values of α.

Of four samples and the greedy response, a verifier takes the best and the worst. The problems are
fresh in each round, so its portions are disjoint.

":zephyr", ":llama3_8b" and ":phi3" are the paper's runs with its numbers (§4). A round reads a
portion of its own of ultrafeedback.jsonl (UltraFeedback-binarized: prompt, chosen, rejected; 61,135
rows), adds the model's greedy response to the two of the data, and trains on the best and the worst
of the three. Zephyr's first round is DPO on the pairs as they are. What differs from the paper: a
reward model in the folder reward_model ranks (the paper: PairRM, an encoder); equal scores make no
pair; examples above 4,096 tokens are left out (the paper cuts them to 1,024); and a response that
the limit cut is not taught an end (the authors' code adds one). To see what they need of a TPU:

    python -m selfrew.plan --config=configs/selm.py:llama3_8b --topology=v5p:4x4x4
"""

from configs import base, self_rewarding

# The paper's numbers: portions of the data, α, learning rates by round, batch. Phi-3's batch is a
# guess: Llama-3's.
PAPER = {
    'zephyr': {
        'model': 'zephyr_7b_sft',
        'portions': 4,
        'explore': 0.001,
        'rates': (5e-7, 5e-7, 5e-7, 1e-7),
        'batch': 256,
    },
    'llama3_8b': {
        'model': 'llama3_8b',
        'portions': 3,
        'explore': 0.0001,
        'rates': (5e-7, 3e-7, 1e-7),
        'batch': 128,
    },
    'phi3': {
        'model': 'phi3_mini_4k',
        'portions': 3,
        'explore': 0.001,
        'rates': (5e-7, 3e-7, 1e-7),
        'batch': 128,
    },
}
ROWS = 61_135  # of the data


def get_config(arg: str = ''):
    if arg in PAPER:
        return at_scale(arg)
    if arg not in ('', 'smoke'):
        raise ValueError(f'no variant {arg!r} of this config; there are: smoke, {", ".join(PAPER)}')
    small = arg == 'smoke'
    problems = 40 if small else 1000
    accuracy = base.accuracy(problems)
    exploration = {
        'name': 'exploration',
        'prompts': accuracy['prompts'] | {'n': 40 if small else 300},
        'sampler': base.sampling(4),
        'scorer': {'name': 'exact_answer'},
        'threshold': 0.5,
    }
    return base.get(
        rounds=2 if small else 3,
        round={
            'prompts': base.fresh(problems, answers=True),
            'sampler': {'name': 'with_greedy', 'sampler': base.sampling(4)},
            'scorer': {'name': 'exact_answer'},
            'pairs': {'name': 'extremes', 'count': 1, 'keep_last': True},
            'loss': {'name': 'dpo', 'beta': 0.1, 'explore': 0.01},
            'train': base.training(lr=3e-5, batch=32),
        },
        # As in the paper, in the ratio 5 : 3 : 1.
        by_round={'train': {'lr': (3e-5, 1.8e-5, 6e-6)}},
        evals={'accuracy': accuracy, 'exploration': exploration},
    )


def at_scale(name: str):
    """The paper's runs (§4)."""
    paper = PAPER[name]
    portions, rates = paper['portions'], paper['rates']
    data = {
        'name': 'preferences',
        'source': 'ultrafeedback.jsonl',
        'portion': 1,
        'portions': portions,
        'n': ROWS // portions,  # all of a portion
    }
    scorer = {
        'name': 'reward_model',
        'checkpoint': 'reward_model',
        'dtype': 'bfloat16',
        'stored': 'bfloat16',
    }
    train = base.training(
        lr=rates[0], batch=paper['batch'], row_length=4096, schedule='cosine', warmup=0.1
    )
    greedy = {'name': 'sample', 'n': 1, 'temperature': 0.0, 'max_tokens': 1024}
    turn = {
        'prompts': data,
        'sampler': {
            'name': 'with_greedy',
            'sampler': {'name': 'given'},
            'max_tokens': 1024,
        },
        'scorer': scorer,
        'pairs': {'name': 'extremes', 'count': 1, 'keep_last': True},
        'loss': {'name': 'dpo', 'beta': 0.01, 'explore': paper['explore']},
        'train': train,
    }
    plain = {
        'sampler': {'name': 'given'},
        'scorer': {'name': 'given'},
        'pairs': {'name': 'extremes', 'count': 1},
        'loss': {'name': 'dpo', 'beta': 0.01},
    }
    first = 2 if name == 'zephyr' else 1  # the first portion with a round of SELM
    return base.get(
        rounds=portions,
        keep_states=1,
        model=self_rewarding.model_at_scale(paper['model'], lora=False),
        mesh=base.mesh(fsdp=-1),
        start=turn | plain if first == 2 else None,
        round=turn,
        by_round={
            'prompts': {'portion': tuple(range(first, portions + 1))},
            'train': {'lr': rates[first - 1 :]},
        },
        evals={
            'reward': {
                'name': 'mean_score',
                'prompts': {'name': 'preferences', 'source': 'ultrafeedback_test.jsonl', 'n': 500},
                'sampler': greedy,
                'scorer': scorer,
            }
        },
    )
