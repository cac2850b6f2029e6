"""The parts of a run: its config bound to functions, its turns, files, checkpoints and reports.

Import from it: binding, turns, config, selection, stage, checkpoint, metrics_log, turn_stats,
turn_files, console, report, refusal.
It imports: types, mesh, models, tasks, engine, shelves.
"""
