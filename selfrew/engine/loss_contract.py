"""What a loss asks of the engine: optional fields of Forward, a reference, mismatched responses."""

import inspect

# `value` comes with `expect`, Batch.ref_token_logp with `token_logp`.
OPTIONAL_FIELDS = 'entropy', 'contrast', 'expect', 'token_logp'
PER_TOKEN_FIELDS = 'value', 'expect', 'token_logp'  # not summed over a response


def requested_fields(loss) -> dict:
    """The optional fields of Forward that a bound loss asks for, name -> argument.

    A loss asks with a parameter of the field's name; its bound or default value is the argument,
    and a false one asks for nothing.
    """
    parameters = inspect.signature(loss).parameters.values()
    return {p.name: p.default for p in parameters if p.name in OPTIONAL_FIELDS and p.default}


def reference_free(loss):
    """Marks a loss that never reads batch.ref_logp.

    A reference pass is then made only where responses were sampled, to measure the gap of trainer
    and sampler.
    """
    loss.is_reference_free = True
    return loss


def with_mismatched(loss):
    """Marks a loss that reads, as the last response of each example, one to another prompt.

    Packing adds it, see packing.with_mismatched. It has no label and no score.
    """
    loss.takes_mismatched = True
    return loss


def takes_mismatched(loss) -> bool:
    """Whether a loss, bound or not, is marked as `with_mismatched`."""
    return getattr(getattr(loss, 'func', loss), 'takes_mismatched', False)


def is_reference_free(loss) -> bool:
    """Whether a loss, bound or not, is marked as `reference_free`."""
    return getattr(getattr(loss, 'func', loss), 'is_reference_free', False)
