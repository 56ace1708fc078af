"""Limits of runs that the command line names, without what a run needs."""

#: Seconds until a task counts as hung: tiles take seconds to minutes, the largest mesh some ten minutes.
TASK_TIMEOUT = 3600.0
