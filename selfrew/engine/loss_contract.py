"""What a loss asks of the engine: optional fields of Forward, and a reference."""

import inspect

from selfrew.types import Forward

OPTIONAL = Forward._fields[2:]
BY_TOKEN = 'value', 'expect'  # fields of `out` that are not summed over a response


def requested_fields(loss) -> dict:
    """The optional fields of `out` that a bound loss asks for, with what each is asked."""
    given = {
        p.name: p.default for p in inspect.signature(loss).parameters.values() if p.name in OPTIONAL
    }
    return {name: value for name, value in given.items() if value}


def reference_free(loss):
    """Marks a loss that never looks at batch.ref_logp: no reference pass is made for it."""
    loss.is_reference_free = True
    return loss


def is_reference_free(loss) -> bool:
    """Whether a loss, bound or not, is marked as `reference_free`."""
    return getattr(getattr(loss, 'func', loss), 'is_reference_free', False)
