"""Where numbers go: one JSON line a record, TensorBoard, and the console."""

from __future__ import annotations

import json
import pathlib
import sys
from collections.abc import Mapping

from dlkd_jax import files

# tensorboardX imports PyTorch where it is installed, for the sake of its tensors, which takes seconds and memory. A
# module that is None in `sys.modules` is one that cannot be imported.
_hidden = sys.modules.setdefault('torch', None) is None
import tensorboardX  # noqa: E402

if _hidden:
  del sys.modules['torch']


class MetricWriter:
  """Writes scalars by step to `workdir/metrics.jsonl` and to TensorBoard files in `workdir/tensorboard`.

  On resuming, records of steps that will be made again are dropped, so that each step appears once.
  """

  def __init__(self, workdir: pathlib.Path, resumed_step: int = 0):
    """Opens both for appending behind `resumed_step`."""
    self._path = workdir / 'metrics.jsonl'
    self._keep_until(resumed_step)
    self._lines = self._path.open('a', encoding='utf-8')
    self._tensorboard = tensorboardX.SummaryWriter(
      str(workdir / 'tensorboard'), purge_step=resumed_step + 1 if resumed_step else None
    )

  def __enter__(self) -> MetricWriter:
    return self

  def __exit__(self, *exception) -> None:
    self._lines.close()
    self._tensorboard.close()

  def write(self, step: int, scalars: Mapping[str, float]) -> None:
    """Writes the scalars of one step."""
    self._lines.write(json.dumps({'step': step} | {k: float(v) for k, v in scalars.items()}) + '\n')
    self._lines.flush()
    for name, value in scalars.items():
      self._tensorboard.add_scalar(name, float(value), step)

  def _keep_until(self, step: int) -> None:
    if not self._path.exists():
      return
    kept = []
    for line in self._path.read_text(encoding='utf-8').splitlines():
      try:
        record = json.loads(line)
      except json.JSONDecodeError:  # The line that was being written when the run was killed.
        continue
      if record['step'] <= step:
        kept.append(line + '\n')
    files.write_text(self._path, ''.join(kept))
