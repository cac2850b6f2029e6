"""Length-instructed fine-tuning, LIFT-DPO (arXiv 2406.17744), on the tiny base: pairs of right and
wrong answers, and the same pairs again under limits of words.

    python -m selfrew.main --config=configs/lift.py --workdir=runs/lift

Word problems, seed 0: answers with more words than half of the flawless solution's, of 500 limited
prompts: 0.90 after the SFT, then 0.18, 0.07 (± 0.03); accuracy without a limit, 1,000 problems:
0.199, then 0.622, 0.766 (± 0.03). A minute and a quarter on two cores. experiments/lift compares it
with DPO and R-DPO.

Needs nltk, which counts the words: pip install -e '.[lift]'.

":llama2_70b" and ":llama3_8b" are the paper's run from a model that was fine-tuned before: pairs of
people from human.jsonl (prompts.preferences lists the forms), again under limits, and limits on the
prompts of heldout.jsonl, judged by the model itself before training. The paper does not state β and
the learning rate: those of Self-Rewarding are taken. To see what they need of a TPU:

    python -m selfrew.plan --config=configs/lift.py:llama3_8b --topology=v5p:2x2x2
"""

from configs import base, self_rewarding

SCALES = 'llama2_70b', 'llama3_8b'
LIMITS = tuple(i / 10 for i in range(10, 0, -1))  # of the shortest reference: 1.0 to 0.1


def get_config(arg: str = ''):
    if arg in SCALES:
        return at_scale(arg)
    if arg not in ('', 'smoke'):
        choices = ', '.join(('smoke', *SCALES))
        raise ValueError(f'no variant {arg!r} of this config; there are: {choices}')
    small = base.is_smoke(arg)
    problems = 20 if small else 500
    tasks = {'tasks': ('word_problems',)}
    sampler = {'name': 'sample', 'max_tokens': base.ANSWER}
    # Half of the demonstrators work it out in 6 to 15 words, half only answer, in 3.
    seed_data = base.ift(40 if small else 2000) | tasks | {'terse': 0.5}
    start = base.imitation_turn(seed_data, lr=2e-4)
    accuracy = base.accuracy(40 if small else 1000)
    accuracy['prompts'] |= tasks
    return base.get(
        rounds=2 if small else 3,
        # Length-control SFT: the demonstrations, and again under limits that they keep.
        start=start | {'pairs': limited({'name': 'singles'}, gap=2)},
        round={
            'prompts': base.fresh(40 if small else 1000, answers=True) | tasks,
            'sampler': sampler | {'n': 8},
            'scorer': {'name': 'exact_answer'},
            # The paper's gap is 10 words; answers to these problems have 3 to 15.
            'pairs': limited({'name': 'right_vs_wrong', 'count': 2}, gap=2),
            'loss': {'name': 'dpo', 'beta': 0.1, 'nll': 1.0},
            'train': base.training(lr=3e-5, batch=32),
        },
        evals={
            'accuracy': accuracy,
            'limits': {
                'name': 'length_limits',
                'prompts': {
                    'name': 'demonstrations',
                    **tasks,
                    'n': problems,
                    'lazy': False,
                    'split': 'heldout',
                    'answers': True,
                },
                'sampler': sampler | {'n': 1, 'temperature': 0.0},
                'scorer': {'name': 'exact_answer'},
                'scales': (1.0, 0.7) if small else LIMITS,
            },
        },
    )


def limited(pairs: dict, gap: int) -> dict:
    """Pairs, and the same pairs under limits of words."""
    return {
        'name': 'length_limited',
        'pairs': pairs,
        'gap': gap,
        'template': 'length_limit',
        'plain': True,
    }


def at_scale(name: str):
    """The paper's LIFT-DPO (§4): one round from a fine-tuned model, on pairs of rank 0 and 1."""
    judging = {'name': 'compare', 'votes': 1, 'max_tokens': 256}
    return base.get(
        rounds=1,
        keep_states=1,
        model=self_rewarding.model_at_scale(name, lora=False),
        mesh=base.mesh(fsdp=-1, tensor=4 if name == 'llama2_70b' else 1),
        round={
            'prompts': {'name': 'preferences', 'source': 'human.jsonl', 'n': 2977},
            'sampler': {'name': 'given'},
            'scorer': {'name': 'given'},
            'pairs': limited({'name': 'extremes', 'count': 1}, gap=10),
            'loss': {'name': 'dpo', 'beta': 0.1},
            'train': base.training(
                lr=1e-6, batch=16, row_length=4096, warmup=0.0, schedule='cosine', final=0.1
            ),
        },
        evals={
            'limits': {
                'name': 'length_limits',
                'prompts': {'name': 'preferences', 'source': 'heldout.jsonl', 'n': 253},
                'sampler': {'name': 'sample', 'n': 1, 'temperature': 0.7, 'max_tokens': 1024},
                'scorer': judging,
                'scales': (1.0,),
            }
        },
    )
