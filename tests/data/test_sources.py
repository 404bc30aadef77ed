"""Opening a built set, and what is said where there is none."""

import pathlib
import subprocess
import sys

import numpy as np
import pytest

from dlkd_jax.data.evaluation_blocks import caption_blocks, video_blocks
from dlkd_jax.data.sources import DamagedFileError, Lengths, open_lengths, open_source, text, texts
from dlkd_jax.data.train_pipeline import train_pipeline
from dlkd_jax.tools import benchmark_input
from tests import options as made
from tests.paths import repository
from tfds_builders import build

LENGTHS = Lengths(np.full(6, 5), np.full(6, 4), np.full(6, 2), np.full(12, 3))


@pytest.fixture(scope='module')
def built(tmp_path_factory):
  folder = tmp_path_factory.mktemp('built')
  return folder, benchmark_input.write_random_set(folder, LENGTHS, (6, 4, 3))


def test_a_built_set_flows_through(built):
  source = open_source(*built, 'train')
  assert len(source) == 6
  options = made.pipeline_options(batch_videos=4)
  batch = next(iter(train_pipeline(source, options, seed=0))).check()
  assert batch.frame_layout.mask.sum() == 4 * 4 and batch.token_layout.mask.sum() == 4 * 2 * 3
  ids = [video for block in video_blocks(source, options, 4) for video in block.ids]
  assert sorted(ids) == [f'video_{index:05d}' for index in range(6)]
  assert sum(len(block.ids) for block in caption_blocks(source, options, 5)) == 12
  record = source[ids.index('video_00003')]
  assert record['student_frames'].dtype == np.float16 and record['student_frames'].shape == (5, 6)


@pytest.fixture
def damaged(tmp_path):
  """A set of two files whose second may be damaged, and its name."""
  assert build.main(['synthetic', f'--data_dir={tmp_path}', '--num_train=10', '--num_shards=2']) == 0
  folder = next(tmp_path.rglob('features.json')).parent
  return tmp_path, str(folder.relative_to(tmp_path)), sorted(folder.glob('*-train.array_record*'))[1]


def test_absent_files_are_named_at_once(damaged):
  folder, name, file = damaged
  file.unlink()
  with pytest.raises(FileNotFoundError, match=rf'1 of the 2 files of split .train. are absent: .*{file.name}; copy'):
    open_source(folder, name, 'train')


def cut(content):
  return content[: len(content) // 2]


def cut_end(content):
  return content[:-10]


def change(content):
  changed = bytearray(content)
  changed[5000] ^= 0xFF  # In the second record or so.
  return bytes(changed)


@pytest.mark.parametrize('damage', [cut, cut_end, change, lambda content: b''])
def test_damaged_files_are_named_by_source_and_pipeline(damaged, damage):
  folder, name, file = damaged
  good = [record['student_frames'].copy() for record in read_all(open_source(folder, name, 'train'))]
  file.write_bytes(damage(file.read_bytes()))
  source = open_source(folder, name, 'train')
  bad = 0
  for index, expected in enumerate(good):
    try:
      np.testing.assert_array_equal(source[index]['student_frames'], expected)
    except DamagedFileError as error:
      bad += 1
      assert f'{file} cannot be read at its record {index - 5} ' in str(error) and 'build it again' in str(error)
  assert 1 <= bad <= 5
  batches = iter(
    train_pipeline(source, made.pipeline_options(batch_videos=10), 0, lengths=open_lengths(folder, name, 'train'))
  )
  with pytest.raises(DamagedFileError, match=file.name):
    next(batches)
  batches.close()


def read_all(source):
  return [source[index] for index in range(len(source))]


def test_records_out_of_range_are_refused(built):
  with pytest.raises(IndexError, match='record 6; there are 6'):
    open_source(*built, 'train')[6]


def test_a_version_may_be_named(built):
  folder, name = built
  assert len(open_source(folder, f'{name}/1.0.0', 'train')) == 6


def test_absent_sets_say_how_to_build_them(built, tmp_path):
  with pytest.raises(FileNotFoundError, match=r'charades_prvr.*holds nothing.*dlkd build charades --manual_dir'):
    open_source(tmp_path, 'charades_prvr', 'train')
  with pytest.raises(FileNotFoundError, match=r"holds \['benchmark_prvr'.*\].*build synthetic --data_dir"):
    open_source(built[0], 'synthetic_prvr', 'train')
  with pytest.raises(FileNotFoundError, match='does not exist'):
    open_source(tmp_path / 'nowhere', 'tvr_prvr', 'train')


def test_absent_splits_are_refused(built):
  with pytest.raises(ValueError, match=r"no split 'val'; it has \['train'\]"):
    open_source(*built, 'val')


def test_the_latest_version_is_taken_and_configurations_are_asked_for(tmp_path):
  def finish(*parts):
    folder = pathlib.Path(tmp_path, *parts)
    folder.mkdir(parents=True)
    (folder / 'dataset_info.json').write_text('{}')

  from dlkd_jax.data import sources

  for version in ('1.9.0', '1.10.0', 'incomplete.AB_2.0.0'):
    finish('tvr_prvr', version)
  assert sources._latest_version(tmp_path, 'tvr_prvr').name == '1.10.0'
  finish('synthetic_prvr', 'small', '1.0.0')
  assert sources._latest_version(tmp_path, 'synthetic_prvr').parent.name == 'small'
  finish('synthetic_prvr', 'large', '1.0.0')
  with pytest.raises(ValueError, match=r'synthetic_prvr/large.*synthetic_prvr/small'):
    sources._latest_version(tmp_path, 'synthetic_prvr')
  assert sources._latest_version(tmp_path, 'synthetic_prvr/large').parent.name == 'large'


def test_texts_are_read_in_every_form():
  assert [text('é'), text('é'.encode()), text(np.array('é'.encode())), text(np.str_('é'))] == ['é'] * 4
  assert texts(np.array([b'a', b'b'], dtype=object)) == ['a', 'b']


def test_reading_needs_no_tensorflow_and_no_torch(built):
  folder, name = built
  code = (
    'import sys\n'
    'from dlkd_jax.data.sources import open_source\n'
    'from dlkd_jax.data.train_pipeline import train_pipeline\n'
    'from tests import options as made\n'
    "assert 'tensorflow_datasets' not in sys.modules\n"
    f'source = open_source({str(folder)!r}, {name!r}, "train")\n'
    'next(iter(train_pipeline(source, made.pipeline_options(batch_videos=4), seed=0)))\n'
    "assert not {'tensorflow', 'torch'} & set(sys.modules)\n"
  )
  subprocess.run([sys.executable, '-c', code], check=True, cwd=repository())
