"""A world that can be counted out: a small model that answers with at most five letters.

All answers are known with their probabilities, so that rewards, win rates and KL of any law of
tokens are exact, and so are values. Token by token a law is a list over depths k of [P, 8^k, V]: of
each prompt and each prefix of k tokens without the end token, the probabilities of the next token.

Axis letters here: P prompts, V tokens of the vocabulary, C = V - 1 of them that do not end an
answer, I = C^k prefixes of k tokens, B outcomes of a block.
"""

import dataclasses
import functools
import json
import os

import jax
import jax.numpy as jnp
import numpy as np
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

from selfrew.engine import trainer
from selfrew.models import decoder, hf, language_model, text as text_module
from selfrew.models.config import ModelConfig
from selfrew.shelves import losses, optimizers
from selfrew.tasks import laws
from selfrew.types import Example, Judgement, Response, State, user_prompt

SPECIAL = PAD, BOS, USER, ASSISTANT, END = '<pad>', '<bos>', '<user>', '<assistant>', '<end>'
LETTERS = 'abcd'
CHAT = (
    '{{ bos_token }}{% for m in messages %}'
    '{% if m.role == "assistant" %}<assistant>{{ m.content }}<end>'
    '{% else %}<user>{{ m.content }}{% endif %}{% endfor %}'
    '{% if add_generation_prompt %}<assistant>{% endif %}'
)
QUESTIONS = 'ab', 'cd', 'ba', 'dd', 'ac', 'bc'
MAX_TOKENS = 5
WIDTH = 48


def prompts(copies: int = 1, round: int = 0) -> list:
    """Every question, so many times; the draws for a prompt are other ones in every round."""
    return [
        user_prompt(f'{question}/{round}/{copy}', question)
        for copy in range(copies)
        for question in QUESTIONS
    ]


def reward(question: str, answer: str) -> float:
    """Counts what the question asks for, and a little of everything that tells answers apart.

    No two texts have the same reward.
    """
    wanted = sum(answer.count(letter) for letter in set(question))
    follows = sum(a + b == question for a, b in zip(answer, answer[1:]))
    place = sum((1 + LETTERS.find(letter)) * 5.0**-i for i, letter in enumerate(answer, 1))
    return 0.5 * wanted + 1.0 * follows - 0.2 * len(answer) + 0.01 * place


def score(lm, params, rollouts, key) -> list[Judgement]:
    """A scorer, see selfrew.shelves.scorers."""
    del lm, params, key
    return [
        Judgement(r, tuple(reward(r.prompt.text, response.text) for response in r.responses))
        for r in rollouts
    ]


def write_folder(folder: str, seed: int, texts: int = 24_000) -> None:
    """Writes the world's model: a tokenizer, and weights that learned a random process from so many
    texts.
    """
    os.makedirs(folder, exist_ok=True)
    vocabulary = {word: i for i, word in enumerate([*SPECIAL, *LETTERS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=PAD))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex('.'), 'isolated')
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.save(os.path.join(folder, 'tokenizer.json'))
    settings = {
        'tokenizer_class': 'PreTrainedTokenizerFast',
        'bos_token': BOS,
        'eos_token': END,
        'pad_token': PAD,
    }
    with open(os.path.join(folder, 'tokenizer_config.json'), 'w') as file:
        json.dump(settings, file)
    with open(os.path.join(folder, 'chat_template.jinja'), 'w') as file:
        file.write(CHAT)
    config = ModelConfig(
        vocab=len(vocabulary),
        width=WIDTH,
        layers=2,
        heads=2,
        kv_heads=2,
        head_dim=24,
        mlp=96,
        max_length=32,
    )
    params = decoder.init_params(decoder.make_module(config), jax.random.key(seed))
    text = text_module.load(folder)
    assert text.bos is not None, 'see the settings'
    fields = hf.llama_fields(config, bos=text.bos, eos=text.eos, pad=text.pad)
    hf.write(folder, fields, config, params)
    lm, params = language_model.load(folder=folder)
    state, _ = trainer.train(
        lm,
        State(params, None, 0, 0),
        _texts(seed, texts),
        jax.random.key(seed),
        losses.sft,
        lambda *_: None,
        optimizer=functools.partial(optimizers.adamw, weight_decay=0.0),
        lr=3e-3,
        batch=96,
        row_length=128,
        schedule='cosine',
    )
    hf.write(folder, fields, config, state.params)


def _texts(seed: int, count: int) -> list[Example]:
    """Answers of a random Markov chain of each question, which ends with chance 0.25 and at five
    tokens for sure.
    """
    rng = np.random.default_rng(seed)
    chains = {q: rng.dirichlet(np.full(len(LETTERS), 1.5), len(LETTERS) + 1) for q in QUESTIONS}
    examples = []
    for i in range(count):
        question, answer, last = QUESTIONS[i % len(QUESTIONS)], '', len(LETTERS)
        while len(answer) < MAX_TOKENS - 1 and (not answer or rng.random() > 0.25):
            last = int(rng.choice(len(LETTERS), p=chains[question][last]))
            answer += LETTERS[last]
        examples.append(Example(user_prompt(str(i), question), (Response(answer),)))
    return examples


# --- the tree of all prefixes -----------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class World:
    """All prefixes of all answers to the questions, and their rewards."""

    lm: language_model.Lm
    others: np.ndarray  # [C] tokens that do not end an answer
    end: int
    rows: np.ndarray  # [P C^(T-1) L] every longest prefix behind its prompt
    start: int  # tokens of a prompt
    ended: list  # by depth, [P I]: the reward of ending there
    cut: np.ndarray  # [P C^T] the reward of an answer that was cut

    @property
    def outcome_rewards(self) -> np.ndarray:
        """[P outcomes]"""
        return np.concatenate([*self.ended, self.cut], axis=1)


def make_world(lm) -> World:
    """The world of a model that `write_folder` wrote."""
    (end,) = lm.text.stop_tokens
    others = np.array([i for i in range(lm.config.vocab) if i != end])
    encoded = np.array([lm.text.prompt_tokens(prompt) for prompt in prompts()])  # of one length
    ended, texts = [], [[''] for _ in QUESTIONS]
    paths = longest = np.zeros((1, 0), int)
    letters = [lm.text.decode([token]) for token in others]
    for depth in range(MAX_TOKENS + 1):
        table = np.array([[reward(q, text) for text in own] for q, own in zip(QUESTIONS, texts)])
        ended.append(table)
        if depth == MAX_TOKENS:
            break
        if depth == MAX_TOKENS - 1:
            longest = paths
        texts = [[text + letter for text in own for letter in letters] for own in texts]
        paths = np.array([[*path, token] for path in paths for token in others])
    start = encoded.shape[1]
    rows = np.zeros((len(encoded), len(longest), start + MAX_TOKENS - 1), np.int32)
    rows[:, :, :start], rows[:, :, start:] = encoded[:, None], longest[None]
    return World(lm, others, end, rows, start, ended[:-1], ended[-1])


@functools.partial(jax.jit, static_argnums=0)
def _forward(module, params, head, tokens_RL):
    R, L = tokens_RL.shape
    position_RL = jnp.broadcast_to(jnp.arange(L)[None], (R, L))
    mask_RLL = jnp.broadcast_to(jnp.tril(jnp.ones((L, L), bool))[None], (R, L, L))
    hidden_RLD, _ = module.apply({'params': params}, tokens_RL, position_RL, mask_RLL)
    flat_XD = hidden_RLD.reshape(R * L, -1)
    logp_XV = jax.nn.log_softmax(decoder.logits(module, params, flat_XD))
    value_XV = decoder.values(head, flat_XD)
    return logp_XV.reshape(R, L, -1), value_XV.reshape(R, L, -1)


def token_laws(world: World, params, head=None) -> tuple[list, list]:
    """(the law of the next token, its values) at every prefix, by depth [P I V].

    head: [D V]; None: values of 0.
    """
    if head is None:
        head = jnp.zeros((world.lm.config.width, world.lm.config.vocab))
    flat, parts = world.rows.reshape(-1, world.rows.shape[2]), []
    chunk = len(world.others) ** 4
    for first in range(0, len(flat), chunk):
        rows = flat[first : first + chunk]
        parts.append(jax.device_get(_forward(world.lm.module, params, head, rows)))
    logp, value = (np.concatenate([part[i] for part in parts]) for i in range(2))
    C, by_depth = len(world.others), ([], [])
    shape = *world.rows.shape[:2], -1
    for depth in range(MAX_TOKENS):
        place = world.start - 1 + depth
        first = slice(None, None, C ** (MAX_TOKENS - 1 - depth))  # a row with each prefix
        law_PIV = np.exp(logp[:, place].reshape(shape)[:, first].astype(np.float64))
        by_depth[0].append(law_PIV / law_PIV.sum(-1, keepdims=True))
        by_depth[1].append(value[:, place].reshape(shape)[:, first].astype(np.float64))
    return by_depth


def values_of(world: World, lm, params) -> list:
    """The values of a prefix scorer at every prefix, by depth [P I V]."""
    return token_laws(dataclasses.replace(world, lm=lm), params, params['value'])[1]


def unexplained(world: World, token_law: list, values: list, truth: list) -> float:
    """The mean squared error of values over the variance of the true ones, both over the tokens
    that a law draws.
    """
    reach, squares, moments = np.ones((len(QUESTIONS), 1)), 0.0, np.zeros(3)
    for law_PIV, value_PIV, true_PIV in zip(token_law, values, truth):
        chance_PIV = reach[:, :, None] * law_PIV
        squares += np.sum(chance_PIV * (value_PIV - true_PIV) ** 2)
        moments += [np.sum(chance_PIV * true_PIV**power) for power in range(3)]
        reach = chance_PIV[:, :, world.others].reshape(len(reach), -1)
    mass, first, second = moments
    return float(squares / (second - first**2 / mass))


def outcome_law(world: World, token_law: list) -> np.ndarray:
    """[P outcomes] The probability of every answer, in the order of World.outcome_rewards."""
    reach, outcomes = np.ones((len(QUESTIONS), 1)), []
    for law_PIV in token_law:
        outcomes.append(reach * law_PIV[:, :, world.end])
        reach = (reach[:, :, None] * law_PIV[:, :, world.others]).reshape(len(reach), -1)
    return np.concatenate([*outcomes, reach], axis=1)


def true_values(world: World, token_law: list) -> list:
    """The expected reward behind each next token under a law, by depth [P I V]; 0 for an answer
    that is cut.
    """
    beyond, values = np.zeros_like(world.cut), []
    for law_PIV, ended_PI in zip(reversed(token_law), reversed(world.ended)):
        value_PIV = np.zeros_like(law_PIV)
        value_PIV[:, :, world.end] = ended_PI
        value_PIV[:, :, world.others] = beyond.reshape(*ended_PI.shape, -1)
        values.append(value_PIV)
        beyond = np.sum(law_PIV * value_PIV, axis=-1)
    return values[::-1]


def tokenwise(token_law: list, values: list, strength: float) -> list:
    """The law of token-wise control, as samplers.tokenwise draws it."""
    tilted = []
    for law_PIV, value_PIV in zip(token_law, values):
        logits = np.log(np.maximum(law_PIV, 1e-300)) + strength * value_PIV
        weights = np.exp(logits - logits.max(-1, keepdims=True))
        tilted.append(weights / weights.sum(-1, keepdims=True))
    return tilted


def blockwise(world: World, token_law: list, values: list, candidates: int, block: int):
    """[P outcomes] The law of block-wise control, as samplers.blockwise draws it."""
    P, C, T = len(QUESTIONS), len(world.others), MAX_TOKENS
    ended = [np.zeros((P, C**depth)) for depth in range(T)]
    reach = np.ones((P, 1))  # of the prefixes at which a block begins
    for first in range(0, T, block):
        last, starts = min(first + block, T), C**first
        # By depth within the block: the chance of each outcome, and its value.
        chances, block_values = [], []
        inside = reached = np.ones((P, starts, 1))
        for depth in range(first, last):
            law = token_law[depth].reshape(P, starts, -1, C + 1)
            value = values[depth].reshape(P, starts, -1, C + 1)
            chances.append(inside * law[..., world.end])
            block_values.append(value[..., world.end])
            inside = (inside[..., None] * law[..., world.others]).reshape(P, starts, -1)
            reached = value[..., world.others].reshape(P, starts, -1)
        chance = np.concatenate([*chances, inside], axis=-1)
        best = _best_of(chance, np.concatenate([*block_values, reached], axis=-1), candidates)
        sizes = [x.shape[-1] for x in chances]
        parts = np.split(reach[:, :, None] * best, np.cumsum(sizes), axis=-1)
        for depth, part in zip(range(first, last), parts):
            ended[depth] += part.reshape(P, -1)
        reach = parts[-1].reshape(P, -1)
    return np.concatenate([*ended, reach], axis=1)


def _best_of(chance_PIB, value_PIB, n: int):
    """The law of the draw with the highest value of n, along the last axis."""
    order = np.argsort(value_PIB, axis=-1, kind='stable')
    cumulative = np.cumsum(np.take_along_axis(chance_PIB, order, -1), axis=-1)
    cumulative = np.minimum(cumulative / cumulative[..., -1:], 1.0) ** n
    best = np.diff(cumulative, axis=-1, prepend=0.0)
    law = np.empty_like(best)
    np.put_along_axis(law, order, best, -1)
    return law


def place(world: World, law: np.ndarray, base_law: np.ndarray) -> dict:
    """Where a law lies: means over the questions of reward, win rate and KL, all exact."""
    rewards = world.outcome_rewards
    per_prompt = [
        (float(own @ r), laws.win_rate(own, base, r), laws.kl(own, base))
        for own, base, r in zip(law, base_law, rewards)
    ]
    mean, wins, kl = np.mean(per_prompt, axis=0)
    figures = {'reward': float(mean), 'win_rate': float(wins), 'kl': float(kl), 'kl_kind': 'exact'}
    return figures | {'reward_low': float(mean), 'reward_high': float(mean)}


def best_of_n(world: World, base_law: np.ndarray, n: int) -> np.ndarray:
    """The law of the best of n answers of the base."""
    rewards = world.outcome_rewards
    return np.array([laws.best_of_n_law(p, r, n) for p, r in zip(base_law, rewards)])


def tilted(world: World, base_law: np.ndarray, strength: float) -> np.ndarray:
    """The base's law, exponentially tilted."""
    rewards = world.outcome_rewards
    return np.array([laws.tilted_law(p, r, 1.0 / strength) for p, r in zip(base_law, rewards)])
