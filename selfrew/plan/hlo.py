"""Reads the text of a program that XLA compiled for TPUs: its kernels, its collectives, its loops.
Layer 0.
"""

import math
import re

COLLECTIVES = 'all-gather', 'all-reduce', 'reduce-scatter', 'all-to-all', 'collective-permute'
HEADER = re.compile(r'^(ENTRY )?%?([\w.\-]+) \(.*\) -> (.*) \{$')
LINE = re.compile(r'^\s+(?:ROOT )?%?[\w.\-]+ = (.*?) ([a-z][a-z0-9\-]*)\((.*)$')
NAMES = r'=\{?(%[\w.\-]+(?:, ?%[\w.\-]+)*)'
CALLED = re.compile(
    r'\b(calls|to_apply|body|condition|branch_computations|called_computations)' + NAMES
)
ARRAY = re.compile(r'\b(pred|[a-z]+\d+[a-z0-9]*)\[([\d,]*)\]')


def shape_bytes(shape: str) -> list[int]:
    """Bytes of each array in an HLO shape: 'f32[8,2]{1,0}' -> [64]; of a tuple, of each part."""
    bits = lambda kind: 8 if kind == 'pred' else int(re.search(r'\d+', kind)[0])
    return [
        math.prod(map(int, filter(None, dims.split(',')))) * bits(kind) // 8
        for kind, dims in ARRAY.findall(shape)
    ]


def _group(line: str) -> int:
    """How many devices take part in one group of a collective; 1 where the text does not say."""
    if mesh := re.search(r'replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}', line):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", mesh[1]))
        return math.prod(int(sizes.get(axis, 1)) for axis in re.findall(r"'(\w+)'", mesh[2]))
    if iota := re.search(r'replica_groups=\[(\d+),(\d+)\]', line):
        return int(iota[2])
    first = re.search(r'replica_groups=\{\{([\d,]*)\}', line)
    return len(first[1].split(',')) if first else 1


def read(text: str) -> dict:
    """What a compiled module does, per device, loops counted as often as they run.

    Returns 'cycles', the compiler's estimates for its kernels; 'untimed', sorts and Pallas kernels,
    which have none; 'collectives', kind -> {'count', 'bytes'} with the bytes of the outputs;
    'wire', the bytes that a device receives for them, at least; 'unknown', loops counted once
    because their length could not be read. An asynchronous collective counts once: where it starts,
    or, where kernels carry it on, once a channel and chain. A sum of which each device keeps a
    part, fused with the slicing, is a reduce-scatter.
    """
    bodies, entry, name = {}, None, None
    for line in text.splitlines():
        if head := HEADER.match(line):
            name = head[2]
            bodies[name] = (head[3], [])
            entry = name if head[1] else entry
        elif name and (read := LINE.match(line)):
            bodies[name][1].append((read[1], read[2], line))
    found, unknown, untimed = {}, 0, 0
    cycles = wire = 0.0

    def length(condition):
        """The constant that a loop's counter is compared with, or None."""
        constants = [
            re.search(r'constant\((\d+)\)', line)
            for shape, op, line in bodies[condition][1]
            if op == 'constant' and re.match(r'[su]\d+\[\]', shape)
        ]
        return int(constants[0][1]) if len(constants) == 1 and constants[0] else None

    def visit(name, times, kernel):
        nonlocal cycles, unknown, untimed
        out, lines = bodies.get(name, ('', []))
        for shape, op, line in lines:
            estimate = None if kernel else re.search(r'"estimated_cycles":"(\d+)"', line)
            cycles += (
                times * int(estimate[1]) if estimate and int(estimate[1]) < 2**62 else 0
            )  # more: it has none
            bare = op == 'sort' or 'custom_call_target="tpu_custom_call"' in line
            untimed += times * (bare and not kernel and not estimate)
            kind = op.removesuffix('-start')
            if kind in COLLECTIVES:
                count(
                    kind,
                    op,
                    out if name.startswith('all-reduce-scatter') else shape,
                    line,
                    times,
                    name,
                    kernel,
                )
            called = {
                key: [c.strip(' %') for c in names.split(',')]
                for key, names in CALLED.findall(line)
            }
            if op == 'while':
                known = re.search(r'"known_trip_count":\{"n":"(\d+)"', line)
                turns = int(known[1]) if known else length(called['condition'][0])
                unknown += turns is None
                visit(called['body'][0], times * (turns or 1), kernel)
            elif kind not in COLLECTIVES:
                inner = kernel or op in (
                    'fusion',
                    'custom-call',
                    'reduce',
                    'sort',
                    'scatter',
                    'map',
                )
                for other in (n for names in called.values() for n in names):
                    visit(other, times, inner)

    def count(kind, op, shape, line, times, where, kernel):
        if where.startswith('all-reduce-scatter'):
            kind = 'reduce-scatter'
        sizes, group = shape_bytes(shape), max(_group(line), 1)
        if (
            op.endswith('-start') and len(sizes) > 1
        ):  # operands, results, and what the hardware keeps
            sizes = [
                min(filter(lambda s: s > 4, sizes), default=0)
                if kind == 'reduce-scatter'
                else max(sizes)
            ]
        carried = kernel and not where.startswith('all-reduce-scatter')
        chain = re.findall(r'(?:channel_|chain_)id="?\d+', line) if carried else []
        found.setdefault((kind, *(chain or (len(found),))), (sum(sizes), times, group))

    visit(entry, 1, False)
    collectives = {}
    for (kind, *_), (size, times, group) in found.items():
        one = collectives.setdefault(kind, {'count': 0, 'bytes': 0})
        one['count'] += times
        one['bytes'] += size * times
        share = (group - 1) / group
        received = {'all-reduce': 2 * share, 'reduce-scatter': group - 1, 'collective-permute': 1.0}
        wire += times * size * received.get(kind, share)
    return {
        'cycles': cycles,
        'collectives': collectives,
        'wire': wire,
        'unknown': unknown,
        'untimed': untimed,
    }
