"""For notebooks: a model loaded, asked, measured and saved, by the same code that the loop uses.
Layer 9.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from selfrew import export
from selfrew.engine import logprobs, packing
from selfrew.mesh import sharding
from selfrew.models import decoder, language_model
from selfrew.shelves import samplers
from selfrew.types import Example, Prompt, Response, Rollout, ask


class LogProbs(NamedTuple):
    """Log-probabilities of responses given their prompts, in nats."""

    total: np.ndarray  # [M], summed over a response's tokens, its end token included
    tokens: list  # of M arrays, one number a token


def prompt_of(given, id: str) -> Prompt:
    """A Prompt of a Prompt, a string (one user turn) or a list of chat messages {'role',
    'content'}.
    """
    if isinstance(given, Prompt):
        return given
    return ask(id, given) if isinstance(given, str) else Prompt(id, tuple(given))


@functools.partial(jax.jit, static_argnums=0)
def _logits(module, params, tokens_BT, mask_BT):
    B, T = tokens_BT.shape
    position_BT = jnp.maximum(jnp.cumsum(mask_BT, axis=1) - 1, 0)
    sees_BTT = (
        jnp.tril(jnp.ones((T, T), bool))[None] & mask_BT[:, None, :] | jnp.eye(T, dtype=bool)[None]
    )
    hidden_BTD, _ = module.apply({'params': params}, tokens_BT, position_BT, sees_BTT)
    return decoder.logits(module, params, hidden_BTD.reshape(B * T, -1)).reshape(B, T, -1)


@functools.partial(jax.jit, static_argnums=0)
def _selected(module, params, batch):
    return logprobs.selected_logp(module, params, batch)


@dataclasses.dataclass(frozen=True, eq=False)
class Lm(language_model.Lm):
    """A language model without its parameters, which every method takes first."""

    def logits(self, params, tokens_BT, mask_BT=None) -> jax.Array:
        """Next-token logits [B T V], float32, of tokens padded on either side.

        Args: tokens [B T] ints; mask [B T], true for what is not padding (None: all). Logits at
          padding mean nothing.
        Raises ValueError for other shapes or more tokens than the model has positions.
        """
        tokens, mask = np.asarray(tokens_BT, np.int32), np.ones(np.shape(tokens_BT), bool)
        mask = mask if mask_BT is None else np.asarray(mask_BT, bool)
        if (
            tokens.ndim != 2
            or mask.shape != tokens.shape
            or tokens.shape[1] > self.config.max_length
        ):
            raise ValueError(
                f'want tokens and mask of one shape [B T], T at most {self.config.max_length}; '
                f'got {tokens.shape} and {mask.shape}'
            )
        B, more = len(tokens), -len(tokens) % sharding.row_shards(self.mesh)
        pad = lambda x: np.pad(x, ((0, more), (0, 0)))
        return _logits(self.module, params, self.place_rows(pad(tokens)), self.place_rows(pad(mask)))[:B]

    def logp(self, params, prompts, responses, *, batch: int = 16) -> LogProbs:
        """How likely each response is after its prompt, by the trainer's own pass.

        Args:
          prompts, responses: as many of each. A prompt is a string, a list of chat messages or a
            Prompt; a response a string (taken to end by itself) or a Response (one that was sampled
            counts its very tokens).
          batch: responses computed together.
        Raises ValueError where one is empty, or too long for the context.
        """
        prompts = [prompt_of(p, str(i)) for i, p in enumerate(prompts)]
        responses = [r if isinstance(r, Response) else Response(r) for r in responses]
        examples = [Example(p, (r,)) for p, r in zip(prompts, responses, strict=True)]
        longest = self.config.max_length
        docs, dropped = packing.tokenise(self.text, examples, row_length=longest, positions=longest)
        if dropped:
            bad = sorted(set(range(len(examples))) - {doc.index for doc in docs})
            raise ValueError(
                f'responses {bad} are empty, or longer with their prompt than {longest} tokens'
            )
        if not docs:
            return LogProbs(np.zeros(0, np.float32), [])
        row = min(longest, -(-max(len(d.prompt) + len(d.responses[0]) for d in docs) // 128) * 128)
        tokens = [None] * len(docs)
        packed = packing.batches(
            docs, batch=batch, row_length=row, parts=sharding.row_shards(self.mesh)
        )
        for one in packed:
            logp = np.asarray(_selected(self.module, params, packing.place(self, one)))
            doc = np.take_along_axis(one.doc.reshape(len(one.target), -1), one.target, axis=1)
            for i in range(int(one.real.sum())):
                tokens[one.index[i]] = logp[(doc == i + 1) & (one.mask > 0)]
        return LogProbs(np.array([t.sum(dtype=np.float64) for t in tokens], np.float32), tokens)

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
    ) -> list[Rollout]:
        """`n` samples for each prompt (a string, a list of chat messages, or a Prompt), in order.

        The same seed gives the same samples, whatever `slots`, the number of those made at the same
        time, is. See samplers.sample for the options.
        Raises ValueError for an option out of range, or where a prompt and max_tokens exceed the
        context.
        """
        prompts = [prompt_of(p, str(i)) for i, p in enumerate(prompts)]
        out = samplers.sample(
            self,
            params,
            prompts,
            jax.random.key(seed),
            n=n,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            stop=(stop,) if isinstance(stop, str) else tuple(stop),
            max_tokens=max_tokens,
            slots=slots,
        )
        if len(out) < len(prompts):
            left = sorted({p.id for p in prompts} - {r.prompt.id for r in out})
            raise ValueError(
                f'prompts {left} and max_tokens={max_tokens} exceed the context of '
                f'{self.config.max_length}'
            )
        return out


def load(folder: str, *, mesh: dict | None = None, **options):
    """(lm, params) of a Hugging Face folder, a hub name, or 'tiny', the base that ships with the
    package.

    Args:
      mesh: {'data': …, 'fsdp': …, 'tensor': …}, what is left out being 1; None: all devices along
        fsdp.
      options: dtype, params, max_length, attention, lora, … as selfrew.models.language_model.load
        has them.
    Raises FileNotFoundError or ValueError that names what is wrong.
    """
    lm, params = language_model.load(
        folder=folder, **({'fsdp': -1} if mesh is None else mesh), **options
    )
    return Lm(**{field.name: getattr(lm, field.name) for field in dataclasses.fields(lm)}), params


save = export.save
