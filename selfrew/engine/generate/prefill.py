"""Prefill on the host's side: distinct prompts in a pool, and the prefix that all of them share."""

import collections
import functools

import jax
import numpy as np

from selfrew.engine.generate import control, memory_plan, programs

empty_pool = functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))(programs.empty_cache)


def empty_pools(models, rows: int, columns: int) -> tuple:
    """The empty pool of each model, one after another."""
    return sum((empty_pool(lm.module, lm.cache_dtype, rows, columns) for lm, _ in models), ())


def group_by_prompt(requests, first=()) -> list[tuple[tuple, list[int]]]:
    """(Prompt, indices of its requests) of each distinct prompt, the longest first: prompts of
    similar length are prefilled together.

    first: numbers of requests. The prompts of the first so many requests come before all others.
    """
    groups = collections.defaultdict(list)
    for i, request in enumerate(requests):
        groups[request.prompt].append(i)

    def order(group) -> tuple[int, int]:
        prompt, members = group
        return sum(members[0] >= count for count in first), -len(prompt)

    return sorted(groups.items(), key=order)


def make_prefix_cache(models, tokens):
    """The prefix cache of the tokens that all prompts begin with, or None without any.

    models: (lm, params) of each model that reads the prompts; their caches lie one after another.
    """
    if not tokens:
        return None
    return sum((_prefix_of(lm, params, tokens) for lm, params in models), ())


def _prefix_of(lm, params, tokens) -> tuple:
    cache = empty_pool(lm.module, lm.cache_dtype, 1, len(tokens))
    chunk = next(size for size in (256, 128, 64, 32) if len(tokens) % size == 0)
    for start in range(0, len(tokens), chunk):
        tokens_1L = lm.replicate(np.array([tokens[start : start + chunk]], np.int32))
        cache = programs.prefill(lm.module, params, tokens_1L, np.int32(start), None, cache)
    return programs.as_prefix_cache(lm.module, cache)


class PrefillPool:
    """Distinct prompts that are prefilled together, a chunk of each at a time.

    Decode steps can run between the chunks, so a long prompt does not stall the slots.
    """

    def __init__(self, models, plan: memory_plan.MemoryPlan, groups, is_replay: bool):
        """models: see `make_prefix_cache`. groups: [(prompt, indices of its requests)]. is_replay:
        all requests have a recorded response, so the chunks are counted and not computed.
        """
        self.groups, self._models, lm = groups, models, models[0][0]
        self._start, self._chunk = 0, plan.prefill_chunk
        self._longest = max(len(prompt) for prompt, _ in groups) - 1 - plan.prefix_tokens
        sizes = plan.prefill_rows, plan.prefill_columns
        self._tokens = np.full(sizes, lm.text.pad, np.int32)  # [R L] the prompts without prefix
        for row, (prompt, _) in enumerate(groups):
            suffix = prompt[plan.prefix_tokens : -1]
            self._tokens[row, : len(suffix)] = suffix
        self._lengths = [len(prompt) - 1 - plan.prefix_tokens for prompt, _ in groups]
        self.cache = None if is_replay else empty_pools(models, *sizes)

    @property
    def is_done(self) -> bool:
        return self._start >= self._longest

    def prefill_chunk(self, prefix_cache) -> int:
        """Prefills the next chunk of each prompt. Returns how many tokens of them were read."""
        stop, tokens = self._start + self._chunk, 0
        if self.cache is not None:
            chunk = self._models[0][0].place_rows(
                self._tokens[:, self._start : self._start + self._chunk]
            )
            modules = [lm.module for lm, _ in self._models]
            caches, self.cache = control.split_cache(modules, self.cache), ()
            prefixes = control.split_cache(modules, prefix_cache)
            for (lm, params), cache, prefix in zip(self._models, caches, prefixes):
                start = np.int32(self._start)
                self.cache += programs.prefill(lm.module, params, chunk, start, prefix, cache)
            tokens = sum(max(min(n, stop) - self._start, 0) for n in self._lengths)
        self._start = stop
        return tokens
