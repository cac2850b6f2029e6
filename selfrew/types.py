"""The nouns that stages pass to each other, and the legend of axis letters. Imports no selfrew.

On the host, before packing: Prompt, Response, Rollout, Judgement, Example. Each is a frozen
dataclass, stored as JSON lines. On the device, with fixed shapes: Batch, Forward, State.

Axis letters, as suffixes of array names:
  B examples of an update   N responses of an example   R rows   L tokens of a row
  P parts of the rows, of equal size   S selected tokens of a part
  T time in decoding   C columns of a cache   V vocabulary   D width   K key/value heads
  G query heads per key head   H features of a head   F features of the MLP
"""

import dataclasses
import math
from typing import Any, NamedTuple

# --- host: text -----------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Prompt:
    """Chat messages {'role', 'content'} for a model to answer, the last one from the user."""

    id: str
    messages: tuple
    answer: Any = None  # ground truth; None if there is none, or if training must not see it
    meta: dict = dataclasses.field(default_factory=dict)  # 'task', 'responses', 'grades', …

    @property
    def text(self) -> str:
        """What a judge is shown: a single message as it is, or all messages with their roles."""
        if len(self.messages) == 1:
            return self.messages[0]['content']
        return '\n\n'.join(f'{m["role"]}: {m["content"]}' for m in self.messages)


def user_prompt(id: str, text: str, answer: Any = None, **meta) -> Prompt:
    """A prompt of one user turn."""
    return Prompt(id, ({'role': 'user', 'content': text},), answer, meta)


@dataclasses.dataclass(frozen=True)
class Response:
    """One answer. `tokens` are exactly the sampled ones, with the end token if finish is 'stop'."""

    text: str
    tokens: tuple = ()  # empty if the response was not sampled; packing then tokenises the text
    finish: str = 'stop'  # 'stop': the model ended it; 'length': cut by the token limit
    logp: float | None = None  # nats, summed over tokens, at temperature 1 without truncation
    # The same under the law that drew it: with temperature, truncation and control. None where that
    # law has no closed form (see samplers.blockwise), or the response was not sampled.
    sampled_logp: float | None = None


@dataclasses.dataclass(frozen=True)
class Rollout:
    """A prompt and the responses to it."""

    prompt: Prompt
    responses: tuple  # (n,) of Response


@dataclasses.dataclass(frozen=True)
class Judgement:
    """A rollout with a score for each response. nan means 'no verdict', never a low score."""

    rollout: Rollout
    scores: tuple  # (n,) float
    verdicts: tuple = ()  # (n,) of tuples: the judge's text, one per vote
    votes: tuple = ()  # (n,) of tuples: the score parsed from each verdict, nan if none was found
    readings: tuple = ()  # (n,) of tuples: how each verdict was read, see tasks.verdicts


@dataclasses.dataclass(frozen=True)
class Example:
    """A prompt and N responses, best first.

    N is 1 for SFT, 2 for a pair, 3 for SELM (winner, loser, explored).
    """

    prompt: Prompt
    responses: tuple  # (N,) of Response
    scores: tuple = ()  # (N,) float, () if there are none
    weight: float = 1.0  # multiplies the loss (ScPO's vote margin); the mean's divisor ignores it
    # (N,) float, 1.0 for a desirable response, 0.0 for an undesirable one, nan for one without a
    # label; () if there are none. A pair needs none: its first response is the better one.
    labels: tuple = ()


def to_json(noun) -> Any:
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


def _prompt(fields: dict) -> Prompt:
    return Prompt(fields['id'], tuple(fields['messages']), fields['answer'], fields['meta'])


def _rollout(fields: dict) -> Rollout:
    return Rollout(_prompt(fields['prompt']), _responses(fields['responses']))


def _responses(rows: list) -> tuple:
    return tuple(
        # Older files have no sampled_logp.
        Response(r['text'], tuple(r['tokens']), r['finish'], r['logp'], r.get('sampled_logp'))
        for r in rows
    )


def from_json(kind: type, fields: dict):
    """The inverse of `to_json` for Prompt, Rollout, Judgement and Example.

    Raises TypeError for any other kind.
    """
    if kind is Prompt:
        return _prompt(fields)
    if kind is Rollout:
        return _rollout(fields)
    if kind is Judgement:
        verdicts = tuple(tuple(texts) for texts in fields['verdicts'])
        votes = tuple(_floats(scores) for scores in fields['votes'])
        # Older files have no readings.
        readings = tuple(tuple(words) for words in fields.get('readings', ()))
        rollout, scores = _rollout(fields['rollout']), _floats(fields['scores'])
        return Judgement(rollout, scores, verdicts, votes, readings)
    if kind is Example:
        prompt, responses = _prompt(fields['prompt']), _responses(fields['responses'])
        labels = _floats(fields.get('labels', ()))  # older files have none
        return Example(prompt, responses, _floats(fields['scores']), fields['weight'], labels)
    raise TypeError(f'no noun {kind}; there are: Prompt, Rollout, Judgement, Example')


# --- device: fixed shapes -------------------------------------------------------------------------


class Batch(NamedTuple):
    """The examples of one update as packed rows: a prompt once, then its N responses as branches.

    A token attends causally to its own document's prompt and its own branch. Each branch's
    positions continue the prompt's. Rows are split into P parts, as over the mesh; a part's
    selected tokens lie in its own rows. `target` and `source` index the part's rows laid end to
    end.
    """

    tokens: Any  # [R L] int32
    position: Any  # [R L] int32, from 0 in each document
    doc: Any  # [R L] int32, 1 + index of the example in the batch; 0 is padding
    branch: Any  # [R L] int32, 0 the prompt, 1 + n the n-th response
    target: Any  # [P S] int32, index of each response token (0 if unused)
    source: Any  # [P S] int32, index of the token that predicts it
    mask: Any  # [P S] float32, 1 for a response token, 0 for unused
    weight: Any  # [B] float32, Example.weight
    real: Any  # [B] float32, 0 for the filler of a last, incomplete batch
    index: Any  # [B] int32, index of the example in the round
    count: Any  # [] float32, real examples of the update, over all its micro-batches
    lengths: Any  # [N] float32, tokens of all n-th responses of the update, over all micro-batches
    # [B N] float32, the reference column. nan before the reference pass, and for good if none is
    # made: under a reference-free loss, where no response was sampled.
    ref_logp: Any
    scores: Any = None  # [B N] float32, Example.scores; nan where there is none
    labels: Any = None  # [B N] float32, Example.labels; nan where there is none
    ended: Any = None  # [B N] float32, 0 for a response that was cut by the token limit
    # [P S] float32, the reference's log-prob of each selected token, 0 where a place is unused.
    # None unless the loss asks for `token_logp`.
    ref_token_logp: Any = None
    # [P S] float32, the same of the policy before the turn's first update. None unless the loss
    # asks for it, see loss_contract.with_old_logp.
    old_token_logp: Any = None


class Forward(NamedTuple):
    """What a loss unpacks. All float32.

    Sums run over a response's tokens and are 0 where the response does not exist. The fields from
    `entropy` on are None unless the loss asks for them by name, see loss_contract.requested_fields;
    `value` comes with `expect`. logprobs.measure defines each.
    """

    logp: Any  # [B N] nats, summed
    length: Any  # [B N] tokens
    entropy: Any = None  # [B N] nats, summed
    contrast: Any = None  # [B N] nats, summed
    token_logp: Any = None  # [P S] nats, of each selected token; 0 where a place is unused
    value: Any = None  # [P S] of each selected token, by the value head
    expect: Any = None  # [P S] the mean value under the distribution that predicts each of them


class State(NamedTuple):
    """What a checkpoint holds."""

    params: Any
    opt: Any
    step: Any  # [] int32, updates since the start of the run
    round: Any  # [] int32, number of the last round trained on, 0 before any
