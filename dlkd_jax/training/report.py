"""The end of a run: the final evaluation, its table, and the files it leaves."""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from typing import Any

import ml_collections
from jax.sharding import Mesh

from dlkd_jax import files, multihost
from dlkd_jax.models.student import Student
from dlkd_jax.multihost import log
from dlkd_jax.retrieval.metrics import markdown_table, text_table
from dlkd_jax.training import splits
from dlkd_jax.training.checkpoints import Progress


def evaluate_split(
  config: ml_collections.ConfigDict,
  student: Student,
  params: Any,
  mesh: Mesh,
  split: str,
  should_stop: Callable[[], bool] | None = None,
) -> tuple[dict[str, float], str, str]:
  """Evaluates parameters on a split, the teacher alone beside them.

  Returns:
    Metrics by name (`<split>/fused/SumR`, …), the table as text, and as Markdown.

  Raises:
    Stopped: `should_stop` returned true.
  """
  result = splits.make_evaluator(config, student, mesh, split, teacher=True)(params, should_stop)
  heading = f'{config.data.dataset}, {split}: {len(result.caption_ids):,} captions, {len(result.video_ids):,} videos'
  videos = len(result.video_ids)
  text = f'{heading}\n{text_table(result.metrics, videos)}'
  markdown = f'{heading}\n\n{markdown_table(result.metrics, videos)}'
  return result.as_dict(f'{split}/'), text, markdown


def final_report(
  config: ml_collections.ConfigDict,
  workdir: pathlib.Path,
  student: Student,
  params: Any,
  mesh: Mesh,
  progress: Progress,
  should_stop: Callable[[], bool] | None = None,
) -> dict[str, float]:
  """Evaluates the best parameters on validation and test, as far as the data set has these splits.

  Prints the tables and writes `results.json` and `results.md`.

  Returns:
    The metrics of the splits by name.

  Raises:
    Stopped: `should_stop` returned true; nothing was written.
    OSError: the results cannot be written.
  """
  best = f'epoch {progress.best_epoch} of {progress.evaluated_epochs}, chosen by SumR on validation'
  metrics, markdown = {}, [f'# Results\n\nParameters of {best}.']
  log(f'\nFinal results, {best}')
  for split in splits.names(config, ('val', 'test')):
    values, text, table = evaluate_split(config, student, params, mesh, split, should_stop)
    metrics |= values
    markdown.append(table)
    log(f'\n{text}')
  record = {'best_epoch': progress.best_epoch, 'epochs': progress.evaluated_epochs, 'metrics': metrics}

  def write() -> None:
    files.write_text(workdir / 'results.md', '\n\n'.join(markdown) + '\n')
    files.write_json(workdir / 'results.json', record)

  multihost.on_main(write)
  return metrics
