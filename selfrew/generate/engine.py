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
BURST, STEPS = 32, 8  # steps between two looks at the slots; the latter with stop strings, or while a prompt is read


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
    """Bytes that caches may take on a device: what the config says; else SHARE of its memory, or 4 GiB of a host's."""
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
    prompts = sizes.up(min(sizes.power(distinct), max(WORK // chunk, 1)), split)
    columns = max(sizes.rung(max(a - 1 - shared + b for a, b in zip(lengths, limits)), 16), pool)
    wanted = sizes.up(min(slots, sizes.power(len(lengths))), split)
    fixed = (2 * prompts // split * pool + shared) * a_column
    fit = int((memory - fixed) // (columns * a_column)) * split
    if fit < split:
        gib = lambda n: f'{n / 2**30:.3g} GiB'  # noqa: E731
        raise ValueError(
            f'a slot of {columns} tokens takes {gib(columns * a_column)} of a device, prompts that are being read '
            f'{gib(fixed)}, and the cache may take {gib(memory)}: raise model.cache_gib, lower max_tokens '
            f'({max(limits)}; prompts have up to {max(lengths)}), take model.cache=bfloat16 or a larger mesh'
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


@dataclasses.dataclass(frozen=True)
class _Request:
    prompt: tuple  # of tokens
    words: np.ndarray  # the data of its key
    asked: _Options

    def name(self) -> str:
        """In a journal: what the response depends on, beside the parameters."""
        return hashlib.sha256(repr((self.prompt, self.words.tolist(), self.asked)).encode()).hexdigest()[:32]


def _options(count: int, **given) -> list[_Options]:
    """Each request's, from values for all or lists with one for each. ValueError for one that is out of range."""
    several = {name: v if isinstance(v, list) else [v] * count for name, v in given.items()}
    for name, found in several.items():
        if len(found) != count:
            raise ValueError(f'{len(found)} values of {name} for {count} requests')
    out = [_Options(*row) for row in zip(*several.values())]
    for o in set(out):
        fine = o.limit >= 1 and 0 <= o.temperature < math.inf and o.top_k >= 0 and 0 < o.top_p <= 1 and 0 <= o.min_p <= 1
        if not fine:
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
      stop: strings of which the first that appears ends a response; its text ends before it, its tokens with it.
      ends: tokens that end a response; None: those of the tokenizer.
      slots: samples made at the same time, at most; None: see `slots_of`. They change the speed and the memory, not
        the tokens; what else stands in them, or when they are filled, changes not a bit.
      title: of the progress bar.
    All but slots and title may be lists, with a value for each request (of tuples for stop and ends). Inside of
    `journal.kept`, responses are written down as they come, and those found there are not made again.
    Raises ValueError where a prompt and max_tokens exceed the model's context, an option is out of range, or the cache
    does not fit.
    """
    if slots is not None and slots < 1:
        raise ValueError(f'want slots >= 1; got {slots=}')
    M, prompts = len(prompts), [tuple(p) for p in prompts]
    asked = _options(M, limit=max_tokens, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, stop=stop,
                     ends=tuple(lm.text.ends) if ends is None else ends)  # fmt: skip
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
    requests = [_Request(*one) for one in zip(prompts, words, asked)]
    out, book = [None] * M, journal.current()
    names = [request.name() for request in requests] if book else []
    for i, name in enumerate(names):
        if name in book.found:
            out[i] = Response(*[tuple(v) if isinstance(v, list) else v for v in book.found[name]])
    todo = [i for i in range(M) if out[i] is None]
    if not todo:
        return out
    with tqdm(total=M, initial=M - len(todo), desc=title, unit='sample', mininterval=1.0, disable=not hosts.main()) as bar:
        work, count = _Work(lm, params, layout, requests, todo), 0
        for some in work.results():
            for i, response in some:
                out[i] = response
                count += len(response.tokens)
                if book:
                    book.put(names[i], [response.text, response.tokens, response.finish, response.logp])
            if book:
                book.flush()
            bar.update(len(some))
            bar.set_postfix_str(f'{count / max(bar.format_dict["elapsed"], 1e-9):,.0f} tokens/s')
    return out


def slots_of(lm, requests: int) -> int:
    """How many slots there are for so many requests where nobody says: 256; on a CPU, where an idle slot takes as long as
    a busy one, 64, or a fourth of the requests."""
    return min(SLOTS_OF_A_CPU, -(-requests // 4)) if _on_cpu(lm) else SLOTS


def _on_cpu(lm) -> bool:
    return lm.mesh.devices.flat[0].platform == 'cpu'


class _Reader:
    """The pool: distinct prompts that are read together, a chunk of each at a time. groups: (prompt, its requests)."""

    def __init__(self, lm, layout: Layout, groups):
        self.groups, self.at, self._chunk = groups, 0, layout.chunk
        self._whole = max(len(prompt) for prompt, _ in groups) - 1 - layout.shared
        self._tokens = np.full((layout.prompts, layout.pool), lm.text.pad, np.int32)
        for row, (prompt, _) in enumerate(groups):
            own = prompt[layout.shared : -1]
            self._tokens[row, : len(own)] = own
        self._lm, self.cache = lm, _empty_pool(lm.module, lm.cache_dtype, layout.prompts, layout.pool)

    @property
    def done(self) -> bool:
        return self.at >= self._whole

    def go_on(self, params, shared) -> None:
        tokens = self._lm.rows(self._tokens[:, self.at : self.at + self._chunk])
        self.cache = device.read(self._lm.module, params, tokens, np.int32(self.at), shared, self.cache)
        self.at += self._chunk


class _Work:
    """Requests on their way: waiting to be read, being read, ready to be let in, in a slot. `results` is all there is."""

    def __init__(self, lm, params, layout: Layout, requests, todo):
        if _on_cpu(lm) and lm.mesh.size == 1:
            params = decoder.unstacked(lm.module, params)
            lm = dataclasses.replace(lm, module=lm.module.clone(stacked=False))
        self.lm, self.params, self.layout, self.requests = lm, params, layout, requests
        groups = collections.defaultdict(list)
        for i in todo:
            groups[requests[i].prompt].append(i)
        # Prompts of like length are read together, the longest first.
        self.waiting = collections.deque(sorted(groups.items(), key=lambda group: -len(group[0])))
        self.reader, self.ready = None, collections.deque()  # of (request, its reader, its row in the pool)
        self.shared = _read_shared(lm, params, requests[todo[0]].prompt[: layout.shared])
        self.ends = max(1, *(len(r.asked.ends) for r in requests))
        self.state = device.empty(
            lm.module, lm.cache_dtype, rows=layout.slots, columns=layout.columns, limit=layout.limit, ends=self.ends,
            words=len(requests[0].words),
        )  # fmt: skip
        self.holds = np.full(layout.slots, -1)  # the request in each slot
        self.searched = np.zeros(layout.slots, np.int64)  # how many of its tokens are known to hold no stop string

    def results(self):
        """Yields lists of (which request, its response) as samples come to their ends."""
        patience = max(self.layout.slots // 16, 1)  # so many idle slots are worth a look
        while True:
            self._fill()
            busy = self.holds >= 0
            if not busy.any():
                return
            strings = any(self.requests[i].asked.stop for i in self.holds[busy])
            more = (self.ready or self.waiting) and not self.reader
            floor, most = max(busy.sum() - patience, 0) if more else 0, STEPS if strings or self.reader else BURST
            self.state = device.advance(
                self.lm.module, self.params, self.shared, self.state, busy, np.int32(floor), np.int32(most)
            )
            yield self._collect(busy, strings)

    def _fill(self) -> None:
        """Lets requests into the idle slots, and reads prompts until there are some; of a long one, a chunk."""
        while (self.holds < 0).any() and (self.ready or self.reader or self.waiting):
            if self.ready:
                self._admit()
                continue
            if self.reader is None:
                some = [self.waiting.popleft() for _ in range(min(self.layout.prompts, len(self.waiting)))]
                self.reader = _Reader(self.lm, self.layout, some)
            if not self.reader.done:
                self.reader.go_on(self.params, self.shared)
            if self.reader.done:
                for row, (_, members) in enumerate(self.reader.groups):
                    self.ready.extend((i, self.reader, row) for i in members)
                self.reader = None
            elif (self.holds >= 0).any():
                return  # the slots go on between its chunks

    def _admit(self) -> None:
        """Lets requests, whose prompts lie in one pool, into idle slots: as many as one call of the program takes."""
        S, here, source = self.layout.slots, [], self.ready[0][1]
        A = max(S // 4, 1)
        for slot in np.flatnonzero(self.holds < 0)[:A]:
            if not self.ready or self.ready[0][1] is not source:
                break
            i, _, row = self.ready.popleft()
            self.holds[slot], self.searched[slot] = i, 0
            here.append((slot, self.requests[i], row))
        fill = here + [(S, *here[0][1:])] * (A - len(here))  # beyond the last slot: dropped
        column = lambda kind, value: np.array([value(r) for _, r, _ in fill], kind)  # noqa: E731
        option = lambda kind, name: column(kind, lambda r: getattr(r.asked, name))  # noqa: E731
        ask = device.Ask(
            column(np.uint32, lambda r: r.words), column(np.int32, lambda r: r.prompt[-1]),
            column(np.int32, lambda r: len(r.prompt) - 1 - self.layout.shared), option(np.int32, 'limit'),
            option(np.float32, 'temperature'), option(np.int32, 'top_k'), option(np.float32, 'top_p'),
            option(np.float32, 'min_p'),
            column(np.int32, lambda r: r.asked.ends + (-1,) * (self.ends - len(r.asked.ends))),
        )  # fmt: skip
        slot_A, row_A = (np.array([one[k] for one in fill], np.int32) for k in (0, 2))
        self.state = device.admit(self.lm.module, self.state, source.cache, slot_A, row_A, ask)

    def _collect(self, busy, strings: bool) -> list:
        """(Which request, its response) of the slots whose samples have ended, which are idle from now on."""
        over, produced, out = busy & ~np.asarray(self.state.active), np.asarray(self.state.produced), []
        if not strings and not over.any():
            return out
        tokens, logp = np.asarray(self.state.tokens), np.asarray(self.state.logp)
        for slot in np.flatnonzero(busy if strings else over):
            n, asked = int(produced[slot]), self.requests[self.holds[slot]].asked
            mine, said = tuple(tokens[slot, :n].tolist()), None
            finish = 'stop' if mine[-1] in asked.ends else 'length'
            if asked.stop and (found := _stopped(self.lm.text, mine, asked.stop, int(self.searched[slot]))):
                (n, said), finish = found, 'stop'
                mine = mine[:n]
            elif not over[slot]:
                self.searched[slot] = n
                continue
            said = self.lm.text.decode(mine) if said is None else said
            total = float(logp[slot, :n].sum(dtype=np.float64))
            out.append((int(self.holds[slot]), Response(said, mine, finish, total)))
            self.holds[slot] = -1
        return out
