"""The nouns, and the legend of axis letters. Layer 0: imports nothing of selfrew.

Left of `encode` (host, text): Prompt, Response, Rollout, Judgement, Example. Each is a frozen
dataclass and one JSON line. Right of it (device, fixed shapes): Batch, Forward, State.

Axis letters, as suffixes of array names:
  B examples of an update   N responses of an example   R rows   L tokens of a row
  P parts of the rows, as many in each   S selected tokens of a part
  T time in decoding   C columns of a cache   V vocabulary   D width   K key/value heads   G queries
  a key head H features of a head      F features of the MLP
"""

import dataclasses
import math
from typing import Any, NamedTuple

# --- host: text -------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Prompt:
    """What a model is asked. `messages` are chat turns {'role', 'content'}, the last one the
    user's.
    """

    id: str
    messages: tuple
    answer: Any = None  # ground truth; None where there is none, or where training must not see it
    meta: dict = dataclasses.field(
        default_factory=dict
    )  # 'task', 'responses' (given ones), 'grades', …

    @property
    def text(self) -> str:
        """What a judge is shown: the user's turn, or, of a longer chat, all turns with their roles."""
        if len(self.messages) == 1:
            return self.messages[0]['content']
        return '\n\n'.join(f'{m["role"]}: {m["content"]}' for m in self.messages)


def ask(id: str, text: str, answer: Any = None, **meta) -> Prompt:
    """A prompt of one user turn."""
    return Prompt(id, ({'role': 'user', 'content': text},), answer, meta)


@dataclasses.dataclass(frozen=True)
class Response:
    """One answer. `tokens` are exactly what was sampled, the end token included where finish is
    'stop'.
    """

    text: str
    tokens: tuple = ()  # empty: not sampled but given as text; encode tokenises it
    finish: str = 'stop'  # 'stop': ended by itself; 'length': cut by the limit
    logp: float | None = (
        None  # nats, summed over tokens, raw distribution (temperature 1, no truncation)
    )


@dataclasses.dataclass(frozen=True)
class Rollout:
    prompt: Prompt
    responses: tuple  # (n,) of Response


@dataclasses.dataclass(frozen=True)
class Judgement:
    """A rollout with a score for each response. nan is 'no verdict', never a low score."""

    rollout: Rollout
    scores: tuple  # (n,) float
    verdicts: tuple = ()  # (n,) of tuples: what the judge wrote, a text per vote
    votes: tuple = ()  # (n,) of tuples: the score read from each verdict, nan where none could be read


@dataclasses.dataclass(frozen=True)
class Example:
    """A prompt and its responses, best first. N=1 SFT, 2 a pair, 3 SELM (winner, loser, explored)."""

    prompt: Prompt
    responses: tuple  # (N,) of Response
    scores: tuple = ()  # (N,) float
    weight: float = (
        1.0  # multiplies the example's loss (ScPO's vote margin); the mean still counts it as one
    )


def to_json(noun) -> dict:
    """A noun as JSON-ready dicts and lists; nan becomes null."""
    if isinstance(noun, float):
        return None if math.isnan(noun) else noun
    if dataclasses.is_dataclass(noun):
        return {f.name: to_json(getattr(noun, f.name)) for f in dataclasses.fields(noun)}
    if isinstance(noun, dict):
        return {k: to_json(v) for k, v in noun.items()}
    if isinstance(noun, (list, tuple)):
        return [to_json(v) for v in noun]
    return noun


def _floats(values) -> tuple:
    return tuple(math.nan if v is None else float(v) for v in values)


def _prompt(d) -> Prompt:
    return Prompt(d['id'], tuple(d['messages']), d['answer'], d['meta'])


def _rollout(d) -> Rollout:
    return Rollout(_prompt(d['prompt']), _responses(d['responses']))


def _responses(rows) -> tuple:
    return tuple(Response(r['text'], tuple(r['tokens']), r['finish'], r['logp']) for r in rows)


def from_json(kind: type, d: dict):
    """The inverse of `to_json` for the five host nouns."""
    if kind is Prompt:
        return _prompt(d)
    if kind is Rollout:
        return _rollout(d)
    if kind is Judgement:
        verdicts = tuple(tuple(v) for v in d['verdicts'])
        return Judgement(
            _rollout(d['rollout']), _floats(d['scores']), verdicts, tuple(map(_floats, d['votes']))
        )
    if kind is Example:
        return Example(
            _prompt(d['prompt']), _responses(d['responses']), _floats(d['scores']), d['weight']
        )
    raise TypeError(f'no noun {kind}; there are: Prompt, Rollout, Judgement, Example')


# --- device: fixed shapes ---------------------------------------------------------------------------------------------


class Batch(NamedTuple):
    """The examples of one update as packed rows: a prompt once, its N responses after it as
    branches.

    A token sees its own document's prompt and its own branch, causally; a branch's positions
    continue the prompt's. Rows lie in P parts, as the mesh splits them; a part's selected tokens
    are of its own rows.
    """

    tokens: Any  # [R L] int32
    position: Any  # [R L] int32, from 0 in each document
    doc: Any  # [R L] int32, 1 + index of the example in the batch; 0 is padding
    branch: Any  # [R L] int32, 0 the prompt, 1 + n the n-th response
    target: Any  # [P S] int32, where in the part's rows, laid end to end, each response token stands (0 where unused)
    source: Any  # [P S] int32, where in them the token stands that predicts it
    mask: Any  # [P S] float32, 1 for a response token, 0 for unused
    weight: Any  # [B] float32, Example.weight
    real: Any  # [B] float32, 0 for the filling of a last, incomplete batch
    index: Any  # [B] int32, which example of the round this is
    count: Any  # [] float32, real examples of the update, micro-batches together
    lengths: Any  # [N] float32, tokens of all n-th responses of the update, micro-batches together
    ref_logp: Any = None  # [B N] float32, the reference column; None before annotation


class Forward(NamedTuple):
    """What a loss unpacks. All float32; sums are over a response's tokens, 0 where there is no such
    response.

    From `entropy` on: None where the loss does not ask (see loss_contract.requested_fields); what
    each is: see logprobs.measure.
    """

    logp: Any  # [B N] nats, summed
    length: Any  # [B N] tokens
    entropy: Any = None  # [B N] nats, summed
    contrast: Any = None  # [B N] nats, summed
    value: Any = None  # [P S] of each selected token
    expect: Any = None  # [P S] of the distribution that each selected token was drawn from


class State(NamedTuple):
    """What a checkpoint holds."""

    params: Any
    opt: Any
    step: Any  # [] int32, updates since the start of the run
    round: Any  # [] int32, turns finished
