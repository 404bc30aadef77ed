"""Every variant of a pack is read back and compared with what was written into it."""

from __future__ import annotations

import pathlib
import pickle

import numpy as np
import pytest
import tensorflow_datasets as tfds

import tfds_builders
from tests.paths import golden, pack
from tests.tfds_builders import pack_writer
from tests.tfds_builders.pack_writer import Variant
from tfds_builders import build

VARIANTS = {
  'release': Variant(),
  'scattered rows': Variant(scattered_rows=True),
  'hdf5 in folder, half': Variant(packing='hdf5 in folder', dtype='float16'),
  'hdf5 beside, two axes': Variant(packing='hdf5 beside', leading_axis=False),
  'charades spelling': Variant(
    collection='charades', feature='i3d_rgb_lgi', caption_spelling='plain', token_spelling='plain', moments=False
  ),
  'captions enc, features plain': Variant(token_spelling='plain', teacher_spelling='enc', leading_axis=False),
  'captions plain, features enc': Variant(caption_spelling='plain', teacher_spelling='enc'),
  'activitynet, untaught val': Variant(
    collection='activitynet', feature='i3d', taught_splits=('train', 'test'), dtype='float16', dims=(9, 3, 7)
  ),
}


def _build(written: pack_writer.Written, data_dir: pathlib.Path, *flags: str) -> int:
  return build.main([written.variant.collection, f'--manual_dir={written.root}', f'--data_dir={data_dir}', *flags])


def _open(written: pack_writer.Written, data_dir: pathlib.Path) -> tfds.core.DatasetBuilder:
  return tfds.builder_from_directory(data_dir / f'{written.variant.collection}_prvr' / '1.0.0')


def _check_record(record: dict, video: pack_writer.Video, dtype: np.dtype, teacher: bool) -> None:
  def same(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, expected.astype(dtype))

  same(record['student_frames'], video.frames)
  same(record['student_tokens'], np.concatenate(video.tokens))
  assert record['token_lengths'].dtype == np.int32
  assert record['token_lengths'].tolist() == [len(rows) for rows in video.tokens]
  assert [text.decode() for text in record['caption_ids']] == list(video.captions)
  assert [text.decode() for text in record['captions']] == list(video.captions.values())
  if not teacher:
    assert 'teacher_frames' not in record
    assert 'teacher_text' not in record
  elif video.teacher_frames is None:
    assert record['teacher_frames'].shape[0] == record['teacher_text'].shape[0] == 0
    assert record['teacher_frames'].ndim == 2
  else:
    same(record['teacher_frames'], video.teacher_frames)
    same(record['teacher_text'], np.concatenate(video.teacher_text))


def _check_moments(record: dict, video: pack_writer.Video, known: bool) -> None:
  assert record['moments'].shape == (len(video.captions), 2)
  if not known:
    assert np.isnan(record['moments']).all()
    assert np.isnan(record['duration'])
    return
  np.testing.assert_array_equal(record['moments'], np.float32([moment[:2] for moment in video.moments]))
  assert np.float32(record['duration']) == np.float32(video.moments[0][2])


def _check(written: pack_writer.Written, builder: tfds.core.DatasetBuilder, dtype='float16', teacher=True) -> None:
  found = {}
  for split in builder.info.splits:
    for record in builder.as_data_source(split):
      name = record['video_id'].decode()
      video = written.videos[name]
      assert (split, name) not in found
      assert video.split == split
      found[split, name] = True
      _check_record(record, video, np.dtype(dtype), teacher)
      _check_moments(record, video, written.variant.moments)
  assert len(found) == len(written.videos)


@pytest.mark.parametrize('name', VARIANTS)
def test_variant_reads_back(name, tmp_path):
  written = pack_writer.write(tmp_path / 'pack', VARIANTS[name])
  assert _build(written, tmp_path / 'data') == 0
  builder = _open(written, tmp_path / 'data')
  _check(written, builder)
  student, token, teacher = written.variant.dims
  assert builder.info.metadata['sizes'] == {'Dv': student, 'Dq': token, 'Dt': teacher}
  assert builder.info.features['student_frames'].shape == (None, student)
  for split, counts in builder.info.metadata['splits'].items():
    videos = [video for video in written.videos.values() if video.split == split]
    assert counts['videos'] == builder.info.splits[split].num_examples == len(videos)
    assert counts['captions'] == sum(len(video.captions) for video in videos)
    assert counts['frames'] == sum(len(video.frames) for video in videos)
    assert counts['max_tokens'] == max(len(rows) for video in videos for rows in video.tokens)
    assert counts['teacher'] == (split in written.variant.taught_splits)


def test_float32_and_number_of_files(tmp_path):
  written = pack_writer.write(tmp_path / 'pack')
  assert _build(written, tmp_path / 'data', '--dtype=float32', '--num_shards=2') == 0
  builder = _open(written, tmp_path / 'data')
  _check(written, builder, dtype='float32')
  assert all(info.num_shards == 2 for info in builder.info.splits.values())
  # The registered builder reads what was built, not what its defaults would build.
  _check(written, tfds.builder('tvr_prvr', data_dir=tmp_path / 'data'), dtype='float32')


def test_several_files_by_default(tmp_path):
  written = pack_writer.write(tmp_path / 'pack')
  assert _build(written, tmp_path / 'data') == 0
  shards = {split: info.num_shards for split, info in _open(written, tmp_path / 'data').info.splits.items()}
  assert shards == {'train': 4, 'val': 3, 'test': 4}  # No empty file: val has 3 videos.


def test_no_teacher(tmp_path):
  written = pack_writer.write(tmp_path / 'pack')
  written.teacher_frames.unlink()
  written.teacher_text.unlink()
  assert _build(written, tmp_path / 'data', '--no_teacher') == 0
  builder = _open(written, tmp_path / 'data')
  _check(written, builder, teacher=False)
  assert builder.info.metadata['sizes']['Dt'] is None


def test_splits_and_other_feature(tmp_path):
  written = pack_writer.write(tmp_path / 'pack', Variant(feature='mine'))
  written.captions('test').unlink()
  assert _build(written, tmp_path / 'data', '--splits=train,val', '--feature=mine') == 0
  assert list(_open(written, tmp_path / 'data').info.splits) == ['train', 'val']


def test_other_teacher_names_are_found(tmp_path):
  written = pack_writer.write(tmp_path / 'pack')
  written.teacher_frames.rename(written.features / 'clip_ViT_L_14_tvr_vid_features.hdf5')
  written.teacher_text.rename(written.text / 'clip_ViT_L_14_tvr_query_feat.h5')
  assert _build(written, tmp_path / 'data') == 0
  _check(written, _open(written, tmp_path / 'data'))


def test_named_files(tmp_path):
  written = pack_writer.write(tmp_path / 'pack')
  written.teacher_frames.rename(written.features / 'a.hdf5')
  written.teacher_text.rename(written.text / 'b.hdf5')
  written.tokens.rename(tmp_path / 'c.hdf5')
  flags = ('--teacher_frames=a.hdf5', '--teacher_text=b.hdf5', f'--tokens={tmp_path / "c.hdf5"}')
  assert _build(written, tmp_path / 'data', *flags) == 0
  _check(written, _open(written, tmp_path / 'data'))


def test_built_from_python(tmp_path):
  written = pack_writer.write(tmp_path / 'pack')
  builder = tfds.builder('tvr_prvr', data_dir=tmp_path / 'data')
  assert not builder.is_built()
  builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=written.root))
  _check(written, builder)
  _check(written, pickle.loads(pickle.dumps(builder)))
  asked = tfds_builders.BuildOptions(dtype='float32')
  with pytest.raises(tfds_builders.PackError, match='float16'):
    tfds.builder('tvr_prvr', data_dir=tmp_path / 'data', options=asked).download_and_prepare()


def test_golden_pack(tmp_path):
  root = golden('pack')
  assert build.main(['tvr', f'--manual_dir={root}', f'--data_dir={tmp_path}']) == 0
  metadata = tfds.builder('tvr_prvr', data_dir=tmp_path).info.metadata
  assert metadata['sizes'] == {'Dv': 24, 'Dq': 16, 'Dt': 8}
  counts = {split: (each['videos'], each['captions']) for split, each in metadata['splits'].items()}
  assert counts == {'train': (12, 37), 'val': (5, 20), 'test': (7, 22)}


def test_charades_pack(tmp_path):
  root = pack('charades')
  assert build.main(['charades', f'--manual_dir={root}', f'--data_dir={tmp_path}', '--splits=val,test']) == 0
  builder = tfds.builder('charades_prvr', data_dir=tmp_path)
  metadata = builder.info.metadata
  assert metadata['sizes'] == {'Dv': 128, 'Dq': 128, 'Dt': 128}
  counts = {split: (each['videos'], each['captions']) for split, each in metadata['splits'].items()}
  assert counts == {'val': (600, 1426), 'test': (1334, 3720)}
  record = builder.as_data_source('test')[0]
  assert np.isfinite(record['moments']).all()
  assert record['duration'] >= record['moments'].max()
