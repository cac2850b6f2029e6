"""Plans a run on TPUs without owning one: `python -m selfrew.plan` compiles its programs.

Import from it: planner (the plan of a config), jobs (what a round samples and trains on), lowering
(its programs), prediction (what each needs and takes), search (the fastest layouts), summary (the
plan as text), chips, hlo.
It imports: types, mesh, models, tasks, engine, shelves, running.
This module and `chips` import no jax, so that chips.ENVIRONMENT can be set before.
"""
