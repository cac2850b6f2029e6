"""Equal prompts are prefilled once, and so is the prefix that all prompts share."""

import numpy as np
import pytest
from sampling_toys import CallCounter, assert_same_responses, ragged_prompts, sample
from toys import BOS, toy

from selfrew.engine.generate import memory_plan


def test_samples_of_a_prompt_prefill_it_once(monkeypatch):
    """2 rows of 41 tokens, of which the last is not prefilled, in chunks of 16: 48 tokens each."""
    calls, (lm, params) = CallCounter(monkeypatch), toy()
    prompts = [[BOS, *range(3, 3 + length)] for length in (30, 40)]
    responses = sample(lm, params, [prompt for prompt in prompts for _ in range(10)], slots=4)
    assert calls.prefilled == 2 * 48
    sample(lm, params, prompts, slots=4)
    assert calls.prefilled == 2 * (2 * 48)
    # An end token as the first one may come twice.
    assert len({response.tokens for response in responses}) >= 18


@pytest.mark.parametrize('mesh', [{}, {'tensor': 2, 'fsdp': 4}], ids=str)
def test_a_prefix_that_all_prompts_share_is_prefilled_once(monkeypatch, mesh):
    """64 of the 70 shared tokens once; then the rest of each prompt without its last token."""
    lm, params = toy(**mesh)
    rubric = [BOS, *np.random.default_rng(3).integers(3, 64, 69).tolist()]
    prompts = [rubric + prompt[1:] for prompt in ragged_prompts()]
    monkeypatch.setattr(memory_plan, 'MIN_SHARED_PREFIX', 1000)
    expected = sample(lm, params, prompts, slots=4)
    monkeypatch.undo()
    calls = CallCounter(monkeypatch)
    assert_same_responses(sample(lm, params, prompts, slots=4), expected)
    rest = max(len(prompt) for prompt in prompts) - 64 - 1
    chunks = -(-rest // 16)
    assert calls.prefilled == 64 + 16 * chunks * 16  # 12 rows, padded to 16
