"""Several losses in one. The builtin `sum` is not used here: a part of the shelf has its name."""

from selfrew.engine import loss_contract


def _check_sum(losses: tuple, weights: tuple) -> None:
    """Raises ValueError for sums that cannot be."""
    if len(losses) != len(weights) or not losses:
        raise ValueError(
            f'{len(losses)} losses and {len(weights)} weights; want one weight for each loss, and '
            f'at least one loss'
        )
    names = [loss.func.__name__ for loss in losses]
    if len(set(names)) < len(names):
        raise ValueError(f'losses={names}: want each at most once')
    loss_contract.merged_fields(losses)
    for weight in weights:
        if isinstance(weight, bool) or not isinstance(weight, (int, float)):
            raise ValueError(f'weights={weights}: want numbers')


@loss_contract.checked_by(_check_sum)
def sum(out, batch, key, *, losses: tuple, weights: tuple):
    """The weighted sum of several losses, each an entry of this shelf.

    {'name': 'sum', 'losses': [{'name': 'apo_zero'}, {'name': 'sft'}], 'weights': (1.0, 0.2)}

    It asks for what any of them asks for, see loss_contract. A metric that two of them have is the
    first one's; 'losses/NAME' is the value of each, without its weight.
    Raises ValueError, when it is bound, where the numbers of losses and weights differ or are 0,
    where one comes twice, or where two want a field of `out` computed differently.
    """
    is_mismatched = any(map(loss_contract.takes_mismatched, losses))
    total, metrics = 0.0, {}
    for loss, weight in zip(losses, weights):
        seen = out, batch
        if is_mismatched and not loss_contract.takes_mismatched(loss):
            seen = loss_contract.without_mismatched(out, batch)
        loss_B, its_metrics = loss(*seen, key)
        total = total + weight * loss_B
        metrics = its_metrics | metrics | {f'losses/{loss.func.__name__}': loss_B}
    return total, metrics
