"""For notebooks: loads, samples, scores and saves a model, with the code that the loop uses."""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from selfrew import export, loop
from selfrew.engine import response_logps
from selfrew.engine.sampling_layout import SamplingCopy
from selfrew.mesh import keys, sharding
from selfrew.models import decoder, language_model
from selfrew.running import binding, config_files, report
from selfrew.shelves import samplers
from selfrew.types import Prompt, Response, Rollout, user_prompt


class LogProbs(NamedTuple):
    """Log-probabilities of responses given their prompts, in nats."""

    total: np.ndarray  # [M] float32, summed over a response's tokens, its end token included
    tokens: list  # of M arrays, one number per token


def prompt_of(source, id: str) -> Prompt:
    """A Prompt with this id from a string (one user message) or a list of chat messages.

    A message is {'role', 'content'}. A Prompt is returned as it is.
    Raises ValueError for anything else.
    """
    if isinstance(source, Prompt):
        return source
    if isinstance(source, str):
        return user_prompt(id, source)
    is_chat = isinstance(source, (list, tuple)) and all(
        isinstance(message, dict) and {'role', 'content'} <= set(message) for message in source
    )
    if not is_chat or not source:
        raise ValueError(
            f'prompt {id}: want a string, a list of chat messages with role and content, or a '
            f'Prompt; got {repr(source)[:80]}'
        )
    return Prompt(id, tuple(source))


@functools.partial(jax.jit, static_argnums=0)
def _logits(module, params, tokens_BT, mask_BT):
    B, T = tokens_BT.shape
    position_BT = jnp.maximum(jnp.cumsum(mask_BT, axis=1) - 1, 0)
    causal_BTT = jnp.tril(jnp.ones((T, T), bool))[None] & mask_BT[:, None, :]
    attends_BTT = causal_BTT | jnp.eye(T, dtype=bool)[None]  # padding attends to itself
    hidden_BTD, _ = module.apply({'params': params}, tokens_BT, position_BT, attends_BTT)
    return decoder.logits(module, params, hidden_BTD.reshape(B * T, -1)).reshape(B, T, -1)


@dataclasses.dataclass(frozen=True, eq=False)
class Lm(language_model.Lm):
    """A language model without its parameters; every method takes these first."""

    def logits(self, params, tokens_BT, mask_BT=None) -> jax.Array:
        """Next-token logits [B T V], float32, of tokens padded on either side.

        Args:
          tokens_BT: ints.
          mask_BT: true for tokens that are not padding; None for all. Logits at padding are
            meaningless.
        Raises ValueError for other shapes, for more tokens than the model has positions, or for a
        token that is not in its vocabulary.
        """
        tokens_BT = np.asarray(tokens_BT, np.int32)
        if mask_BT is None:
            mask_BT = np.ones(tokens_BT.shape, bool)
        mask_BT = np.asarray(mask_BT, bool)
        is_matrix = tokens_BT.ndim == 2 and mask_BT.shape == tokens_BT.shape
        if not is_matrix or tokens_BT.shape[1] > self.config.max_length:
            raise ValueError(
                f'want tokens and mask of one shape [B T], T at most {self.config.max_length}; '
                f'got {tokens_BT.shape} and {mask_BT.shape}'
            )
        tokens_BT = np.where(mask_BT, tokens_BT, 0)
        self._check_tokens(tokens_BT, 'tokens_BT')
        B = len(tokens_BT)
        padding = (0, -B % sharding.row_shards(self.mesh)), (0, 0)
        tokens_RT = self.place_rows(np.pad(tokens_BT, padding))
        mask_RT = self.place_rows(np.pad(mask_BT, padding))
        return _logits(self.module, params, tokens_RT, mask_RT)[:B]

    def _check_tokens(self, tokens, name: str) -> None:
        """Raises ValueError for a token that is not in the vocabulary."""
        ids, size = np.asarray(tokens, np.int64).ravel(), self.config.vocab
        bad = ids[(ids < 0) | (ids >= size)]
        if len(bad):
            raise ValueError(f'{name}: no token {bad[0]}; the vocabulary has 0 to {size - 1}')

    def logp(self, params, prompts, responses, *, batch: int = 16) -> LogProbs:
        """The log-probability of each response given its prompt, computed as in training.

        Args:
          prompts: strings, lists of chat messages, or Prompts.
          responses: one for each prompt. A string is taken as a finished response; a Response that
            was sampled is scored on exactly its tokens.
          batch: how many responses are computed together.
        Raises ValueError if a response is empty, too long for the context, or has a token that is
        not in the vocabulary, or if a single string is given for a list.
        """
        prompts = _prompts_of(prompts)
        _check_list(responses, 'responses')
        responses = [r if isinstance(r, Response) else Response(r) for r in responses]
        for i, response in enumerate(responses):
            self._check_tokens(response.tokens, f'responses[{i}]')
        found = response_logps.token_logps(
            self, params, list(zip(prompts, responses, strict=True)), batch=batch
        )
        if bad := sorted(set(range(len(responses))) - set(found)):
            raise ValueError(
                f'responses {bad} are empty, or longer with their prompt than '
                f'{self.config.max_length} tokens'
            )
        tokens = [found[i] for i in range(len(responses))]
        totals = np.array([t.sum(dtype=np.float64) for t in tokens], np.float32)
        return LogProbs(totals, tokens)

    def generate(
        self,
        params,
        prompts,
        *,
        n: int = 4,
        temperature: float = 0.7,
        top_k: int = 0,
        top_p: float = 0.9,
        min_p: float = 0.0,
        stop: tuple = (),
        max_tokens: int = 256,
        seed: int = 0,
        slots: int | None = None,
        control: dict | None = None,
    ) -> list[Rollout]:
        """`n` samples for each prompt (a string, a list of chat messages, or a Prompt), in order.

        The same seed gives the same samples; for other `slots`, the number decoded at once, up to
        rounding. See samplers.sample for the other options. Where a model samples in another layout
        or dtype than it trains (load's `sampling`, `sampling_dtype`), each call copies the
        parameters once.

        control: steers the samples: the name and the further fields of samplers.tokenwise or
          samplers.blockwise, e.g. {'name': 'tokenwise', 'strength': 2.0, 'values': ('runs/cd_q',)};
          or {'name': 'best_of_n', 'of': 16, 'scorer': {'name': 'length'}}, the best of so many by
          an entry of the shelf scorers.
        Raises ValueError for an option out of range, if a prompt and max_tokens exceed the context,
        or if a single string is given for a list.
        """
        keys.check_seed(seed)
        prompts = _prompts_of(prompts)
        options = {
            'n': n,
            'temperature': temperature,
            'top_k': top_k,
            'top_p': top_p,
            'min_p': min_p,
            'stop': (stop,) if isinstance(stop, str) else tuple(stop),
            'max_tokens': max_tokens,
            'slots': slots,
        }
        sampler = functools.partial(samplers.sample, **options)
        if control is not None:
            sampler = binding.bind('sampler', _controlled(control, options), 'control')
        lm, sampled_params = SamplingCopy(self).of(params)
        rollouts = sampler(lm, sampled_params, prompts, jax.random.key(seed))
        if len(rollouts) < len(prompts):
            dropped = sorted({p.id for p in prompts} - {r.prompt.id for r in rollouts})
            raise ValueError(
                f'prompts {dropped} and max_tokens={max_tokens} exceed the context of '
                f'{self.config.max_length}'
            )
        return rollouts


def _prompts_of(sources) -> list[Prompt]:
    """The prompts of a list, see `prompt_of`. Raises ValueError for a single string or message."""
    _check_list(sources, 'prompts')
    return [prompt_of(source, str(i)) for i, source in enumerate(sources)]


def _check_list(values, name: str) -> None:
    """Raises ValueError for a string or a mapping in the place of a list."""
    if isinstance(values, (str, bytes, dict, Prompt, Response)):
        shown = repr(values)[:80]
        raise ValueError(f'{name}={shown}: want a list of them; for one, write [{shown}]')


def _controlled(control: dict, options: dict) -> dict:
    """The entry of the shelf samplers that `control` means with these options of sampling."""
    fields = dict(control)
    if fields.get('name') == 'best_of_n':
        n = options['n']
        sampler = {'name': 'sample'} | options | {'n': n * fields.pop('of', 1)}
        return fields | {'n': n, 'sampler': sampler}
    if not options['stop']:  # which blockwise does not have
        options = {name: value for name, value in options.items() if name != 'stop'}
    return options | fields


def load(folder: str, *, mesh: dict | None = None, **options):
    """(lm, params) of a Hugging Face folder, a GGUF file, a hub name, or 'tiny', the model shipped.

    Args:
      mesh: {'data': …, 'fsdp': …, 'tensor': …}, each 1 by default; None: all devices along fsdp.
      options: dtype, params, max_length, attention, lora, … of models.language_model.describe.
    Raises FileNotFoundError or ValueError as language_model.describe does.
    """
    axes = {'fsdp': -1} if mesh is None else mesh
    lm, params = language_model.load(folder=folder, **axes, **options)
    return Lm(**{field.name: getattr(lm, field.name) for field in dataclasses.fields(lm)}), params


def run(
    config,
    workdir: str,
    *,
    source: str | None = None,
    allow_changed_inputs: bool = False,
    tensorboard: bool = True,
    wandb: str | None = None,
) -> list[dict]:
    """Runs a config in a folder, or resumes what is there, as `selfrew run` does; returns what
    summary.json has of each evaluated round.

    Args:
      config: the name of a config ('quickstart:smoke', 'my_config.py'), or one as its get_config
        returns it.
      source, allow_changed_inputs, tensorboard, wandb: see loop.run.
    Raises as loop.run does. An interrupt leaves the folder as a killed run does: the same call goes
    on.
    """
    if isinstance(config, str):
        config = config_files.load(config)
    fields = config.to_dict() if isinstance(config, ConfigDict) else dict(config)
    bound = binding.bind_arguments(loop.run, fields, 'config')
    print(bound(workdir, source, allow_changed_inputs, tensorboard, wandb))
    return report.read_rounds(workdir)


save = export.save
