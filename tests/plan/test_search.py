"""A search orders layouts by a bound counted by hand, and says which flags set the fastest."""

import dataclasses

import pytest
from toys import SMALL, toy

from selfrew.plan import chips, lowering, prediction, search
from selfrew.plan.training import BatchShape

CHIP = chips.CHIPS['v5e']
SHAPE = BatchShape(examples=8, n=2, micros=1, rows=8, length=32, selected=64)


def test_the_bound_of_an_update_is_its_flops_and_what_passes_between_chips():
    one, _ = toy()
    flops = 3 * lowering.forward_flops(one, SHAPE)
    assert search._update_bound(one, CHIP, SHAPE) == pytest.approx(flops / CHIP.peak)
    spread, _ = toy(fsdp=8)
    weights = 2 * sum(x.size for x in _leaves(spread))  # in bfloat16
    flops = 3 * lowering.forward_flops(spread, SHAPE)
    expected = flops / 8 / CHIP.peak + 4 * weights * 7 / 8 / CHIP.ici
    assert search._update_bound(spread, CHIP, SHAPE) == pytest.approx(expected)
    split, _ = toy(tensor=2)
    flops = 3 * lowering.forward_flops(split, SHAPE)
    summed = 8 * SMALL.layers * 8 * 32 * SMALL.width * 2 / 2
    expected = flops / 2 / CHIP.peak + summed / CHIP.ici
    assert search._update_bound(split, CHIP, SHAPE) == pytest.approx(expected)


def _leaves(lm):
    return [*lm.abstract_params()['blocks'].values()] + [
        x for name, x in lm.abstract_params().items() if name != 'blocks'
    ]


def test_the_fastest_comes_first_with_the_flags_that_set_it():
    result = {
        'seconds': 2.0,
        'collective_seconds': 0.5,
        'tokens_per_s': 1000.0,
        'bound_fraction': 0.4,
        'bound_by': 'HBM',
        'bytes': {'total': 2 * 2**30},
    }
    fast = search.Layout({'mesh.fsdp': 8, 'mesh.tensor': 1}, 600.0, {'update': result})
    slow = search.Layout({'mesh.fsdp': 4, 'mesh.tensor': 2}, 900.0, {'update': result})
    sampling = search.Layout({'mesh.sampling': 2}, 300.0, {'sample: decode': result})
    text = search.as_text({'update': [fast, slow], 'sampling': [sampling]})
    lines = text.splitlines()
    assert lines[0].split() == [
        *('update', '10.0', 'min', 'a', 'round'),
        *('--config.mesh.fsdp=8', '--config.mesh.tensor=1'),
    ]
    assert '1,000 tokens/s, 40% of the bound (HBM), 25% collectives, 2.0 GiB' in lines[1]
    assert lines[-1] == (
        'the fastest, 15.0 minutes a round: --config.mesh.fsdp=8 --config.mesh.tensor=1 '
        '--config.mesh.sampling=2'
    )


def test_a_budget_of_chips_is_searched_on_each_kind(monkeypatch):
    minutes = {'v4:2x2x4': 30.0, 'v5p:2x2x4': 10.0, 'v6e:4x4': 20.0}

    def found(config, topology, tokens, report):
        if topology not in minutes:
            raise ValueError(f'update: no layout fits {topology}')
        return {'update': [search.Layout({'mesh.fsdp': 16}, 60 * minutes[topology], {})]}

    monkeypatch.setattr(search, 'search', found)
    reported = []
    by_topology = search.search_chips({}, 16, 512, reported.append)
    assert reported[0] == '--- v4:2x2x4'
    lines = search.chips_as_text(by_topology).splitlines()
    assert [line.split(',')[0] for line in lines[-4:]] == [
        'v5p:2x2x4: 10.0 minutes a round: --config.mesh.fsdp=16',
        'v6e:4x4: 20.0 minutes a round: --config.mesh.fsdp=16',
        'v4:2x2x4: 30.0 minutes a round: --config.mesh.fsdp=16',
        'v5e:4x4: update: no layout fits v5e:4x4',
    ]
    minutes.clear()
    with pytest.raises(ValueError, match='nothing fits 16 chips; update: no layout fits v4:2x2x4'):
        search.search_chips({}, 16, 512, reported.append)
    with pytest.raises(ValueError, match='chips=12: want a power of two'):
        search.search_chips({}, 12, 512, reported.append)


def test_a_program_is_compiled_once(tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    monkeypatch.setattr(prediction.importlib.metadata, 'version', lambda name: '1')
    made = []

    @dataclasses.dataclass
    class Lowered:
        text: str

        def as_text(self):
            return self.text

    def compute():
        made.append(1)
        return {'number': len(made)}

    cache = prediction.Cache('v5p:2x2x1')
    assert [cache.get(Lowered('a'), compute)['number'] for _ in range(2)] == [1, 1]
    assert cache.get(Lowered('b'), compute)['number'] == 2
    assert prediction.Cache('v5e:2x2').get(Lowered('a'), compute)['number'] == 3
    (tmp_path / 'selfrew' / 'plans').rename(tmp_path / 'moved')
    assert cache.get(Lowered('a'), compute)['number'] == 4
