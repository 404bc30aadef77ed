"""What a training logged, by epochs: losses, validation, and the coefficients that were in force."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Mapping

import numpy as np

COEFFICIENTS = {'schedule/distillation': 'w', 'schedule/alpha': 'alpha', 'schedule/beta': 'beta'}
_TERMS = {'nce': 'contrastive'}


@dataclasses.dataclass(frozen=True)
class TrainingLog:
  """Series of a training; x is in epochs, 1 at the end of the first, 0 before it.

  Attributes:
    losses: label → `[n, 2]` x and value, means since the record before; without those that are 0 throughout.
    coefficients: 'w', 'alpha' and 'beta' → `[n, 2]`.
    validation: scorer → `[e, 2]` x and SumR.
  """

  losses: Mapping[str, np.ndarray]
  coefficients: Mapping[str, np.ndarray]
  validation: Mapping[str, np.ndarray]


def read_log(workdir: pathlib.Path) -> TrainingLog | None:
  """Reads `metrics.jsonl` of a run; None where there is none, or no epoch was finished.

  A last line that was cut off is passed over.
  """
  path = workdir / 'metrics.jsonl'
  records = []
  for line in path.read_text(encoding='utf-8').splitlines() if path.is_file() else ():
    try:
      records.append(json.loads(line))
    except json.JSONDecodeError:
      continue
  evaluated = [record for record in records if any(name.startswith('val/') for name in record)]
  if not evaluated:
    return None
  # Of an epoch: each ends with an evaluation; a student that starts from anchors is evaluated before the first, too.
  steps = min((record['step'] for record in evaluated if record['step']), default=1)

  def series(name: str) -> np.ndarray:
    return np.array([[record['step'] / steps, record[name]] for record in records if name in record]).reshape(-1, 2)

  logged = sorted({name for record in records for name in record if _is_term(name)})
  logged.sort(key=lambda name: name != 'loss/total')
  losses = {_label(name): series(name) for name in logged}
  names = {name.split('/')[1] for record in evaluated for name in record if name.endswith('/SumR')}
  return TrainingLog(
    losses={label: x for label, x in losses.items() if len(x) and np.any(x[:, 1] != 0)},
    coefficients={label: x for name, label in COEFFICIENTS.items() if len(x := series(name))},
    validation={name: series(f'val/{name}/SumR') for name in sorted(names)},
  )


def _is_term(name: str) -> bool:
  """Whether a series is of the total, of a term of it (`loss/<branch>/<term>`), or of one of former runs."""
  return name in ('loss/total', 'loss/distillation') or (
    name.startswith('loss/') and name.count('/') == 2 and not name.startswith('loss/distillation/')
  )


def _label(name: str) -> str:
  """Returns 'inheritance, contrastive' for 'loss/inheritance/nce'."""
  return ', '.join(_TERMS.get(part, part) for part in name.split('/')[1:])
