"""Evaluation of retrieval: `evaluate` runs a split through a student, `ranking` scores it on devices, `metrics`."""
