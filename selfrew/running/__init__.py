"""The parts of a run: its config bound to functions, its turns, files, checkpoints and reports.

Import from it: binding, turns, config, config_files, command_line, overrides, selection, stage,
lock, checkpoint, starts, inputs, status, metrics_log, reuse, turn_stats, turn_files, console,
report, refusal.
It imports: types, mesh, models, tasks, engine, shelves.
"""
