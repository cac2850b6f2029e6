"""Reads the HLO text of a program compiled for TPUs: its kernels, collectives and loops."""

import math
import re
from typing import NamedTuple

COLLECTIVES = 'all-gather', 'all-reduce', 'reduce-scatter', 'all-to-all', 'collective-permute'
KERNELS = 'fusion', 'custom-call', 'reduce', 'sort', 'scatter', 'map'
SCATTERED_SUM = 'all-reduce-scatter'  # what such a fused computation's name begins with
NO_ESTIMATE = 2**62  # from here on, a kernel's estimated cycles mean that it has none

HEADER = re.compile(r'^(ENTRY )?%?([\w.\-]+) \(.*\) -> (.*) \{$')
LINE = re.compile(r'^\s+(?:ROOT )?%?[\w.\-]+ = (.*?) ([a-z][a-z0-9\-]*)\((.*)$')
CALLED = re.compile(
    r'\b(calls|to_apply|body|condition|branch_computations|called_computations)'
    r'=\{?(%[\w.\-]+(?:, ?%[\w.\-]+)*)'
)
ARRAY = re.compile(r'\b(pred|[a-z]+\d+[a-z0-9]*)\[([\d,]*)\]')


class Instruction(NamedTuple):
    shape: str  # of its output
    op: str
    line: str  # all of its text


class Computation(NamedTuple):
    shape: str  # of its output
    instructions: list[Instruction]


def shape_bytes(shape: str) -> list[int]:
    """Bytes of each array in an HLO shape: 'f32[8,2]{1,0}' -> [64]; for a tuple, of each part."""
    sizes = []
    for dtype, dims in ARRAY.findall(shape):
        bits = 8 if dtype == 'pred' else int(re.findall(r'\d+', dtype)[0])
        sizes.append(math.prod(map(int, filter(None, dims.split(',')))) * bits // 8)
    return sizes


def read(text: str) -> dict:
    """What a compiled module does, per device; loops count as often as they run.

    Returns a dict:
      'cycles': the compiler's estimates for its kernels.
      'sorts', 'kernels': how many sorts and Pallas kernels run, which have no estimate.
      'collectives': kind -> {'count', 'bytes'}, bytes of their outputs.
      'wire': the least number of bytes that a device receives for them.
      'unknown': how many loops were counted once because their length could not be read.

    An asynchronous collective counts once: where it starts or, where kernels carry it on, once for
    each channel and chain. A sum fused with a slice of it, so that each device keeps a part, counts
    as a reduce-scatter.
    """
    computations, entry = _parse(text)
    totals = _Totals(computations)
    totals.add_computation(entry, times=1, is_in_kernel=False)
    collectives, wire = totals.summarize_collectives()
    return {
        'cycles': totals.cycles,
        'collectives': collectives,
        'wire': wire,
        'unknown': totals.unknown_loops,
        'sorts': totals.sorts,
        'kernels': totals.kernels,
    }


def _parse(text: str) -> tuple[dict[str, Computation], str]:
    """The computations of a module by name, and the name of its entry."""
    computations, entry, name = {}, '', ''
    for line in text.splitlines():
        if header := HEADER.match(line):
            name = header[2]
            computations[name] = Computation(header[3], [])
            entry = name if header[1] else entry
        elif name and (parsed := LINE.match(line)):
            computations[name].instructions.append(Instruction(parsed[1], parsed[2], line))
    return computations, entry


def _group_size(line: str) -> int:
    """How many devices are in one group of a collective; 1 where the text does not say."""
    if mesh := re.search(r'replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}', line):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", mesh[1]))
        return math.prod(int(sizes.get(axis, 1)) for axis in re.findall(r"'(\w+)'", mesh[2]))
    if iota := re.search(r'replica_groups=\[(\d+),(\d+)\]', line):
        return int(iota[2])
    first = re.search(r'replica_groups=\{\{([\d,]*)\}', line)
    return len(first[1].split(',')) if first else 1


def _called(line: str) -> dict[str, list[str]]:
    """The computations that an instruction calls, by the attribute that names them."""
    return {
        attribute: [name.strip(' %') for name in names.split(',')]
        for attribute, names in CALLED.findall(line)
    }


class _Totals:
    """What the instructions of a module add up to. `times`: how often one runs."""

    def __init__(self, computations: dict[str, Computation]):
        self.computations = computations
        self.cycles = 0.0
        self.sorts = self.kernels = self.unknown_loops = 0
        # (kind, channel and chain or else a number) -> bytes of output, times, devices in a group
        self.collectives: dict[tuple, tuple[int, int, int]] = {}

    def add_computation(self, name: str, times: int, is_in_kernel: bool) -> None:
        computation = self.computations.get(name, Computation('', []))
        is_scattered = name.startswith(SCATTERED_SUM)
        for shape, op, line in computation.instructions:
            if not is_in_kernel:
                self._add_cycles(op, line, times)
            kind = op.removesuffix('-start')
            if kind not in COLLECTIVES:
                self._add_called(op, line, times, is_in_kernel)
                continue
            if is_scattered:
                kind, shape = 'reduce-scatter', computation.shape
            is_start, is_carried = op.endswith('-start'), is_in_kernel and not is_scattered
            self._add_collective(kind, shape, line, times, is_start, is_carried)

    def _add_cycles(self, op: str, line: str, times: int) -> None:
        estimate = re.search(r'"estimated_cycles":"(\d+)"', line)
        if estimate and int(estimate[1]) < NO_ESTIMATE:
            self.cycles += times * int(estimate[1])
        if not estimate and op == 'sort':
            self.sorts += times
        if not estimate and 'custom_call_target="tpu_custom_call"' in line:
            self.kernels += times

    def _add_called(self, op: str, line: str, times: int, is_in_kernel: bool) -> None:
        called = _called(line)
        if op != 'while':
            for name in (name for names in called.values() for name in names):
                self.add_computation(name, times, is_in_kernel or op in KERNELS)
            return
        known = re.search(r'"known_trip_count":\{"n":"(\d+)"', line)
        trips = int(known[1]) if known else self._compared_constant(called['condition'][0])
        self.unknown_loops += trips is None
        self.add_computation(called['body'][0], times * (trips or 1), is_in_kernel)

    def _compared_constant(self, condition: str) -> int | None:
        """The constant that a loop's counter is compared with, or None."""
        constants = [
            re.search(r'constant\((\d+)\)', line)
            for shape, op, line in self.computations[condition].instructions
            if op == 'constant' and re.match(r'[su]\d+\[\]', shape)
        ]
        return int(constants[0][1]) if len(constants) == 1 and constants[0] else None

    def _add_collective(
        self, kind: str, shape: str, line: str, times: int, is_start: bool, is_carried: bool
    ) -> None:
        """Adds a collective, once for each channel and chain where kernels carry it on."""
        sizes = shape_bytes(shape)
        if is_start and len(sizes) > 1:  # operands, results, and what the hardware keeps
            if kind == 'reduce-scatter':
                sizes = [min(filter(lambda size: size > 4, sizes), default=0)]
            else:
                sizes = [max(sizes)]
        chain = re.findall(r'(?:channel_|chain_)id="?\d+', line) if is_carried else []
        key = kind, *(chain or (len(self.collectives),))
        self.collectives.setdefault(key, (sum(sizes), times, max(_group_size(line), 1)))

    def summarize_collectives(self) -> tuple[dict, float]:
        """(kind -> {'count', 'bytes'}, bytes that a device receives at least)."""
        by_kind, wire = {}, 0.0
        for (kind, *_), (size, times, group) in self.collectives.items():
            total = by_kind.setdefault(kind, {'count': 0, 'bytes': 0})
            total['count'] += times
            total['bytes'] += size * times
            share = (group - 1) / group
            received = {
                'all-reduce': 2 * share,
                'reduce-scatter': group - 1,
                'collective-permute': 1.0,
            }
            wire += times * size * received.get(kind, share)
        return by_kind, wire
