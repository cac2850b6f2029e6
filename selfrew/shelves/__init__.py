"""The parts that a config names: plain functions on shelves, each shelf with one contract.

The contract opens the docstring of the shelf's module.
Import from it: prompts, samplers, scorers, pairs, losses, optimizers, evals, each imported whole.
It imports: types, mesh, models, tasks, engine.
"""
