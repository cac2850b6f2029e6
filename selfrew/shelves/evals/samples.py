"""The judged responses that evaluations are made of."""

import jax


def judge_samples(lm, params, key, prompts, sampler, scorer):
    """(prompts, judgements of the responses to them)."""
    k_prompts, k_sampler, k_scorer = jax.random.split(key, 3)
    prompt_list = prompts(lm, params, k_prompts)
    rollouts = sampler(lm, params, prompt_list, k_sampler)
    return prompt_list, scorer(lm, params, rollouts, k_scorer)
