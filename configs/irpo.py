"""Iterative Reasoning Preference Optimization (arXiv 2404.19733) on the tiny base: right against
wrong answers.

    python -m selfrew.main --config=configs/irpo.py --workdir=runs/irpo

Held-out accuracy, seed 0, 1,000 problems: 0.351 → 0.900, 0.884, 0.865, 0.876 (± 0.02): the first
round closes the gap. Five minutes on two cores, with another run beside. experiments/irpo has it
with fewer prompts and a smaller learning rate.

":gsm8k", ":math" and ":arc" are the paper's runs on Llama-2-70B-Chat, with its numbers (§3). They
want the sets' training rows as files, gsm8k.jsonl, math.jsonl and arc.jsonl (prompts.problems says
in which forms), and math_shots.jsonl with the four solved problems that MATH's prompts show; and
the test rows as gsm8k_test.jsonl and so on. What they need of a TPU:

    python -m selfrew.plan --config=configs/irpo.py:gsm8k --topology=v5p:4x4x4
"""

from configs import base, models

# Rows to train on; N samples; K pairs of a problem; temperatures by round; updates of a round.
PAPER = {
    'gsm8k': (7473, 30, 10, (0.8, 0.8, 1.3, 1.3), 5000),
    'math': (7500, 20, 15, (0.8, 0.8, 1.0), 5000),
    'arc': (7700, 30, 20, (0.8, 0.8, 1.3), 4000),
}


def get_config(arg: str = ''):
    if arg in PAPER:
        return at_scale(arg)
    if arg not in ('', 'smoke'):
        raise ValueError(f'no variant {arg!r} of this config; there are: smoke, {", ".join(PAPER)}')
    small = base.smoke(arg)
    return base.get(
        rounds=1 if small else 4,
        round={
            'prompts': base.fresh(40 if small else 1000, answers=True),
            'sampler': {'name': 'sample', 'n': 8, 'max_tokens': base.ANSWER},
            'scorer': {'name': 'exact_answer'},
            'pairs': {'name': 'right_vs_wrong', 'count': 3},
            'loss': {
                'name': 'dpo',
                'beta': 0.1,
                'nll': 5.0,
            },  # the paper's α is 1; the tiny base wants a firmer hold
            'train': base.training(lr=1e-4, batch=32),
        },
        by_round={
            'sampler': {'temperature': (1.0, 1.0, 1.2)}
        },  # the paper warms up in its later rounds too
        evals={'accuracy': base.accuracy(40 if small else 1000)},
    )


def at_scale(task: str):
    """The paper's runs. It chose a round's number of updates on held-out rows, and then trained on
    all of them.
    """
    rows, n, pairs, temperatures, updates = PAPER[task]
    write = {'name': 'sample', 'max_tokens': 512 if task == 'arc' else 1024, 'slots': 256}
    problems = {
        'name': 'problems',
        'form': task,
        'shots': 'math_shots.jsonl' if task == 'math' else None,
    }
    test = problems | {'source': f'{task}_test.jsonl'}
    judged = {'scorer': {'name': 'exact_answer'}}
    return base.get(
        rounds=len(temperatures),
        keep_states=1,
        model=base.model()
        | models.get('llama2_70b_chat')
        | {
            'dtype': 'bfloat16',
            'params': 'bfloat16',
            'max_length': 4096,
            'remat': 'full',
        },
        mesh={'data': 1, 'fsdp': -1, 'tensor': 4},
        round={
            'prompts': problems | {'source': f'{task}.jsonl', 'n': rows},
            'sampler': write | {'n': n, 'temperature': temperatures[0]},
            'scorer': {'name': 'exact_answer'},
            # In the paper the set's own solutions join the right ones on GSM8K alone.
            'pairs': {'name': 'right_vs_wrong', 'count': pairs, 'gold': task == 'gsm8k'},
            'max_examples': 60_000,
            'loss': {'name': 'dpo', 'beta': 0.1, 'nll': 1.0},
            'train': base.training(
                lr=7e-7, batch=16, max_steps=updates, epochs=2, row_length=4096, warmup=0.0
            ),
        },
        by_round={'sampler': {'temperature': temperatures}},
        evals={
            'accuracy': {
                'name': 'accuracy',
                'prompts': test,
                'sampler': write | {'n': 1, 'temperature': 0.0},
                **judged,
            },
            'majority': {
                'name': 'majority',
                'prompts': test,
                'sampler': write | {'n': 32, 'temperature': 0.8},
                **judged,
            },
        },
    )
