"""A data set that is written in the layout of the release is read back as it was."""

from __future__ import annotations

import ast
import json
import urllib.parse

import h5py
import numpy as np
import pytest
import tensorflow_datasets as tfds

from dlkd_jax.data import sources
from dlkd_jax.video import extraction
from tests.tfds_builders import pack_writer
from tests.video import films
from tfds_builders import build, release_writer


def _records(data_dir, dataset, split):
  """Records of a split with plain texts."""
  source = sources.open_source(data_dir, dataset, split)
  return [
    record | {'video_id': sources.text(record['video_id']), 'captions': sources.texts(record['captions'])}
    for record in (source[index] for index in range(len(source)))
  ]


def _assert_same(found, expected):
  """Checks records read back: ids are quoted, texts on one line, all else is as it was."""
  found = {record['video_id']: record for record in found}
  assert len(found) == len(expected)
  for record in expected:
    other = found[urllib.parse.quote(record['video_id'], safe='')]
    assert other['captions'] == [' '.join(text.split()) for text in record['captions']]
    for name in record.keys() & other.keys() - {'video_id', 'captions', 'caption_ids'}:
      np.testing.assert_array_equal(other[name], record[name], strict=True)


@pytest.mark.parametrize('taught', [True, False])
def test_a_pack_is_read_back_as_it_was(taught, tmp_path):
  splits = ('train', 'val', 'test')
  written = pack_writer.write(tmp_path / 'packs', pack_writer.Variant(taught_splits=splits if taught else ()))
  flags = ['--dtype=float32', *([] if taught else ['--no_teacher'])]
  build.main(['tvr', f'--manual_dir={written.root}', f'--data_dir={tmp_path / "one"}', *flags])
  records = {split: _records(tmp_path / 'one', 'tvr_prvr', split) for split in splits}
  records['train'][0]['captions'][0] = 'two\nlines\u2028and  more'
  records['gallery'] = [dict(records['val'][0], video_id='only searched', captions=[], token_lengths=np.zeros(0, int))]
  folder = tmp_path / 'again' / 'tvr'
  counts = release_writer.write_pack(folder, records, 'i3d_resnet', {'x': 1})
  assert counts['gallery'] == 0 and counts['val'] == sum(len(each['captions']) for each in records['val'])
  assert [path.name for path in folder.parent.iterdir()] == ['tvr']
  build.main(['tvr', f'--manual_dir={folder.parent}', f'--data_dir={tmp_path / "two"}', *flags])
  for split in splits:
    _assert_same(_records(tmp_path / 'two', 'tvr_prvr', split), records[split])
  # As other programs read it: names and rows in one order, the videos that are only searched among them.
  big = folder / 'FeatureData' / 'i3d_resnet'
  names = (big / 'id.txt').read_text(encoding='ISO-8859-1').strip().split()
  rows = np.fromfile(big / 'feature.bin', np.float32).reshape(*map(int, (big / 'shape.txt').read_text().split()))
  videos = ast.literal_eval((big / 'video2frames.txt').read_text())
  assert [name for each in videos.values() for name in each] == names and len(names) == len(rows)
  own = [names.index(name) for name in videos['only%20searched']]
  np.testing.assert_array_equal(rows[own], records['gallery'][0]['student_frames'])
  with h5py.File(folder / 'TextData' / 'roberta_tvr_query_feat.hdf5') as file:
    assert all('#enc#' in name and isinstance(file[name], h5py.Dataset) for name in file)


def test_what_lies_there_is_replaced_only_if_it_is_ours(tmp_path):
  record = {
    'video_id': 'a',
    'student_frames': np.ones((2, 3), np.float16),
    'student_tokens': np.ones((1, 2), np.float16),
    'token_lengths': np.array([1]),
    'captions': ['a dog'],
    'moments': np.array([[np.nan, np.nan]], np.float32),
    'duration': np.float32('nan'),
  }
  for frames in (1, 2):
    some = record | {'student_frames': record['student_frames'][:frames]}
    release_writer.write_pack(tmp_path / 'mine', {'test': [some]}, 'f', {})
    assert (tmp_path / 'mine/FeatureData/f/shape.txt').read_text() == f'{frames} 3'
  moments = json.loads((tmp_path / 'mine/TextData/mine.moments.json').read_text())
  assert moments == {'a#enc#0': [None, None, None]}
  (tmp_path / 'other').mkdir()
  for folder, message in (('other', 'was not written by this command'), ('a b', 'names the collection')):
    with pytest.raises(ValueError, match=message):
      release_writer.write_pack(tmp_path / folder, {'test': [record]}, 'f', {})
  with pytest.raises(ValueError, match='names the collection'):
    extraction.Request(tmp_path, tmp_path, release_layout=tmp_path / 'a b')


def test_an_extraction_writes_it_on_request(tmp_path):
  folder = tmp_path / 'films'
  (folder / 'more').mkdir(parents=True)
  films.render(folder / 'a b.mp4', films.steady(40))
  films.render(folder / 'more' / 'c#1.webm', films.steady(20, 10))
  films.render(folder / 'd.mp4', films.steady(20, 10))
  said = [
    {'video': 'a b.mp4', 'text': 'it begins', 'start': 0, 'end': 1.0, 'split': 'train'},
    {'video': 'a b.mp4', 'text': 'it ends', 'split': 'train'},
    {'video': 'more/c#1.webm', 'text': 'numbers', 'split': 'test'},
  ]
  (folder / 'captions.jsonl').write_text('\n'.join(map(json.dumps, said)))
  target = tmp_path / 'packs' / 'activitynet'
  request = extraction.Request(
    folder, tmp_path, folder / 'captions.jsonl', rate=4, settle_seconds=0, release_layout=target
  )
  for _ in range(2):  # The same command again is no error.
    extraction.extract(request)
  flags = ['--feature=statistics', '--no_teacher', '--splits=train,test']
  build.main(['activitynet', f'--manual_dir={target.parent}', f'--data_dir={tmp_path}', *flags])
  for split in ('train', 'test'):
    _assert_same(_records(tmp_path, 'activitynet_prvr', split), _records(tmp_path, 'custom_prvr', split))
  about = json.loads((target / 'written_by_dlkd_jax.json').read_text())
  assert about['captions'] == {'gallery': 0, 'test': 1, 'train': 2}
  assert about['made_with']['student'] == 'statistics:2'
  assert tfds.builder_from_directory(tmp_path / 'activitynet_prvr/1.0.0').info.splits['train'].num_examples == 1
