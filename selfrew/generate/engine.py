"""The host's side: requests into slots, samples out of them, until all are made."""

import collections
import dataclasses
import functools
import hashlib
import math

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from selfrew import hosts, journal, sharding, sizes
from selfrew.generate import slots as device
from selfrew.models import decoder
from selfrew.types import Response

SLOTS, SLOTS_OF_A_CPU = 256, 64
SHARE = 0.3  # of a device's memory, for caches
SHARED = 64  # tokens with which all prompts begin, from which on they are read once for all
WORK = 1024  # tokens read together when prompts are
BURST = 32  # steps between two looks at the slots; with stop strings, or while a long prompt is read, STEPS
STEPS = 8


@jax.jit
def _fold(key, number_M, index_M):
    return jax.vmap(lambda a, b: jax.random.fold_in(jax.random.fold_in(key, a), b))(number_M, index_M)


def request_keys(key, ids, indices):
    """A key for each request: `key` (seed, round and purpose) folded with its prompt's id and its sample index.

    Args: ids, a string for each request; indices, an int for each. Returns [M] keys.
    """
    numbers = [int.from_bytes(hashlib.sha1(i.encode()).digest()[:4], 'little') for i in ids]
    return _fold(key, np.array(numbers, np.uint32), np.array(indices, np.uint32))


# --- what fits --------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Layout:
    """The sizes of a call's arrays: they depend on all of its requests, not on how far it has come."""

    slots: int
    columns: int  # of a slot's cache
    limit: int  # tokens that a sample may have
    shared: int  # tokens with which all prompts begin, in no slot's cache
    prompts: int  # read together, rows of the pool
    chunk: int  # tokens of them that are read at a time
    pool: int  # columns of the pool
    bytes: int  # of all caches, on one device


def row_bytes(lm) -> int:
    """What one column of one row of the cache takes on a device, which holds its share of the heads."""
    c, parts = lm.config, lm.mesh.shape['tensor']
    heads = c.kv_heads // parts if c.kv_heads % parts == 0 else c.kv_heads
    return 2 * c.layers * heads * c.head_dim * jnp.dtype(lm.cache_dtype).itemsize


def budget(lm) -> float:
    """Bytes that the caches may take on a device: what the config says; else 0.3 of its memory, or 4 GiB of a host's."""
    if lm.cache_gib is not None:
        return lm.cache_gib * 2**30
    limit = (lm.mesh.local_devices[0].memory_stats() or {}).get('bytes_limit') if lm.mesh.local_devices else None
    return SHARE * limit if limit else 4 * 2**30


def lay_out(lm, lengths, limits, distinct: int, *, slots: int, shared: int = 0, memory: float) -> Layout:
    """The layout for requests whose prompts have these lengths and whose samples may have so many tokens.

    Args:
      lengths, limits: ints, of each request. distinct: how many of the prompts differ.
      slots: at most so many. shared: tokens with which all prompts begin.
      memory: bytes that the caches may take on a device.
    Raises ValueError, with the numbers, where not even one slot for each part of the mesh fits.
    """
    split, a_column = sharding.row_count(lm.mesh), row_bytes(lm)
    context = max(lengths) - 1 - shared  # a prompt's last token is read in its slot
    chunk = max(min(sizes.up(context, 16), 64 if context <= 256 else 256), 1)
    pool = sizes.up(max(context, 1), chunk)
    whole = lambda n: 1 << (n - 1).bit_length()  # noqa: E731 a power of 2: few sizes, so that few programs are compiled
    prompts = sizes.up(min(whole(distinct), max(WORK // chunk, 1)), split)
    columns = max(sizes.rung(max(a - 1 - shared + b for a, b in zip(lengths, limits)), 16), pool)
    wanted = sizes.up(min(slots, whole(len(lengths))), split)
    fixed = (2 * prompts // split * pool + shared) * a_column
    fit = int((memory - fixed) // (columns * a_column)) * split
    if fit < split:
        gib = lambda n: f'{n / 2**30:.3g} GiB'  # noqa: E731
        raise ValueError(
            f'a slot of {columns} tokens takes {gib(columns * a_column)} of a device, prompts that are read {gib(fixed)}'
            f'; the cache may take {gib(memory)}: raise model.cache_gib, lower max_tokens ({max(limits)}; prompts have '
            f'up to {max(lengths)}), take model.cache=bfloat16 or a larger mesh'
        )
    rows = min(wanted, fit)
    return Layout(rows, columns, sizes.rung(max(limits), 16), shared, prompts, chunk, pool,
                  fixed + rows // split * columns * a_column)  # fmt: skip


def _common(prompts) -> int:
    """With how many tokens all prompts begin, of those before the last, in steps of 32; 0 where it does not pay."""
    first, last = min(prompts), max(prompts)  # what these two share, all between them share
    same = next((i for i, (a, b) in enumerate(zip(first, last)) if a != b), min(len(first), len(last)))
    same = min(same, min(map(len, prompts)) - 1) // 32 * 32
    return same if same >= SHARED else 0


# --- requests ---------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Options:
    """A request's own."""

    limit: int
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    stop: tuple
    ends: tuple


def _options(count: int, **given) -> list[_Options]:
    """Each request's, from values for all or lists with one for each. ValueError for one that is out of range."""
    several = {name: list(v) if isinstance(v, (list, np.ndarray)) else [v] * count for name, v in given.items()}
    for name, found in several.items():
        if len(found) != count:
            raise ValueError(f'{len(found)} values of {name} for {count} requests')
    out = [_Options(*row) for row in zip(*several.values())]
    for o in set(out):
        if o.limit < 1 or not 0 <= o.temperature < math.inf or o.top_k < 0 or not 0 < o.top_p <= 1 or not 0 <= o.min_p <= 1:
            raise ValueError(
                f'want max_tokens >= 1, temperature >= 0, top_k >= 0 (0: all), 0 < top_p <= 1, 0 <= min_p <= 1; got '
                f'max_tokens={o.limit}, temperature={o.temperature}, top_k={o.top_k}, top_p={o.top_p}, min_p={o.min_p}'
            )
        if not all(isinstance(s, str) and s for s in o.stop):
            raise ValueError(f'stop={o.stop!r}: want strings that are not empty')
    return out


def _stopped(text, tokens, stop: tuple, since: int) -> tuple[int, str] | None:
    """How many tokens until a stop string is complete, and the text before it; looked for from `since` tokens on."""
    if not any(s in text.decode(tokens) for s in stop):
        return None
    for n in range(since + 1, len(tokens) + 1):
        said = text.decode(tokens[:n])
        found = [said.index(s) for s in stop if s in said]
        if found:
            return n, said[: min(found)]
    return None


class _Reader:
    """The pool: prompts that are being read, a chunk of each at a time."""

    def __init__(self, lm, params, layout: Layout, shared, groups):
        self.groups, self._layout = groups, layout
        self._read = functools.partial(device.read, lm.module, params)
        self._shared, self.at = shared, 0
        self._tokens = np.full((layout.prompts, layout.pool), lm.text.pad, np.int32)
        for row, (prompt, _) in enumerate(groups):
            own = prompt[layout.shared : -1]
            self._tokens[row, : len(own)] = own
        self._whole = max(len(prompt) for prompt, _ in groups) - 1 - layout.shared
        self._place, self.cache = lm.rows, _empty_pool(lm.module, lm.cache_dtype, layout.prompts, layout.pool)

    @property
    def done(self) -> bool:
        return self.at >= self._whole

    def go_on(self) -> None:
        chunk = self._place(self._tokens[:, self.at : self.at + self._layout.chunk])
        self.cache = self._read(chunk, np.int32(self.at), self._shared, self.cache)
        self.at += self._layout.chunk


_empty_pool = functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))(device.cache)


def _read_shared(lm, params, tokens):
    """What all prompts begin with, read once, in one row."""
    if not tokens:
        return None
    pool = _empty_pool(lm.module, lm.cache_dtype, 1, len(tokens))
    chunk = next(n for n in (256, 128, 64, 32) if len(tokens) % n == 0)
    for at in range(0, len(tokens), chunk):
        one = lm.whole(np.array([tokens[at : at + chunk]], np.int32))
        pool = device.read(lm.module, params, one, np.int32(at), None, pool)
    return device.share(lm.module, pool)


def generate(lm, params, prompts, keys, *, max_tokens, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, stop=(),
             ends=None, slots: int | None = None, title: str = 'sample') -> list[Response]:  # fmt: skip
    """One response for each request, in the order of the requests.

    Args:
      prompts: a list of tokens for each request, not empty; equal ones are read once, and what all begin with too.
      keys: [M] keys, see `request_keys`.
      max_tokens: a response is cut there (finish 'length', no end token).
      temperature: 0 is greedy. top_k, top_p, min_p: see pick.draw.
      ends: tokens that end a response; None: those of the tokenizer.
      stop: strings of which the first that appears ends a response; its text ends before it, its tokens with it.
      slots: samples made at the same time, at most; None: 256, on a CPU 64 or a fourth of the requests, for there an
        idle slot costs as much as a busy one. They change the speed and the memory, not the tokens; what else stands
        in them, or when they are filled, changes not a bit.
      title: of the progress bar.
    All but slots and title may be lists, with a value for each request (of tuples for stop and ends). Inside of `journal.kept`,
    responses are written down as they come, and those found there are not made again.
    Raises ValueError where a prompt and max_tokens exceed the model's context, an option is out of range, or the cache
    does not fit.
    """
    if slots is not None and slots < 1:
        raise ValueError(f'want slots >= 1; got {slots=}')
    M, prompts = len(prompts), [tuple(p) for p in prompts]
    asked = _options(M, limit=max_tokens, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p,
                     stop=stop, ends=tuple(lm.text.ends) if ends is None else ends)  # fmt: skip
    for prompt, o in zip(prompts, asked):
        if len(prompt) + o.limit > lm.config.max_length:
            raise ValueError(f'a prompt of {len(prompt)} tokens and max_tokens={o.limit} exceed the context of '
                             f'{lm.config.max_length}')  # fmt: skip
    if not M:
        return []
    layout = lay_out(
        lm, list(map(len, prompts)), [o.limit for o in asked], len(set(prompts)), slots=slots or slots_of(lm, M),
        shared=_common(prompts), memory=budget(lm),
    )  # fmt: skip
    words = np.asarray(jax.random.key_data(keys))
    out, book = [None] * M, journal.current()
    names = [_name(*request) for request in zip(prompts, words, asked)] if book else []
    for i, name in enumerate(names):
        if name in book.found:
            out[i] = Response(*[tuple(v) if isinstance(v, list) else v for v in book.found[name]])
    with tqdm(total=M, initial=M - out.count(None), desc=title, unit='sample', mininterval=1.0,
              disable=not hosts.main()) as bar:  # fmt: skip
        for i, response in _made(lm, params, layout, prompts, words, asked, [i for i in range(M) if out[i] is None], bar):
            out[i] = response
            if book:
                book.put(names[i], [response.text, response.tokens, response.finish, response.logp])
    return out


def slots_of(lm, requests: int) -> int:
    """How many slots there are for so many requests where nobody says: on a CPU fewer, for there they take the time."""
    return min(SLOTS_OF_A_CPU, -(-requests // 4)) if _on_cpu(lm) else SLOTS


def _on_cpu(lm) -> bool:
    return lm.mesh.devices.flat[0].platform == 'cpu'


def _name(prompt, words, options) -> str:
    return hashlib.sha256(repr((prompt, words.tolist(), options)).encode()).hexdigest()[:32]


def _made(lm, params, layout: Layout, prompts, words, asked, todo, bar):
    """Yields (which request, its response) as samples come to their ends."""
    groups = collections.defaultdict(list)
    for i in todo:
        groups[prompts[i]].append(i)
    waiting = collections.deque(sorted(groups.items(), key=lambda group: -len(group[0])))
    if not waiting:
        return
    if _on_cpu(lm) and lm.mesh.size == 1:
        lm, params = dataclasses.replace(lm, module=lm.module.clone(stacked=False)), decoder.unstacked(lm.module, params)
    S, E = layout.slots, max(1, *(len(o.ends) for o in asked))
    shared = _read_shared(lm, params, prompts[todo[0]][: layout.shared])
    state = device.empty(lm.module, lm.cache_dtype, rows=S, columns=layout.columns, limit=layout.limit, ends=E,
                         words=words.shape[1])  # fmt: skip
    at_once, patience = max(S // 4, 1), max(S // 16, 1)
    holds, since = np.full(S, -1), np.zeros(S, np.int64)  # the request in each slot; how far it was searched for stops
    ready, reader, count = collections.deque(), None, 0

    def admit(state, free):
        here = [(slot, *ready.popleft()) for slot in free[: min(at_once, len(ready))]]
        source = here[0][2]
        for k, one in enumerate(here):  # from one pool at a time
            if one[2] is not source:
                ready.extendleft(entry[1:] for entry in reversed(here[k:]))
                here = here[:k]
                break
        pick = lambda values, kind: np.array(values + values[:1] * (at_once - len(here)), kind)  # noqa: E731
        slot_A = np.array([h[0] for h in here] + [S] * (at_once - len(here)), np.int32)
        who = [h[1] for h in here]
        ask = device.Ask(
            pick([words[i] for i in who], np.uint32), pick([prompts[i][-1] for i in who], np.int32),
            pick([len(prompts[i]) - 1 - layout.shared for i in who], np.int32),
            *(pick([getattr(asked[i], name) for i in who], kind) for name, kind in (
                ('limit', np.int32), ('temperature', np.float32), ('top_k', np.int32), ('top_p', np.float32),
                ('min_p', np.float32))),
            pick([asked[i].ends + (-1,) * (E - len(asked[i].ends)) for i in who], np.int32).reshape(-1, E),
        )  # fmt: skip
        for slot, i, *_ in here:
            holds[slot], since[slot] = i, 0
        return device.admit(lm.module, state, source.cache, slot_A, pick([h[3] for h in here], np.int32), ask)

    while True:
        while len(free := np.flatnonzero(holds < 0)) and (ready or reader or waiting):
            if ready:
                state = admit(state, free)
                continue
            if reader is None:
                some = [waiting.popleft() for _ in range(min(layout.prompts, len(waiting)))]
                reader = _Reader(lm, params, layout, shared, some)
            if not reader.done:
                reader.go_on()
            if reader.done:
                ready.extend((i, reader, row) for row, (_, members) in enumerate(reader.groups) for i in members)
                reader = None
            elif len(free) < S:
                break  # a long prompt: the slots go on between its chunks
        busy = holds >= 0
        if not busy.any():
            return
        strings = any(asked[i].stop for i in holds[busy])
        more = bool(ready or waiting)
        floor = max(int(busy.sum()) - patience, 0) if more and not reader else 0
        most = STEPS if strings or reader else BURST
        state = device.advance(lm.module, params, shared, state, busy, np.int32(floor), np.int32(most))
        active, produced = np.asarray(state.active), np.asarray(state.produced)
        over = busy & ~active
        if strings or over.any():
            tokens, logp = np.asarray(state.tokens), np.asarray(state.logp)
        for slot in np.flatnonzero(busy if strings else over):
            i, n = int(holds[slot]), int(produced[slot])
            mine, stop = tuple(tokens[slot, :n].tolist()), asked[i].stop
            finish, said = 'stop' if mine[-1] in asked[i].ends else 'length', None
            if stop and (found := _stopped(lm.text, mine, stop, int(since[slot]))):
                (n, said), finish = found, 'stop'
                mine = mine[:n]
            elif not over[slot]:
                since[slot] = n
                continue
            holds[slot] = -1
            total = float(logp[slot, :n].sum(dtype=np.float64))
            count += n
            yield i, Response(lm.text.decode(mine) if said is None else said, mine, finish, total)
            bar.update()
        if book := journal.current():
            book.flush()
        bar.set_postfix_str(f'{count / max(bar.format_dict["elapsed"], 1e-9):,.0f} tokens/s')
