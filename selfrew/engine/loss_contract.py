"""What a loss asks of the engine: optional fields of Forward, a reference, mismatched responses."""

import inspect

# Batch.ref_token_logp comes with `token_logp`.
OPTIONAL_FIELDS = 'entropy', 'contrast', 'value', 'expect', 'token_logp'
PER_TOKEN_FIELDS = 'value', 'expect', 'token_logp'  # not summed over a response


def requested_fields(loss) -> dict:
    """The optional fields of Forward that a bound loss asks for, name -> argument.

    A loss asks with a parameter of the field's name; its bound or default value is the argument,
    and a false one asks for nothing. A sum of losses asks for what any of them asks for.
    """
    parameters = inspect.signature(loss).parameters.values()
    fields = {p.name: p.default for p in parameters if p.name in OPTIONAL_FIELDS and p.default}
    return fields | merged_fields(_summed(loss))


def merged_fields(losses: tuple) -> dict:
    """What the losses of a sum ask for together, see `requested_fields`.

    Raises ValueError where two ask for a field with different arguments.
    """
    fields = {}
    for part in losses:
        for name, argument in requested_fields(part).items():
            if fields.setdefault(name, argument) != argument:
                raise ValueError(
                    f'losses of one sum ask for {name}={fields[name]!r} and {name}={argument!r}; '
                    f'want the same'
                )
    return fields


def _summed(loss) -> tuple:
    """The bound losses of a bound sum of losses; () of any other loss."""
    return getattr(loss, 'keywords', {}).get('losses', ())


def _is_marked(loss, mark: str) -> bool:
    """Whether a loss, bound or not, or any of a sum, has a mark."""
    own = getattr(getattr(loss, 'func', loss), mark, False)
    return own or any(_is_marked(part, mark) for part in _summed(loss))


def checked_by(check):
    """Marks a loss whose options `check(**options)`, called when it is bound, refuses with a
    ValueError.
    """

    def mark(loss):
        loss.check_options = check
        return loss

    return mark


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
    """Whether a loss, bound or not, or any of a sum, is marked as `with_mismatched`."""
    return _is_marked(loss, 'takes_mismatched')


def with_old_logp(loss):
    """Marks a loss that reads Batch.old_token_logp; it asks for `token_logp`, too."""
    loss.reads_old_logp = True
    return loss


def reads_old_logp(loss) -> bool:
    """Whether a loss, bound or not, or any of a sum, is marked as `with_old_logp`."""
    return _is_marked(loss, 'reads_old_logp')


def of_frozen_trunk(loss):
    """Marks a loss of values whose expectation is under the model as it is: train.only='value'."""
    loss.wants_frozen_trunk = True
    return loss


def wants_frozen_trunk(loss) -> bool:
    """Whether a loss, bound or not, or any of a sum, is marked as `of_frozen_trunk`."""
    return _is_marked(loss, 'wants_frozen_trunk')


def reads_values(loss) -> bool:
    """Whether a bound loss asks for a field that the value head gives."""
    return not {'value', 'expect'}.isdisjoint(requested_fields(loss))


def reads_reference_of_tokens(loss) -> bool:
    """Whether a bound loss gets Batch.ref_token_logp."""
    return not is_reference_free(loss) and 'token_logp' in requested_fields(loss)


def without_mismatched(out, batch):
    """(out, batch) without the last response of each example."""
    fields = {name: x for name, x in out._asdict().items() if x is not None}
    cut = {name: x[:, :-1] for name, x in fields.items() if name not in PER_TOKEN_FIELDS}
    columns = 'ref_logp', 'scores', 'labels', 'ended'
    return out._replace(**cut), batch._replace(
        lengths=batch.lengths[:-1], **{name: getattr(batch, name)[:, :-1] for name in columns}
    )


def is_reference_free(loss) -> bool:
    """Whether a loss, bound or not, or all of a sum, are marked as `reference_free`."""
    if parts := _summed(loss):
        return all(map(is_reference_free, parts))
    return getattr(getattr(loss, 'func', loss), 'is_reference_free', False)
