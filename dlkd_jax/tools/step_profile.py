"""Where the time of a compiled step goes: a profiler's trace joined with the operations that the program names."""

from __future__ import annotations

import collections
import gzip
import json
import pathlib
import re

# First match wins. An operation is named by the path of modules and primitives that it came from.
KINDS = (
  ('matrix products', r'dot_general'),
  ('dropout: random bits and masks', r'dropout|draw_seeds|fold_in'),
  ('layer normalisation', r'norm'),
  ('attention: softmax, scores', r'attention'),
  ('encoders: other (ReLU, positions, biases)', r'encode_'),
  ('similarity and losses', r'jvp|transpose'),
  ('optimiser, metrics', r''),
)


def operation_names(hlo: str) -> dict[str, str]:
  """Maps each instruction of a compiled program's text to the name of the operation that it came from."""
  pattern = re.compile(r'^\s*(?:ROOT )?%?([\w.\-]+) = .*metadata=\{op_name="([^"]*)"', re.MULTILINE)
  return dict(pattern.findall(hlo))


def time_by_kind(trace: pathlib.Path, hlo: str) -> dict[str, float]:
  """Sums the time of a trace by kind of operation.

  Args:
    trace: folder that `jax.profiler.trace` wrote; its newest trace is read.
    hlo: text of the compiled program that was traced.

  Returns:
    Kind → share of the time that threads spent in operations, most first.

  Raises:
    FileNotFoundError: the folder holds no trace.
  """
  files = sorted(trace.glob('plugins/profile/*/*.trace.json.gz'))
  if not files:
    raise FileNotFoundError(f'{trace} holds no trace; expected what jax.profiler.trace writes.')
  with gzip.open(files[-1], 'rt', encoding='utf-8') as file:
    events = json.load(file)['traceEvents']
  names = operation_names(hlo)
  spent: dict[str, float] = collections.Counter()
  for event in events:
    if event.get('ph') != 'X' or 'hlo_op' not in event.get('args', {}):
      continue
    operation = event['args']['hlo_op']  # On a GPU events are named by kernels.
    if re.match(r'(while|call|conditional)[.\d]*$', operation):
      continue  # It spans the operations inside, which are counted themselves.
    name = names.get(operation, '')
    spent[next(kind for kind, pattern in KINDS if re.search(pattern, name))] += event['dur']
  total = sum(spent.values())
  return {kind: duration / total for kind, duration in sorted(spent.items(), key=lambda item: -item[1])}
