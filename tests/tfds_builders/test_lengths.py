"""The lengths file of a built split tells what its records hold, and is written with them or not at all."""

import numpy as np
import pytest
import tensorflow_datasets as tfds

from tests.tfds_builders import pack_writer
from tfds_builders import build, lengths


@pytest.mark.parametrize('flags', [[], ['--no_teacher'], ['--num_shards=1']])
def test_it_is_that_of_the_records(flags, tmp_path):
  written = pack_writer.write(tmp_path / 'pack')
  assert build.main(['tvr', f'--manual_dir={written.root}', f'--data_dir={tmp_path / "data"}', *flags]) == 0
  folder = tmp_path / 'data' / 'tvr_prvr' / '1.0.0'
  builder = tfds.builder_from_directory(folder)
  assert sorted(path.name for path in folder.glob('lengths-*')) == [
    f'lengths-{split}.npz' for split in sorted(builder.info.splits)
  ]
  for split in builder.info.splits:
    records = list(builder.as_data_source(split))
    with np.load(folder / f'lengths-{split}.npz', allow_pickle=False) as found:
      assert {found[name].dtype for name in found.files} == {np.dtype(np.int32)}
      assert found['student'].tolist() == [len(record['student_frames']) for record in records]
      assert found['teacher'].tolist() == [len(record.get('teacher_frames', ())) for record in records]
      assert found['captions'].tolist() == [len(record['token_lengths']) for record in records]
      assert found['tokens'].tolist() == [n for record in records for n in record['token_lengths']]


def test_a_build_that_fails_leaves_none(tmp_path, monkeypatch):
  written = pack_writer.write(tmp_path / 'pack')

  def full(self, folder, split):
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr(lengths.SplitLengths, 'write', full)
  with pytest.raises(OSError, match='No space'):
    tfds.builder('tvr_prvr', data_dir=tmp_path / 'data').download_and_prepare(
      download_config=tfds.download.DownloadConfig(manual_dir=written.root)
    )
  assert not list((tmp_path / 'data').rglob('lengths-*')) and not list((tmp_path / 'data').rglob('dataset_info.json'))


def test_a_split_without_records(tmp_path):
  lengths.SplitLengths().write(tmp_path, 'train')
  with np.load(tmp_path / 'lengths-train.npz', allow_pickle=False) as found:
    assert {name: found[name].size for name in found.files} == {'student': 0, 'teacher': 0, 'captions': 0, 'tokens': 0}
