"""A table from real pictures: trains on composites of real clips, against a ridge regression and chance.

Of films that were extracted, or of a pack of features of trimmed clips (`frames.npz`, `captions.jsonl`), with one
sentence each:

    dlkd extract --videos=clips --captions=captions.jsonl --teacher=none --tokens=minilm --rate=0.2 \
        --student=efficientnet_lite0:efficientnet_lite0.safetensors+i3d:i3d.safetensors@rate=3 --data_dir=data
    python -m dlkd_jax.tools.composites_table --data_dir=data --workdir=runs/clips
    python -m dlkd_jax.tools.composites_table --pack=packs/msrvtt_efficientnet --workdir=runs/composites

For every seed the clips are split, then those of each split are joined to untrimmed videos of four to six, and students
are trained on these by `configs/composites.py`, the paper's and the anchored one, without a teacher and without the
moments. Split, composites and training follow the seed; whatever is chosen is chosen on training and validation, and
the test split is ranked once a row and seed. The same command goes on where it was stopped, and does nothing twice.
"""

from __future__ import annotations

import argparse
import functools
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds

from dlkd_jax import begun, doors, files, multihost, tables
from dlkd_jax import config as config_lib
from dlkd_jax.config_defaults import load_recipe
from dlkd_jax.config_fields import ROUNDING_ALONE
from dlkd_jax.data import sources
from dlkd_jax.files import expand
from dlkd_jax.reporting import bootstrap
from dlkd_jax.retrieval.metrics import chance_metrics, metrics_from_ranks
from dlkd_jax.tools.composites import joining, ridge
from dlkd_jax.training import train as training
from dlkd_jax.video import backbones
from tfds_builders import BuildOptions, CompositesPrvr

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
# The student that is the default, and what it is compared with.
_OURS, _OTHERS = 'anchored', ('ridge_video', 'ridge_moment', 'fused')
_SHARES = 0.56, 0.14, 0.3  # Of the clips, for training, validation and test.


class Seed(NamedTuple):
  """What one seed gave: row → metrics by name, row → ranks `[Q]` on test, and the video `[Q]` of each sentence."""

  metrics: dict[str, dict[str, float]]
  ranks: dict[str, np.ndarray]
  owners: np.ndarray


def build(folder: pathlib.Path, clips: joining.Clips, videos: dict) -> pathlib.Path:
  """Writes the pack of one seed and builds its data set, unless it is there; returns the `data_dir`."""
  data = folder / 'data'
  options = BuildOptions(feature=clips.feature, teacher=False, tokens=joining.TOKENS, num_shards=1)
  builder = CompositesPrvr(data_dir=data, options=options)
  if not builder.is_built():
    joining.write_pack(folder / 'packs', clips, videos)
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=folder / 'packs'))
  return data


def train(folder: pathlib.Path, data: pathlib.Path, argument: str, stop: multihost.StopRequest) -> dict[str, Any]:
  """Trains a student to the end, or reads what it gave; returns scorer → ranks on test.

  Raises:
    ValueError: the folder holds a run of another recipe.
  """
  config = load_recipe('composites', argument)
  config.data.data_dir = str(data)
  # A batch holds as many videos as there are, at most.
  config.data.batch_videos = min(config.data.batch_videos, len(sources.open_source(data, 'composites_prvr', 'train')))
  if (folder / 'results.json').is_file():
    # Results of another recipe are not taken for those of this one.
    config_lib.settle(config, folder, free=ROUNDING_ALONE)
  else:
    training.train(config, folder, stop)
  with np.load(folder / 'ranks.npz', allow_pickle=False) as found:
    return {name.removeprefix('test/'): found[name] for name in found.files if name.startswith('test/')}


def run_seed(seed: int, args: argparse.Namespace, clips: joining.Clips, stop: multihost.StopRequest) -> Seed:
  """Makes everything of one seed."""
  folder, sentences = args.workdir / f'seed_{seed}', clips.sentences()
  split = joining.split_clips(len(clips.ids), sizes(args, clips), seed)
  rounds = {'train': args.rounds, 'val': 1, 'test': 1}
  videos = {name: joining.join(name, rows, seed, rounds[name]) for name, rows in split.items()}
  data = build(folder, clips, videos)
  ranks, penalties = {}, {}
  for name, moments in (('ridge_video', False), ('ridge_moment', True)):
    penalties[name], ranks[name] = ridge.best(sentences, clips.frames, videos, moments)
  epochs = f',epochs={args.epochs}' if args.epochs else ''
  # Ranks of a run are in the order of the captions' ids, which is that of the videos and of the clips in them.
  dual = train(folder / 'dual', data, f'anchored=false,seed={seed}{epochs}', stop)
  ranks |= {name: dual[name] for name in ('inheritance', 'exploration', 'fused')}
  if args.single:
    ranks['single'] = train(folder / 'single', data, f'single,seed={seed}{epochs}', stop)['inheritance']
  ranks['anchored'] = train(folder / 'anchored', data, f'seed={seed}{epochs}', stop)['exploration']
  metrics = {'chance': chance_metrics(len(videos['test'])).as_dict()}
  metrics |= {name: metrics_from_ranks(each).as_dict() for name, each in ranks.items()}
  for name, penalty in penalties.items():
    metrics[name]['penalty'] = penalty
  return Seed(metrics, ranks, ridge.owners(videos['test']))


def markdown(seeds: Sequence[Mapping[str, Mapping[str, float]]]) -> str:
  """Returns the table of metrics: mean ± standard deviation over the seeds (of a sample; one seed has none)."""
  rows = [('', *COLUMNS)]
  for row, label in ROWS.items():
    if row in seeds[0]:
      rows.append((label, *(tables.plus_minus([x[row][name] for x in seeds], n) for name, n in COLUMNS.items())))
  return tables.as_markdown(rows) + '\n'


def differences(seeds: Sequence[Seed]) -> str:
  """Returns the table of what the default student is above others by, with 95 % over videos drawn anew.

  Each caption of each split counts once in the last column; videos are drawn with all their captions.
  """
  rows = [('above … by', *(f'seed {number}' for number in range(len(seeds))), 'all')]
  for other in _OTHERS:
    for metric, digits in (('SumR', 1), ('mAP', 3)):
      values = [
        bootstrap.caption_values(each.ranks[_OURS])[metric] - bootstrap.caption_values(each.ranks[other])[metric]
        for each in seeds
      ]
      most = 1 + max(int(each.owners.max()) for each in seeds)
      owners = [most * number + each.owners for number, each in enumerate(seeds)]
      pairs = [*zip(values, owners, strict=True), (np.concatenate(values), np.concatenate(owners))]
      cells = [tables.with_interval(x.mean(), bootstrap.mean_intervals(x[:, None], own)[0], digits) for x, own in pairs]
      rows.append((f'{ROWS[other]}: {metric}', *cells))
  return tables.as_markdown(rows) + '\n'


def sizes(args: argparse.Namespace, clips: joining.Clips) -> tuple[int, int, int]:
  """Returns how many clips each split has: as asked for, or all of them by fixed shares."""
  if args.clips:
    return tuple(args.clips)
  training_clips, validation_clips, _ = (int(share * len(clips.ids) + 1e-6) for share in _SHARES)
  return training_clips, validation_clips, len(clips.ids) - training_clips - validation_clips


def read(args: argparse.Namespace) -> joining.Clips:
  """Reads the clips; sentences that came without token vectors get them.

  Raises:
    FileNotFoundError: a file or a data set is absent.
    UserError: the clips are not as they should be, or the encoder of sentences is not there.
  """
  if args.data_dir:
    return joining.read_set(args.data_dir)
  clips = joining.read_clips(args.pack)
  return clips._replace(tokens=backbones.open_text_backbone(args.tokens).tokens(clips.texts))


def check_settings(args: argparse.Namespace, clips: joining.Clips) -> None:
  """Notes what a work directory was begun with, and refuses to mix it with anything else.

  Raises:
    UserError: it was begun with other settings.
  """
  now: dict[str, Any] = {'clips': list(sizes(args, clips)), 'rounds': args.rounds, 'epochs': args.epochs}
  if args.pack:
    now['pack'] = {name: (args.pack / name).stat().st_size for name in ('frames.npz', 'captions.jsonl')}
  else:
    now['set'] = {'clips': len(clips.ids), 'frames': sum(map(len, clips.frames)), 'features': clips.frames[0].shape[1]}
  begun.note(args.workdir / 'settings.json', now)


def make_parser() -> argparse.ArgumentParser:
  """Returns the parser of the command line."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  source = parser.add_mutually_exclusive_group(required=True)
  source.add_argument('--pack', type=expand, help='folder with frames.npz and captions.jsonl')
  source.add_argument('--data_dir', type=expand, help='where dlkd extract wrote clips with one caption each')
  parser.add_argument('--workdir', type=expand, required=True, help='data sets, runs and table go here')
  what = 'encoder of the sentences of a --pack, as of dlkd extract (default %(default)s)'
  parser.add_argument('--tokens', default='minilm', help=what)
  parser.add_argument('--text_model', dest='tokens', type='bert:{}'.format, help='its folder: --tokens=bert:FOLDER')
  parser.add_argument('--single', action='store_true', help='also train a student of one branch')
  parser.add_argument('--seeds', type=int, default=3, help='how many, from 0 (default %(default)s)')
  numbers = {'nargs': 3, 'type': int, 'metavar': ('TRAIN', 'VAL', 'TEST')}
  parser.add_argument('--clips', help='clips of each split (default: 56, 14 and 30 %% of all)', **numbers)
  parser.add_argument('--rounds', type=int, default=1, help='videos that a train clip is used in (default %(default)s)')
  parser.add_argument('--epochs', type=int, default=0, help='length of each training (default: the recipe)')
  return parser


def make_table(args: argparse.Namespace) -> int | None:
  """Makes the table that is asked for, writes and prints it; returns an exit code where it was stopped."""
  stop, clips = multihost.StopRequest(), read(args)
  check_settings(args, clips)
  try:
    with stop:
      seeds = [run_seed(seed, args, clips, stop) for seed in range(args.seeds)]
  except multihost.Stopped as stopped:
    print(stop.describe(stopped), file=sys.stderr)
    return stop.code
  found = [each.metrics for each in seeds]
  files.write_json(args.workdir / 'table.json', found)
  files.write_text(args.workdir / 'table.md', text := f'{markdown(found)}\n{differences(seeds)}')
  print(text)
  return None


def main(argv: list[str] | None = None) -> None:
  """Parses the command line and makes the table; errors of the user's input end with one message and exit code 1."""
  args = make_parser().parse_args(argv)
  if code := doors.guarded(functools.partial(make_table, args)):
    sys.exit(code)


if __name__ == '__main__':
  main()
