"""Evaluation of retrieval: ranks and metrics, the blockwise evaluation of a gallery, tables of results.

`metrics` is numpy alone, `scoring` and `evaluation` run a gallery in blocks, `evaluator` binds them to a student,
`tables` renders what they found.
"""
