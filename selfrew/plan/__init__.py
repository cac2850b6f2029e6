"""Compiles a run's programs for a TPU that is not there: `python -m selfrew.plan`.

Import from it: planner, chips, hlo. This module imports no jax: what jax looks for is set before,
see chips.
It imports: all but the other doors.
"""
