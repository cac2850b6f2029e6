"""The first stop string ends a response: its text before it, its tokens with it."""

from sampling_toys import ragged_prompts, sample
from toys import Numbers, toy

from selfrew.engine.generate.stop_strings import find_stop


def test_a_stop_string_ends_a_response_before_itself():
    lm, params = toy()
    prompts, stop = ragged_prompts(16), ('7', '1 2')
    unstopped = sample(lm, params, prompts, max_tokens=16)
    stopped = sample(lm, params, prompts, max_tokens=16, stop=stop)
    for whole, response in zip(unstopped, stopped):
        places = [whole.text.index(string) for string in stop if string in whole.text]
        assert response.text == whole.text[: min(places, default=None)]
        assert response.tokens == whole.tokens[: len(response.tokens)]
        if not places:
            assert response == whole
            continue
        assert response.finish == 'stop'
        before_last = lm.text.decode(response.tokens[:-1])
        assert not any(string in before_last for string in stop)
        assert any(string in lm.text.decode(response.tokens) for string in stop)
        assert response.logp != whole.logp or response.tokens == whole.tokens
    assert 4 < sum(any(string in whole.text for string in stop) for whole in unstopped) < 16


def test_the_search_goes_on_where_it_ended():
    assert find_stop(Numbers(), (5, 6, 7, 8), ('7',), 0) == (3, '5 6 ')
    assert find_stop(Numbers(), (5, 6, 7, 8), ('7 8', '6 7'), 2) == (3, '5 ')
    assert find_stop(Numbers(), (5, 6), ('7',), 0) is None
