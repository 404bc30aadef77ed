"""Builds a data set: `dlkd build charades --manual_dir=… --data_dir=…`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import NoReturn

import tensorflow_datasets as tfds
from absl import logging

from dlkd_jax import commands, doors
from dlkd_jax.files import expand
from tfds_builders.base_builder import PrvrBuilder
from tfds_builders.custom_prvr.custom_prvr_dataset_builder import Builder as CustomPrvr
from tfds_builders.options import DTYPES, POOLINGS, BuildOptions
from tfds_builders.packs import PACKS
from tfds_builders.synthetic_prvr.config import option_fields
from tfds_builders.synthetic_prvr.synthetic_prvr_dataset_builder import Builder as SyntheticPrvr

_DESCRIPTION = """\
Builds one data set for partially relevant video retrieval: sharded array_record files with one
video a record, read by TFDS without TensorFlow.

  dlkd build COLLECTION [options]
  dlkd build COLLECTION --help      all options of one collection
"""

_PACK_EPILOG = """\
what --manual_dir must hold:
  {name}/TextData/{name}train.caption.txt           "<video>#enc#<k> <sentence>" a line; also val, test
  {name}/TextData/roberta_{name}_query_feat.hdf5    tokens of each caption
  {name}/TextData/clip_ViT_B_32_{name}_query_feat.hdf5             the teacher's text features
  {name}/FeatureData/new_clip_vit_32_{name}_vid_features.hdf5      the teacher's frame features
  {name}/FeatureData/{feature}/     feature.bin, id.txt, shape.txt, video2frames.txt; or feature.hdf5
  {name}/TextData/{name}.moments.json               optional: caption -> [start, end, duration] in s

examples:
  dlkd build {name} --manual_dir=packs --data_dir=data
  dlkd build {name} --manual_dir=packs --data_dir=data32 --dtype=float32
  dlkd build {name} --manual_dir=packs --data_dir=alone --no_teacher
  dlkd build {name} --manual_dir=packs --data_dir=data_l14 \\
      --teacher_frames=clip_ViT_L_14_{name}_vid_features.hdf5 \\
      --teacher_text=clip_ViT_L_14_{name}_query_feat.hdf5

A second run finds the finished set and says so. An interrupted one leaves nothing that looks
finished: run the same command again.
"""

_CUSTOM_EPILOG = """\
--manual_dir is the folder that an extraction leaves beside a data set; the extraction packs it itself:
  dlkd extract --videos=films --captions=captions.jsonl --data_dir=data
  dlkd build custom --manual_dir=data/custom_prvr_extracted --data_dir=other

Videos that the newest version of the set lacks make a new version, 1.0.1, 1.0.2, …: files are added, none is rewritten.
With --update, changed videos make one, too: files that held them are written again without them.
"""

_SYNTHETIC_EPILOG = """\
examples:
  dlkd build synthetic --data_dir=data                     the small set, for tests
  dlkd build synthetic --data_dir=data --config=demo       the one of run.sh
  dlkd build synthetic --data_dir=data --config=demo --num_train=5000 --seed=7

Changed numbers make a folder of their own, named after them.
"""


class _Parser(argparse.ArgumentParser):
  """Says what is wrong as all commands do."""

  def error(self, message: str) -> NoReturn:
    print(f'error: {message}; --help shows what there is', file=sys.stderr)
    sys.exit(1)


def make_parser() -> argparse.ArgumentParser:
  """Returns the parser of the command line."""
  raw = argparse.RawDescriptionHelpFormatter
  parser = _Parser(
    prog=commands.as_called('dlkd build'),
    description=commands.as_called(_DESCRIPTION),
    formatter_class=raw,
    epilog=commands.as_called('example:\n  dlkd build charades --manual_dir=packs --data_dir=data'),
  )
  collections = parser.add_subparsers(dest='collection', required=True, metavar='COLLECTION')
  for name, builder in PACKS.items():
    sub = collections.add_parser(
      name,
      help=f'{name}_prvr from a feature pack',
      description=f'Builds {name}_prvr from a feature pack in the release layout.',
      formatter_class=raw,
      epilog=commands.as_called(_PACK_EPILOG).format(name=name, feature=builder.COLLECTION.feature),
    )
    _add_pack_options(sub, builder.COLLECTION.feature)
    _add_common_options(sub)
  sub = collections.add_parser(
    'custom',
    help='custom_prvr, your own videos, from what an extraction left',
    description='Builds custom_prvr from the features that were extracted from videos, or adds what is new of them.',
    formatter_class=raw,
    epilog=commands.as_called(_CUSTOM_EPILOG),
  )
  sub.add_argument('--manual_dir', type=expand, required=True, help='folder that the extraction left')
  sub.add_argument('--update', action='store_true', help='write records anew of which the features changed')
  _add_common_options(sub, teacher=False)
  sub = collections.add_parser(
    'synthetic',
    help='synthetic_prvr, generated: needs no files',
    description='Generates synthetic_prvr, a world of moments, backgrounds and captions.',
    formatter_class=raw,
    epilog=commands.as_called(_SYNTHETIC_EPILOG),
  )
  _add_common_options(sub)
  _add_synthetic_options(sub)
  return parser


def _add_common_options(parser: argparse.ArgumentParser, teacher: bool = True) -> None:
  parser.add_argument(
    '--data_dir',
    type=expand,
    required=True,
    help='folder of built data sets; this one goes below it',
  )
  parser.add_argument(
    '--dtype',
    choices=DTYPES,
    default='float16',
    help='type features are stored in (default %(default)s)',
  )
  parser.add_argument(
    '--num_shards',
    type=int,
    help='files per split (default: near 384 MB each, 4 at least)',
  )
  if teacher:
    parser.add_argument('--no_teacher', action='store_true', help='build without teacher features, for training alone')


def _add_pack_options(parser: argparse.ArgumentParser, feature: str) -> None:
  parser.add_argument(
    '--manual_dir',
    type=expand,
    required=True,
    help='folder that holds the pack, a folder a collection',
  )
  parser.add_argument('--feature', help=f'student features, a name below FeatureData (default {feature})')
  parser.add_argument('--splits', default='train,val,test', help='splits to build (default %(default)s)')
  parser.add_argument('--tokens', metavar='FILE', help='token features, in TextData (default: roberta…, by name)')
  parser.add_argument('--teacher_frames', metavar='FILE', help='in FeatureData (default: found by name, *clip*)')
  parser.add_argument('--teacher_text', metavar='FILE', help='in TextData (default: found by name, *clip*)')
  parser.add_argument(
    '--pool_teacher_text',
    choices=POOLINGS,
    help='reduce token sequences in the teacher text file to one row (default: refuse them)',
  )


def _add_synthetic_options(parser: argparse.ArgumentParser) -> None:
  configs = {config.name: config for config in SyntheticPrvr.BUILDER_CONFIGS}
  parser.add_argument('--config', choices=sorted(configs), default='small', help='start from (default %(default)s)')
  for field in option_fields():
    values = ', '.join(f'{name} {getattr(each, field.name)}' for name, each in configs.items())
    parser.add_argument(f'--{field.name}', type=type(field.default), help=f'{field.metadata["help"]} ({values})')


def make_builder(args: argparse.Namespace) -> PrvrBuilder:
  """Returns the builder that the arguments ask for.

  Raises:
    PackError: an option has a value that is not allowed.
  """
  if args.collection == 'custom':
    asked = BuildOptions(dtype=args.dtype, num_shards=args.num_shards)
    return CustomPrvr(data_dir=args.data_dir, options=asked, extracted=args.manual_dir, update=args.update)
  common = {
    'dtype': args.dtype,
    'num_shards': args.num_shards,
    'teacher': not args.no_teacher,
  }
  if args.collection == 'synthetic':
    names = [field.name for field in option_fields()]
    changes = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    config = SyntheticPrvr.builder_configs[args.config].changed(**changes)
    return SyntheticPrvr(data_dir=args.data_dir, config=config, options=BuildOptions(**common))
  asked = BuildOptions(
    **common,
    feature=args.feature,
    splits=tuple(name.strip() for name in args.splits.split(',') if name.strip()),
    tokens=args.tokens,
    teacher_frames=args.teacher_frames,
    teacher_text=args.teacher_text,
    pool_teacher_text=args.pool_teacher_text,
  )
  return PACKS[args.collection](data_dir=args.data_dir, options=asked)


def _build(args: argparse.Namespace) -> None:
  builder = make_builder(args)
  found = builder.is_built()
  manual_dir = getattr(args, 'manual_dir', None)
  builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=manual_dir))
  state = 'is already built, and as asked for' if found else 'is built'
  print(f'{builder.info.full_name} {state}: {builder.data_dir}')
  print(builder.describe())


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command line.

  Args:
    argv: arguments without the program's name; None: those of the process.

  Returns:
    0 where the set is there now; else 1 after a message on what is wrong, and as all commands after a signal.
  """
  args = make_parser().parse_args(argv)
  logging.use_absl_handler()
  doors.escape_output()
  # Stopped in an orderly way, so that a terminated build removes its temporary folder.
  return doors.stoppable(lambda: _build(args), 'interrupted: nothing was built; run the same command again')


if __name__ == '__main__':
  sys.exit(main())
