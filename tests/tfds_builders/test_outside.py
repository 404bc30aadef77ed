"""A data set from outside the package: a row and a recipe of a user's own, built and trained on by the commands."""

import json
import pathlib
import subprocess
import sys

import pytest

from tests import forked
from tests.environment import environment
from tests.tfds_builders import pack_writer
from tfds_builders import PackError, packs

OUTSIDE = pathlib.Path(__file__).with_name('outside')


def test_a_data_set_of_ones_own_is_built_and_trained_on(tmp_path):
  pack_writer.write(tmp_path / 'packs', pack_writer.Variant('crafts', 'clips', videos=(8, 3, 4)))
  data, workdir = tmp_path / 'data', tmp_path / 'run'
  where = (f'--manual_dir={tmp_path / "packs"}', f'--data_dir={data}')
  command = {'cwd': OUTSIDE, 'env': environment(), 'text': True, 'capture_output': True}
  done = subprocess.run([sys.executable, 'crafts.py', 'crafts', *where], **command, check=False)
  assert done.returncode == 0 and 'crafts_prvr/1.0.0 is built' in done.stdout, done.stdout + done.stderr
  info = json.loads((data / 'crafts_prvr/1.0.0/dataset_info.json').read_text())
  assert info['description'] == 'Things that are made by hand.' and 'MSR-VTT' in info['citation']
  small = ('--config.data.packing=False', '--config.data.word_sizes=(30,)', '--config.data.frame_sizes=(128,)')
  small += ('--config.model.dropout=0.0', '--config.model.input_dropout=0.0')  # One program, and less of it.
  arguments = ('--config=recipe.py', f'--config.data.data_dir={data}', f'--workdir={workdir}', *small)
  done = forked.run('dlkd_jax.main', arguments, environment(), OUTSIDE)
  assert done.returncode == 0, done.stdout + done.stderr
  assert json.loads((workdir / 'results.json').read_text())['metrics']


def test_a_row_that_cannot_be_is_refused():
  with pytest.raises(PackError, match=r"'tvr' already .*choose another name"):
    packs.add(packs.Collection('tvr', 'clips', 'Another.'))
  with pytest.raises(PackError, match="called 'My set'; expected small letters"):
    packs.add(packs.Collection('My set', 'clips', 'Mine.'))
  assert list(packs.PACKS) == ['tvr', 'activitynet', 'charades', 'composites']
