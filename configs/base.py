"""What the configs share: the tiny base, the two built-in tasks, the held-out evaluations.

Data only, no jax.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

TASKS = ('word_problems', 'rising')
# Tokens of the longest answer and of the longest verdict of the built-in tasks.
ANSWER = 40
VERDICT = 56


def get(**fields) -> ConfigDict:
    """A config over the tiny base and the built-in tasks; `fields` replace or add."""
    for entry in ('start', 'round'):
        if fields.get(entry):
            defaults = {'max_unread': 0.9, 'optimizer_state': 'fresh'}
            fields[entry] = defaults | dict(fields[entry])
    return ConfigDict(
        {
            'seed': 0,
            'model': model(),
            'mesh': mesh(),
            'evals': placeholder(dict),  # default_evals, if it stays open
            'evals_every': 1,
            'states_every': 1,
            **fields,
        }
    )


def mesh(fsdp: int = 1, tensor: int = 1) -> dict:
    """Over how many devices the model is split, for updates and for sampling;
    models.language_model.describe says what each field means.
    """
    return {'data': 1, 'fsdp': fsdp, 'tensor': tensor, 'sampling': placeholder(int)}


def model() -> dict:
    """The tiny base that ships; models.language_model.describe says what each field means."""
    return {
        'folder': 'tiny',
        'dtype': 'float32',
        'sampling_dtype': placeholder(str),
        'params': 'float32',
        'max_length': placeholder(int),
        'attention': placeholder(str),
        'remat': placeholder(str),
        'cache': placeholder(str),
        'cache_gib': placeholder(float),
        'chat_template': placeholder(str),
        'fold_system': False,
        'lora': 0,
        'lora_alpha': 16.0,
        'adapter': placeholder(str),
        'value_head': False,
    }


def accuracy(problems: int = 1000) -> dict:
    """Greedy answers to held-out problems."""
    heldout = {'name': 'task', 'tasks': TASKS, 'n': problems, 'split': 'heldout', 'answers': True}
    return {
        'name': 'accuracy',
        'prompts': heldout,
        'sampler': {'name': 'sample', 'n': 1, 'temperature': 0.0, 'max_tokens': ANSWER},
        'scorer': {'name': 'exact_answer'},
    }


def judge(votes: int, problems: int = 150) -> dict:
    """Verdicts on held-out problems with four answers each, all of different grades."""
    return {
        'name': 'judge',
        'prompts': {'name': 'ranked', 'tasks': TASKS, 'n': problems, 'responses': 4},
        'sampler': {'name': 'given'},
        'scorer': judging(votes),
    }


def judging(votes: int) -> dict:
    """The model as its own judge."""
    return {
        'name': 'judge',
        'template': 'check',
        'votes': votes,
        'temperature': 0.7,
        'top_k': 0,
        'top_p': 1.0,
        'min_p': 0.0,
        'max_tokens': VERDICT,
        'slots': placeholder(int),
    }


def fresh(problems: int, answers: bool = False) -> dict:
    """New training problems each round."""
    return {'name': 'task', 'tasks': TASKS, 'n': problems, 'answers': answers}


def sampling(samples: int) -> dict:
    """Samples of the policy for each prompt."""
    return {
        'name': 'sample',
        'n': samples,
        'temperature': 1.0,
        'top_k': 0,
        'top_p': 1.0,
        'min_p': 0.0,
        'stop': (),
        'max_tokens': ANSWER,
        'slots': placeholder(int),
    }


def online(small: bool, *, loss: dict, samples: int = 8) -> dict:
    """Fields of a config that trains on groups of samples as they come, a batch of prompts a round,
    and stays near the base.
    """
    evals = {
        'accuracy': accuracy(),
        'plane': {
            'name': 'reward_kl',
            'prompts': accuracy(300)['prompts'],
            'sampler': sampling(2),
            'scorer': {'name': 'exact_answer'},
            'base_sampler': sampling(2),
        },
    }
    return {
        'rounds': 2 if small else 60,
        'round': {
            'prompts': fresh(8 if small else 32, answers=True),
            'sampler': sampling(samples),
            'scorer': {'name': 'exact_answer'},
            'pairs': {'name': 'group', 'all_ties': True, 'log_ranks': False},
            'loss': loss,
            'train': training(
                lr=3e-5, batch=32, epochs=2, row_length=512, reference='base', warmup=0.0
            ),
            'optimizer_state': 'kept',
            'max_unread': 1.0,
        },
        'evals': {'accuracy': accuracy(40)} if small else evals,
        'evals_every': 20,
        'states_every': 20,
        'keep_states': 1,
    }


def imitation_turn(
    *sources: dict, lr: float, epochs: int = 1, max_steps: int | None = None
) -> dict:
    """A turn of supervised fine-tuning on responses that come with the prompts."""
    return {
        'prompts': {'name': 'mixture', 'prompts': sources},
        'sampler': {'name': 'given'},
        'scorer': {'name': 'given'},
        'pairs': {'name': 'singles'},
        'loss': {'name': 'sft', 'mean': 'token'},
        'train': training(
            lr=lr, batch=32, epochs=epochs, schedule='cosine', final=0.1, max_steps=max_steps
        ),
    }


def ift(problems: int) -> dict:
    """Instruction-following seed data: lazy demonstrations."""
    return {'name': 'demonstrations', 'tasks': TASKS, 'n': problems}


def eft(verdicts: int) -> dict:
    """Judging seed data: worked verdicts on lazy demonstrations."""
    return {'name': 'verdicts', 'tasks': TASKS, 'n': verdicts, 'template': 'check'}


def training(**fields) -> dict:
    """How a turn trains; `fields` replace or add. row_length suits the built-in tasks."""
    return {
        'row_length': 256,
        'accumulate': placeholder(int),
        'reference': 'exact',
        'max_gap': 0.01,
        'warmup': 0.05,
        'optimizer': {'name': 'adamw', 'weight_decay': 0.0, 'clip': 1.0},
        **fields,
    }


def is_smoke(arg: str) -> bool:
    """Whether the variant is ':smoke': the same parts, small enough to finish in a minute.

    Raises ValueError for any other variant.
    """
    if arg not in ('', 'smoke'):
        raise ValueError(f'no variant {arg!r} of this config; there are: smoke')
    return arg == 'smoke'
