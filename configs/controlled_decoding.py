"""Controlled decoding (arXiv 2310.17022): a prefix scorer learns to foresee a reward, and then
steers the base, which stays as it is.

    python -m selfrew.main --config=configs/controlled_decoding.py --workdir=runs/controlled

Held-out reward (right answers among samples), seed 0, 300 problems × 4 samples: 0.321 of the base;
token by token 0.368 (± 0.03) at a KL of 0.06 nats; block by block 0.424 (± 0.04). With ":fudge"
0.438 at 0.14 nats, and 0.543. About two minutes on two cores.

The scorer is a value head on the base's hidden states, learned by CD-Q from the base's samples;
":fudge" learns it by CD-FUDGE. `plain`, `tokenwise` and `blockwise` sample held-out problems: the
base, its tokens tilted by λ = 2, and blocks of 8 tokens of which the best of 6 goes on. Another
run, or lm.generate(…, control={'name': 'tokenwise', 'strength': 2.0, 'values': (WORKDIR,)}), takes
the scorer from this run's folder.
"""

from configs import base


def get_config(arg: str = ''):
    if arg not in ('', 'smoke', 'fudge'):
        raise ValueError(f'no variant {arg!r} of this config; there are: smoke, fudge')
    small = arg == 'smoke'
    loss = (
        {'name': 'cd_fudge', 'value': True} if arg == 'fudge' else {'name': 'cd_q', 'expect': True}
    )
    control = {'values': ('own',), 'weights': (1.0,)}
    plain = base.sampling(2 if small else 4)
    # Blocks end at end tokens only.
    block_options = {name: value for name, value in plain.items() if name != 'stop'}
    config = base.get(
        rounds=1,
        round={
            'prompts': base.fresh(40 if small else 2000, answers=True),
            'sampler': base.sampling(4 if small else 8),
            'scorer': {'name': 'exact_answer'},
            'pairs': {'name': 'group', 'all_ties': True, 'log_ranks': False},
            'loss': loss,
            'train': base.training(
                lr=3e-3,
                batch=64,
                epochs=1 if small else 8,
                row_length=512,
                only='value',
                schedule='cosine',
                final=0.1,
            ),
        },
        evals={
            'plain': _place(small, plain),
            'tokenwise': _place(small, plain | control | {'name': 'tokenwise', 'strength': 2.0}),
            'blockwise': _place(
                small, block_options | control | {'name': 'blockwise', 'candidates': 6, 'block': 8}
            ),
        },
    )
    config.model.value_head = True
    if small:
        del config.evals['plain']
    return config


def _place(small: bool, sampler: dict) -> dict:
    """Where a sampler lies on the plane of reward and KL."""
    return {
        'name': 'reward_kl',
        'prompts': base.accuracy(24 if small else 300)['prompts'],
        'sampler': sampler,
        'scorer': {'name': 'exact_answer'},
        'base_sampler': base.sampling(2 if small else 4),
    }
