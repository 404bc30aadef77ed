"""Optimisation: state, schedules, optimiser, train step, checkpoints and the loop."""
