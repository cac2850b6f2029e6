"""A request: its prompt, key and sampling options."""

import dataclasses
import hashlib
import math

import numpy as np


@dataclasses.dataclass(frozen=True)
class Options:
    """A request's sampling options, see `requests.generate`.

    The repr of this class is hashed into Request.name; renaming it or a field orphans old journals.
    """

    limit: int  # max_tokens
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    stop: tuple  # of strings
    ends: tuple  # of tokens
    # Of controlled decoding; not in the repr, see Request.name.
    strength: float = dataclasses.field(default=0.0, repr=False)  # token-wise
    candidates: int = dataclasses.field(default=1, repr=False)  # block-wise
    block: int = dataclasses.field(default=0, repr=False)  # tokens; 0: no blocks
    control: str = dataclasses.field(default='', repr=False)  # the name of a control.Control

    def check(self) -> None:
        """ValueError where an option is out of range."""
        in_range = (
            self.limit >= 1
            and 0 <= self.temperature < math.inf
            and self.top_k >= 0
            and 0 < self.top_p <= 1
            and 0 <= self.min_p <= 1
            and math.isfinite(self.strength)
            and self.candidates >= 1
            and self.block >= 0
        )
        if not in_range:
            raise ValueError(
                f'max_tokens={self.limit}, temperature={self.temperature}, top_k={self.top_k}, '
                f'top_p={self.top_p}, min_p={self.min_p}, strength={self.strength}, '
                f'candidates={self.candidates}, block={self.block}: want max_tokens >= 1, '
                f'temperature >= 0, top_k >= 0 (0: all), 0 < top_p <= 1, 0 <= min_p <= 1, '
                f'a finite strength, candidates >= 1, block >= 1'
            )
        if (self.strength or self.block) and not self.control:
            raise ValueError(
                f'strength={self.strength}, block={self.block}: there is nothing that values tokens'
            )
        if self.block and self.stop:
            raise ValueError(f'stop={self.stop!r}: block-wise control ends at end tokens only')
        check_stop(self.stop)


def check_stop(stop: tuple) -> None:
    """Raises ValueError for stop strings that are empty, or no strings."""
    if not all(isinstance(string, str) and string for string in stop):
        raise ValueError(f'stop={stop!r}: want strings that are not empty')


@dataclasses.dataclass(frozen=True)
class Request:
    prompt: tuple  # of tokens
    key_words: np.ndarray  # uint32, the data of its key
    options: Options

    def name(self) -> str:
        """Its name in a journal: a hash of what its response depends on besides the parameters."""
        content = repr((self.prompt, self.key_words.tolist(), self.options))
        if control := self.options.control:
            options = self.options
            content += repr((options.strength, options.candidates, options.block, control))
        return hashlib.sha256(content.encode()).hexdigest()[:32]


def options_per_request(count: int, **options) -> list[Options]:
    """The options of `count` requests. Each value is for all of them, or a list with one for each.

    Raises ValueError where a list has another length or an option is out of range.
    """
    lists = {name: v if isinstance(v, list) else [v] * count for name, v in options.items()}
    for name, values in lists.items():
        if len(values) != count:
            raise ValueError(f'{len(values)} values of {name} for {count} requests')
    per_request = [Options(*row) for row in zip(*lists.values())]
    for distinct in set(per_request):
        distinct.check()
    return per_request
