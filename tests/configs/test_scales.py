"""The variants of a config at a paper's scale bind, and have the numbers of the paper."""

import pytest

from configs import lift, pco
from selfrew.plan import jobs
from selfrew.shelves import losses, pairs


@pytest.mark.parametrize('name', pco.SCALES)
def test_pco_at_scale_contrasts_pairs_that_add_up_with_those_of_people(name):
    turn = jobs.sampling_turn(pco.get_config(name).to_dict())
    assert turn.loss.func is losses.pairwise_cringe
    # the recollections of arXiv 2312.16682
    recalled = {'alpha': 0.005, 'contrast': 5, 'margin': -10.0, 'gate_tau': 10.0}
    assert recalled.items() <= turn.loss.keywords.items()
    assert turn.earlier == -1 and [joined.title for joined in turn.joined] == ['human']
    assert turn.sampler.keywords['n'] == 4


@pytest.mark.parametrize('name', lift.SCALES)
def test_lift_at_scale_limits_pairs_of_people_with_a_gap_of_ten_words(name):
    turn = jobs.sampling_turn(lift.get_config(name).to_dict())
    rule = turn.pairs
    assert rule.func is pairs.length_limited and rule.keywords['pairs'].func is pairs.extremes
    assert rule.keywords['gap'] == 10 and rule.keywords['plain']
    assert turn.prompts.keywords['n'] == 2977


@pytest.mark.parametrize('module', [lift, pco])
def test_an_unknown_variant_is_refused_with_the_choices(module):
    with pytest.raises(ValueError, match=f'there are: smoke, {module.SCALES[0]}'):
        module.get_config('llama9')
