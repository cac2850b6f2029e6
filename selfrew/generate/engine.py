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
from selfrew.generate.book import Book
from selfrew.models import decoder
from selfrew.types import Response

SLOTS, SLOTS_OF_A_CPU = 256, 128
PAGE, PAGE_OF_A_CPU = 128, 64  # tokens of the cache that lie together: on a TPU one tile; XLA's products want 64 on a CPU
SMALL = 16 * 2**20  # bytes; a cache that takes no more is not made bit by bit
SHARE = 0.3  # of a device's memory, for caches
SHARED = 64  # tokens with which all prompts begin, from which on they are read once for all
WORK = 1024  # tokens read together when prompts are
BURST, STEPS = 16, 8  # steps between two looks at the slots; the latter with stop strings, or while a prompt is read
FEWER = 8, 16, 32, 48, 64, 96, 128, 192, 256  # slots there may be once samples end
SPARED = 1e10  # FLOPs for which it is worth to have fewer


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
    page: int  # tokens
    blocks: int  # pages that a slot may have
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
    page = PAGE_OF_A_CPU if _on_cpu(lm) else PAGE
    context = max(lengths) - 1 - shared  # a prompt's last token is read in its slot
    chunk = max(min(sizes.up(context, 16), 64 if context <= 256 else 256), 1)
    pool = sizes.up(sizes.up(max(context, 1), chunk), page)
    prompts = sizes.up(min(sizes.power(distinct), max(WORK // chunk, 1)), split)
    blocks = sizes.rung(-(-max(a - 1 - shared + b for a, b in zip(lengths, limits)) // page))
    wanted = sizes.up(min(slots, sizes.power(len(lengths))), split)
    fixed = (2 * prompts // split * pool + shared + page) * a_column
    a_slot = blocks * page * a_column * (1 if _alone_on_cpu(lm) else 1.5)  # while it grows, both caches
    fit = int((memory - fixed) // a_slot) * split
    if fit < split:
        gib = lambda n: f'{n / 2**30:.3g} GiB'  # noqa: E731
        raise ValueError(
            f'a slot of {blocks * page} tokens takes {gib(a_slot)} of a device, prompts that are being read '
            f'{gib(fixed)}, and the cache may take {gib(memory)}: raise model.cache_gib, lower max_tokens '
            f'({max(limits)}; prompts have up to {max(lengths)}), take model.cache=bfloat16 or a larger mesh'
        )
    rows = min(wanted, fit)
    return Layout(rows, page, blocks, sizes.rung(max(limits), 16), shared, prompts, chunk, pool,
                  int(fixed + rows // split * a_slot))  # fmt: skip


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
    missing = out.count(None)
    if not missing:
        return out
    with tqdm(total=M, initial=M - missing, desc=title, unit='sample', mininterval=1.0, disable=not hosts.main()) as bar:
        work, count = _Work(lm, params, layout, requests, out.copy()), 0
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
    """How many slots there are, at most, for so many requests where nobody says: 256; on a CPU 128."""
    return min(SLOTS_OF_A_CPU if _on_cpu(lm) else SLOTS, sizes.power(requests))


def _on_cpu(lm) -> bool:
    return lm.mesh.devices.flat[0].platform == 'cpu'


def _alone_on_cpu(lm) -> bool:
    return _on_cpu(lm) and lm.mesh.size == 1


class _Reader:
    """The pool: distinct prompts that are read together, a chunk of each at a time. groups: (prompt, its requests).

    wanted: whether any of them is; else the reading is only counted.
    """

    def __init__(self, lm, layout: Layout, groups, wanted: bool):
        self.groups, self.at, self._chunk = groups, 0, layout.chunk
        self._whole = max(len(prompt) for prompt, _ in groups) - 1 - layout.shared
        self._tokens = np.full((layout.prompts, layout.pool), lm.text.pad, np.int32)
        for row, (prompt, _) in enumerate(groups):
            own = prompt[layout.shared : -1]
            self._tokens[row, : len(own)] = own
        self._lm = lm
        self.cache = _empty_pool(lm.module, lm.cache_dtype, layout.prompts, layout.pool) if wanted else None

    @property
    def done(self) -> bool:
        return self.at >= self._whole

    def go_on(self, params, shared) -> None:
        if self.cache is not None:
            tokens = self._lm.rows(self._tokens[:, self.at : self.at + self._chunk])
            self.cache = device.read(self._lm.module, params, tokens, np.int32(self.at), shared, self.cache)
        self.at += self._chunk


class _Work:
    """Requests on their way: waiting to be read, being read, ready to be let in, in a slot. `results` is all there is.

    The cache gets more pages as samples grow; and on a CPU, where a step takes as long as it has slots, there are fewer
    of them once no request waits and samples end. The last bits of what is computed depend on how many there are of
    either. A run that was killed and goes on must have as many at each step as it would have had; so what it has made
    already goes through the slots again, as ghosts: they take a slot, and pages, for as many steps as they took, and
    where there is nothing else in the slots, these are counted, not made.
    """

    def __init__(self, lm, params, layout: Layout, requests, made):
        """made: each request's response, or None."""
        longest, weights = max(r.asked.limit for r in requests), decoder.weights(lm.module)
        self._flops = 2 * weights  # of a slot's step
        self._shrinks = _alone_on_cpu(lm) and layout.slots > FEWER[0] and layout.slots * self._flops * longest >= SPARED
        if _alone_on_cpu(lm):
            params = decoder.unstacked(lm.module, params)
            lm = dataclasses.replace(lm, module=lm.module.clone(stacked=False))
        self.lm, self.params, self.layout, self.requests, self.made = lm, params, layout, requests, made
        groups = collections.defaultdict(list)
        for i, request in enumerate(requests):
            groups[request.prompt].append(i)
        # Prompts of like length are read together, the longest first.
        order = sorted(groups.items(), key=lambda group: -len(group[0]))
        self.shared = _read_shared(lm, params, requests[0].prompt[: layout.shared])
        self.ends = max(1, *(len(r.asked.ends) for r in requests))
        S = layout.slots
        self.book = Book(S, layout.blocks, layout.page, 1, sharding.row_count(lm.mesh))
        first = [i for _, members in order for i in members][:S]
        tokens = [self._length(i) + min(BURST, requests[i].asked.limit) for i in first] + [0] * (S - len(first))
        least = min(self._all_pages(), SMALL // (layout.page * row_bytes(lm)))
        self._grow(max(self.book.wanted(self.book.blocks(np.array(tokens))), least), empty=True)
        if not self._shrinks and self.book.pages == self._all_pages():  # nothing will change: no need of ghosts
            own = [(prompt, [i for i in members if made[i] is None]) for prompt, members in order]
            order = [(prompt, members) for prompt, members in own if members]
        self.waiting = collections.deque(order)
        self.reader, self.ready = None, collections.deque()  # of (request, its reader, its row in the pool)
        self.holds = np.full(S, -1)  # the request in each slot
        self.produced = np.zeros(S, np.int64)  # how many tokens it has
        self.searched = np.zeros(S, np.int64)  # how many of these are known to hold no stop string
        self.unseen = np.zeros(S, np.int64)  # how many of them the device does not know of, a ghost's
        self.hidden = np.zeros(S, bool)  # ghosts that the device does not know of at all

    def _length(self, i: int) -> int:
        """How many tokens of a request's prompt lie in its slot's pages."""
        return len(self.requests[i].prompt) - 1 - self.layout.shared

    def results(self):
        """Yields lists of (which request, its response) as samples come to their ends."""
        patience = max(self.layout.slots // 16, 1)  # so many idle slots are worth a look
        while True:
            self._fill()
            busy = self.holds >= 0
            if not busy.any():
                return
            strings = any(self.requests[i].asked.stop for i in self.holds[busy])
            most, floor = STEPS if strings or self.reader else BURST, 0
            if self.ready or self.waiting or self.reader:
                floor = 0 if self.reader or strings else max(busy.sum() - patience, 0)
            elif self._shrinks:
                self._shrink(busy)
                busy = self.holds >= 0
                fewer = max((n for n in FEWER if n < len(busy)), default=0)
                floor = 0 if strings or not self._pays(fewer) else fewer
            active = self._advance(busy, floor, most)
            yield self._collect(busy, active, strings)

    # --- slots ---

    def _pays(self, slots: int) -> bool:
        """Whether it would pay to have so many slots from now on."""
        left = max(self.requests[i].asked.limit - n for i, n in zip(self.holds, self.produced) if i >= 0)
        return slots > 0 and (len(self.holds) - slots) * self._flops * left >= SPARED

    def _shrink(self, busy) -> None:
        """Goes on with as few slots as there are samples left, about, where it pays."""
        S = next((n for n in FEWER if n >= busy.sum()), len(busy))
        if S >= len(busy) or not self._pays(S):
            return
        keep = np.sort(np.argsort(~busy, kind='stable')[:S])
        self._repage(keep, min(self.book.pages, self._all_pages(S)))
        rest = device.chosen(self.state._replace(cache=()), keep.astype(np.int32))
        self.state = rest._replace(cache=self.state.cache)
        for name in ('holds', 'produced', 'searched', 'unseen', 'hidden'):
            setattr(self, name, getattr(self, name)[keep])

    def _all_pages(self, slots: int | None = None) -> int:
        """So many that each slot has all it may have; of each part of the mesh."""
        return 1 + (slots or len(self.book.table)) // self.book.parts * self.layout.blocks

    def _pages(self, wanted: int) -> int:
        """How many there should be where so many are wanted: half of all that may be, or all."""
        half = -(-self._all_pages() // 2)
        return half if wanted <= half else self._all_pages()

    def _upto(self, most: int) -> np.ndarray:
        """How many tokens each slot's cache will have to hold after so many steps; 0 of one that is idle."""
        out = np.zeros(len(self.holds), np.int64)
        for slot, i in enumerate(self.holds):
            if i >= 0:
                out[slot] = self._length(i) + min(self.produced[slot] + most, self.requests[i].asked.limit)
        return out

    def _room(self, blocks_S) -> None:
        """Gives each slot so many pages, and the cache more where there are too few."""
        if (wanted := self.book.wanted(blocks_S)) > self.book.pages:
            self._grow(wanted)
        for slot in np.flatnonzero(blocks_S > self.book.held):
            self.book.give(slot, blocks_S[slot])

    def _grow(self, wanted: int, empty: bool = False) -> None:
        S, pages = len(self.book.table), self._pages(wanted)
        if not empty:
            return self._repage(np.arange(S), pages)
        self.book = Book(S, self.layout.blocks, self.layout.page, pages, self.book.parts)
        self.state = device.empty(
            self.lm.module, self.lm.cache_dtype, rows=S, pages=pages * self.book.parts, page=self.layout.page,
            limit=self.layout.limit, ends=self.ends, words=len(self.requests[0].words),
        )  # fmt: skip

    def _repage(self, slots, pages: int) -> None:
        content, parts = self.book.pack(slots, pages), list(self.state.cache)
        self.state = self.state._replace(cache=())
        for i in range(len(parts)):  # one after the other, so that no more than one lies in memory twice
            parts[i] = device.repaged(self.lm.module, parts[i], content)
        self.state = self.state._replace(cache=tuple(parts))

    def _advance(self, busy, floor: int, most: int) -> np.ndarray:
        """Makes tokens in the busy slots. Returns which are still at it, [S] bool."""
        self._room(self.book.blocks(self._upto(most)))
        if self.hidden[busy].all():
            rest = np.where(busy, [self._rest(slot) if i >= 0 else 0 for slot, i in enumerate(self.holds)], 0)
            for _ in range(most):
                if (rest > 0).sum() <= floor:
                    break
                self.produced += rest > 0
                rest = np.maximum(rest - 1, 0)
            self.unseen = np.where(self.hidden, self.produced, self.unseen)
            return rest > 0
        self.state = device.advance(
            self.lm.module, self.params, self.shared, self.state, self.book.device(), busy, np.int32(floor), np.int32(most)
        )
        self.produced = np.where(busy, self.unseen + np.asarray(self.state.produced), 0)
        return np.asarray(self.state.active)

    def _rest(self, slot: int) -> int:
        """How many more steps a ghost takes: until its sample ended, or to its limit where a stop string ended it."""
        i = self.holds[slot]
        tokens, asked = self.made[i].tokens, self.requests[i].asked
        by_string = asked.stop and tokens[-1] not in asked.ends
        return (asked.limit if by_string else len(tokens)) - int(self.produced[slot])

    def _fill(self) -> None:
        """Lets requests into the idle slots, and reads prompts until there are some; of a long one, a chunk."""
        while (self.holds < 0).any() and (self.ready or self.reader or self.waiting):
            if self.ready:
                self._admit()
                continue
            if self.reader is None:
                some = [self.waiting.popleft() for _ in range(min(self.layout.prompts, len(self.waiting)))]
                wanted = any(self.made[i] is None for _, members in some for i in members)
                self.reader = _Reader(self.lm, self.layout, some, wanted)
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
        here, source = [], self.ready[0][1]
        for slot in np.flatnonzero(self.holds < 0)[: max(len(self.holds) // 4, 1)]:
            if not self.ready or self.ready[0][1] is not source:
                break
            i, _, row = self.ready.popleft()
            self.holds[slot], self.searched[slot], self.produced[slot], self.unseen[slot] = i, 0, 0, 0
            self.hidden[slot] = self.made[i] is not None
            here.append((slot, i, row))
        fresh = [slot for slot, _, _ in here]
        self._room(self.book.blocks(np.where(np.isin(np.arange(len(self.holds)), fresh), self._upto(1), 0)))
        if self.hidden[self.holds >= 0].all():
            return
        here += [(slot, self.holds[slot], 0) for slot in np.flatnonzero(self.hidden) if slot not in fresh]
        self.hidden[:] = False
        A = max(len(self.holds) // 4, 1)
        for at in range(0, len(here), A):
            self._put(here[at : at + A], A, source.cache)

    def _put(self, here, A: int, pool) -> None:
        """Has the device let in [(slot, request, row of the pool)], at most A; of a ghost only how long it takes."""
        pool = pool or _empty_pool(self.lm.module, self.lm.cache_dtype, self.layout.prompts, self.layout.pool)
        B = self.layout.pool // self.layout.page
        fill = here + [(len(self.holds), *here[0][1:])] * (A - len(here))  # beyond the last slot: dropped
        ghost = lambda i: self.made[i] is not None  # noqa: E731
        column = lambda kind, value: np.array([value(s, i, self.requests[i]) for s, i, _ in fill], kind)  # noqa: E731
        option = lambda kind, name: column(kind, lambda s, i, r: getattr(r.asked, name))  # noqa: E731
        pages = [self.book.places(s, B) if s < len(self.holds) else [0] * B for s, _, _ in fill]
        ask = device.Ask(
            column(np.uint32, lambda s, i, r: r.words), column(np.int32, lambda s, i, r: r.prompt[-1]),
            column(np.int32, lambda s, i, r: 0 if ghost(i) else self._length(i)),
            column(np.int32, lambda s, i, r: self._rest(s) if ghost(i) and s < len(self.holds) else r.asked.limit),
            option(np.float32, 'temperature'), option(np.int32, 'top_k'), option(np.float32, 'top_p'),
            option(np.float32, 'min_p'),
            column(np.int32, lambda s, i, r: (() if ghost(i) else r.asked.ends)
                   + (-1,) * (self.ends - (0 if ghost(i) else len(r.asked.ends)))),
        )  # fmt: skip
        slot_A, row_A = (np.array([one[k] for one in fill], np.int32) for k in (0, 2))
        self.state = device.admit(self.lm.module, self.state, pool, slot_A, row_A, np.array(pages, np.int32), ask)

    def _collect(self, busy, active, strings: bool) -> list:
        """(Which request, its response) of the slots whose samples have ended, which are idle from now on."""
        over, out = busy & ~active, []
        if not strings and not over.any():
            return out
        seen = [slot for slot in np.flatnonzero(busy if strings else over) if not self._ghost(slot, over[slot])]
        if seen:
            tokens, logp = np.asarray(self.state.tokens), np.asarray(self.state.logp)
        for slot in seen:
            n, asked = int(self.produced[slot]), self.requests[self.holds[slot]].asked
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
            self._leave(slot)
        return out

    def _ghost(self, slot: int, over: bool) -> bool:
        """Whether a ghost is in the slot, which it leaves where its sample had come to its end."""
        response = self.made[self.holds[slot]]
        if response is not None and (over or self.produced[slot] >= len(response.tokens)):
            self._leave(slot)
        return response is not None

    def _leave(self, slot: int) -> None:
        self.book.take(slot)
        self.holds[slot], self.hidden[slot] = -1, False
