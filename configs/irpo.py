"""Iterative Reasoning Preference Optimization (arXiv 2404.19733) on the tiny base: right against
wrong answers.

    python -m selfrew.main --config=configs/irpo.py --workdir=runs/irpo

Held-out accuracy, seed 0, 1,000 problems: 0.351 → 0.881, 0.893, 0.859, 0.866 (± 0.02). The first
round closes the gap. A minute on two cores. experiments/irpo runs it with
fewer prompts and a smaller learning rate.

":gsm8k", ":math" and ":arc" are the paper's runs on Llama-2-70B-Chat, with its numbers (§3). They
read the training sets from gsm8k.jsonl, math.jsonl and arc.jsonl (prompts.problems lists the
accepted forms), the test sets from gsm8k_test.jsonl and so on, and the four solved problems that
MATH's prompts show from math_shots.jsonl. To see what they need of a TPU:

    python -m selfrew.plan --config=configs/irpo.py:gsm8k --topology=v5p:4x4x4
"""

from configs import base, models

# The paper's numbers (§3): rows to train on, samples N and pairs K of a problem, temperatures by
# round, updates of a round; and the examples of a round at most: for GSM8K alone the paper's pairs
# (55,000 to 60,000) are fewer than N and K give.
PAPER = {
    'gsm8k': {
        'rows': 7473,
        'samples': 30,
        'pairs': 10,
        'examples': 60_000,
        'temperatures': (0.8, 0.8, 1.3, 1.3),
        'updates': 5000,
    },
    'math': {
        'rows': 7500,
        'samples': 20,
        'pairs': 15,
        'examples': None,  # about 75,000
        'temperatures': (0.8, 0.8, 1.0),
        'updates': 5000,
    },
    'arc': {
        'rows': 7700,
        'samples': 30,
        'pairs': 20,
        'examples': None,
        'temperatures': (0.8, 0.8, 1.3),
        'updates': 4000,
    },
}


def get_config(arg: str = ''):
    if arg in PAPER:
        return at_scale(arg)
    if arg not in ('', 'smoke'):
        raise ValueError(f'no variant {arg!r} of this config; there are: smoke, {", ".join(PAPER)}')
    small = base.is_smoke(arg)
    return base.get(
        rounds=1 if small else 4,
        round={
            'prompts': base.fresh(40 if small else 1000, answers=True),
            'sampler': {'name': 'sample', 'n': 8, 'max_tokens': base.ANSWER},
            'scorer': {'name': 'exact_answer'},
            'pairs': {'name': 'right_vs_wrong', 'count': 3},
            'earlier': 0,  # -1: also trains on the pairs of all earlier rounds; the paper does not
            # The paper's α is 1; the tiny base needs a stronger NLL term.
            'loss': {'name': 'dpo', 'beta': 0.1, 'nll': 5.0},
            'train': base.training(lr=1e-4, batch=32),
        },
        # The paper, too, raises the temperature in its later rounds.
        by_round={'sampler': {'temperature': (1.0, 1.0, 1.2)}},
        evals={'accuracy': base.accuracy(40 if small else 1000)},
    )


def at_scale(task: str):
    """The paper's runs. The paper chose the number of updates on held-out rows, then trained on all
    rows.
    """
    paper = PAPER[task]
    temperatures = paper['temperatures']
    sampler = {'name': 'sample', 'max_tokens': 512 if task == 'arc' else 1024}
    shots = 'math_shots.jsonl' if task == 'math' else None
    problems = {'name': 'problems', 'form': task, 'shots': shots}
    test_problems = problems | {'source': f'{task}_test.jsonl'}
    scorer = {'name': 'exact_answer'}
    model = base.model() | models.get('llama2_70b_chat')
    model |= {'dtype': 'bfloat16', 'params': 'bfloat16', 'max_length': 4096}
    return base.get(
        rounds=len(temperatures),
        keep_states=1,
        model=model,
        mesh=base.mesh(fsdp=-1, tensor=4),
        round={
            'prompts': problems | {'source': f'{task}.jsonl', 'n': paper['rows']},
            'sampler': sampler | {'n': paper['samples'], 'temperature': temperatures[0]},
            'scorer': {'name': 'exact_answer'},
            # In the paper only GSM8K adds the set's own solutions to the right ones.
            'pairs': {'name': 'right_vs_wrong', 'count': paper['pairs'], 'gold': task == 'gsm8k'},
            'max_examples': paper['examples'],
            'loss': {'name': 'dpo', 'beta': 0.1, 'nll': 1.0},
            'train': base.training(
                lr=7e-7, batch=16, max_steps=paper['updates'], epochs=2, row_length=4096, warmup=0.0
            ),
        },
        by_round={'sampler': {'temperature': temperatures}},
        evals={
            'accuracy': {
                'name': 'accuracy',
                'prompts': test_problems,
                'sampler': sampler | {'n': 1, 'temperature': 0.0},
                'scorer': scorer,
            },
            'majority': {
                'name': 'majority',
                'prompts': test_problems,
                'sampler': sampler | {'n': 32, 'temperature': 0.8},
                'scorer': scorer,
            },
        },
    )
