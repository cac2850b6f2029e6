"""The evaluation of a run that names none: how often the model's responses to held-out prompts of
its own source beat the base's, by the scorer that it trains with.
"""

import copy
import os

import jax

from selfrew.engine.run_files import PUT_BACK, read_json
from selfrew.mesh import processes
from selfrew.running import binding
from selfrew.shelves import prompts

WANTED, MOST = 24, 48  # held-out prompts: as many as that where there are, and at most
SHARES = 0.05, 0.1, 0.2  # of the topics of a source; the first that gives as many as wanted
SPLIT = 'records', 'problems', 'preferences'  # parts that can be split
JUDGES = 'judge', 'compare'
SCORERS = (*JUDGES, 'reward_model', 'length', 'exact_answer', 'composite')


def with_default(config: dict, workdir: str) -> tuple[dict, str | None]:
    """(the config with its default evaluation, what was done, in words). A config that has
    evaluations, or says that it wants none (`evals={}`), stays as it is. That of a run that is
    resumed has what was chosen at its start.

    Every process calls this. Raises as the source of prompts does.
    """
    if config.get('evals') is not None:
        return config, None
    chosen = processes.on_main(lambda: _chosen_before(config, workdir))
    if chosen is not None:
        return chosen, None
    entry = (config.get('round') or {}) if config.get('rounds') else {}
    scorer, sampler = entry.get('scorer') or {}, entry.get('sampler') or {}
    while isinstance(sampler.get('sampler'), dict):  # with_greedy, best_of_n
        sampler = sampler['sampler']
    reason = None
    if sampler.get('name') != 'sample' or scorer.get('name') not in SCORERS:
        reason = 'its responses are not sampled, or are not scored one by one'
    made = None if reason else processes.on_main(lambda: _heldout(entry.get('prompts') or {}))
    if made is None:
        reason = reason or 'its prompts come from no source with prompts that can be held out'
        return config | {'evals': {}}, f'no evaluation: {reason}; see evals in the README'
    training, heldout, count = made
    is_judged = scorer['name'] in JUDGES
    name = 'self_judged_win_rate' if is_judged else 'win_rate'
    evaluation = {
        'name': 'win_rate',
        'prompts': heldout,
        'sampler': sampler | {'n': 1},
        'scorer': scorer,
        'judged_by': 'base',
    }
    config = copy.deepcopy(config)
    config['round']['prompts'] = training
    config['evals'] = {name: evaluation}
    judged = ', judged by the base itself' if is_judged else ''
    return config, (
        f'evals is not set: {name} measures wins against the base on {count} held-out prompts of '
        f'the same source{judged}; training leaves them out (evals={{}} measures nothing)'
    )


def _chosen_before(config: dict, workdir: str) -> dict | None:
    """The config with the evaluation that a run in the workdir has; None if there is no run."""
    path = os.path.join(workdir, 'config.json')
    if not os.path.exists(path):
        return None
    before = read_json(path, PUT_BACK)
    config = copy.deepcopy(config) | {'evals': before.get('evals') or {}}
    if config['evals'] and config.get('round'):
        config['round']['prompts'] = _as_split(
            config['round']['prompts'], before['round']['prompts']
        )
    return config


def _as_split(entry, before):
    """An entry of prompts, with the split of the one that a run began with."""
    if not isinstance(entry, dict) or not isinstance(before, dict):
        return entry
    split = {k: before[k] for k in ('split', 'heldout') if k in before}
    nested = {
        'prompts': [_as_split(*both) for both in zip(entry['prompts'], before['prompts'])]
        if isinstance(entry.get('prompts'), (list, tuple))
        else _as_split(entry.get('prompts'), before.get('prompts'))
    }
    return entry | split | (nested if 'prompts' in entry else {})


def _heldout(entry: dict) -> tuple[dict, dict, int] | None:
    """(the entry without its held-out prompts, an entry of these, how many); None if it cannot be
    split, or nothing would be held out.
    """
    name = entry.get('name')
    if name in SPLIT and entry.get('split') is None:
        for share in SHARES:
            split = {k: v for k, v in entry.items() if k not in ('n', 'portion', 'portions')}
            split |= {'split': 'heldout', 'heldout': share}
            count = _count(split)
            if count >= WANTED:
                break
        if not count:
            return None
        count = min(count, MOST)
        training = entry | {'split': 'train', 'heldout': share}
        return training, split | {'n': count}, count
    if name == 'trees' and entry.get('part') != 'heldout':
        tree = {k: v for k, v in entry.items() if k not in ('n', 'portion', 'portions')}
        tree |= {'part': 'heldout'}
        count = min(_count(tree), MOST)
        return (entry, tree | {'n': count}, count) if count else None
    if name == 'self_instruct' and isinstance(entry.get('prompts'), dict):
        nested = _heldout(entry['prompts'])
        return nested and (entry | {'prompts': nested[0]}, *nested[1:])
    if name == 'mixture':
        for i, source in enumerate(entry.get('prompts') or ()):
            if nested := _heldout(source):
                sources = [*entry['prompts'][:i], nested[0], *entry['prompts'][i + 1 :]]
                return entry | {'prompts': sources}, *nested[1:]
    return None


def _count(entry: dict) -> int:
    """How many prompts an entry gives; 0 if none."""
    part = binding.bind('prompts', entry, 'round.prompts', prompts)
    try:
        return len(part(None, None, jax.random.key(0)))
    except ValueError:  # the same file tells what is wrong where it is trained on
        return 0
