"""custom_prvr: records from the files of an extraction, and videos that are added later."""

from __future__ import annotations

import hashlib
import json
import pathlib

import numpy as np
import pytest
import safetensors.numpy
import tensorflow_datasets as tfds

from tfds_builders import BuildOptions, CustomPrvr, build, errors

SIZES = {'Dv': 6, 'Dq': 5, 'Dt': 4}
OPTIONS = {'rate': 2.0, 'teacher': 'clip:1', 'student': 'statistics', 'tokens': 'words:5'}


def _begin(folder: pathlib.Path, **options) -> pathlib.Path:
  (folder / 'videos').mkdir(parents=True, exist_ok=True)
  content = {'layout': 1, 'sizes': SIZES, 'options': OPTIONS | options}
  (folder / 'extraction.json').write_text(json.dumps(content))
  return folder


def _arrays(video: str, captions: int) -> dict[str, np.ndarray]:
  random = np.random.default_rng(int.from_bytes(video.encode(), 'little'))
  frames, lengths = int(random.integers(1, 9)), random.integers(1, 5, captions).astype(np.int32)
  rows = lambda n, dims: random.standard_normal((n, dims)).astype(np.float32)  # noqa: E731
  return {
    'student_frames': rows(frames, 6),
    'teacher_frames': rows(frames, 4),
    'student_tokens': rows(int(lengths.sum()), 5),
    'token_lengths': lengths,
    'teacher_text': rows(captions, 4),
    'moments': np.array([[k, k + 0.5] for k in range(captions)], np.float32).reshape(-1, 2),
    'times': np.arange(frames, dtype=np.float32) / 2,
  }


def _write(folder: pathlib.Path, video: str, split: str = 'test', captions: int = 2, digest: str = 'a', **changed):
  arrays = _arrays(video, captions) | changed
  metadata = {
    'video': video,
    'split': split,
    'duration': '7.25',
    'captions': json.dumps([f'caption {k} of {video}' for k in range(captions)]),
    'caption_ids': json.dumps([f'{video}#{k}' for k in range(captions)]),
    'digest': digest,
  }
  safetensors.numpy.save_file(arrays, folder / 'videos' / f'{video}.safetensors', metadata)


def _build(folder: pathlib.Path, data_dir: pathlib.Path, **options) -> CustomPrvr:
  builder = CustomPrvr(data_dir=data_dir, extracted=folder, options=BuildOptions(**options))
  builder.download_and_prepare()
  return builder


def _records(builder, split: str) -> dict[str, dict]:
  return {record['video_id'].decode(): record for record in builder.as_data_source(split)}


def test_records_hold_what_was_extracted(tmp_path):
  folder = _begin(tmp_path / 'extracted')
  for video, split in (('a', 'train'), ('b', 'test'), ('c', 'test')):
    _write(folder, video, split)
  builder = _build(folder, tmp_path / 'data', dtype='float32')
  assert builder.info.metadata['sizes'] == SIZES
  assert list(builder.info.splits) == ['train', 'test']
  records = _records(builder, 'test')
  assert list(records) == ['b', 'c']
  for name, expected in _arrays('b', 2).items():
    np.testing.assert_array_equal(records['b'][name], expected, strict=True)
  assert records['b']['duration'] == 7.25
  assert [text.decode() for text in records['b']['captions']] == ['caption 0 of b', 'caption 1 of b']


def test_a_gallery_has_no_captions(tmp_path):
  folder = _begin(tmp_path / 'extracted')
  for video in 'abc':
    _write(folder, video, 'gallery', captions=0)
  builder = _build(folder, tmp_path / 'data')
  counts = builder.info.metadata['splits']['gallery']
  assert (counts['videos'], counts['captions'], counts['max_tokens'], counts['teacher']) == (3, 0, 0, True)
  record = _records(builder, 'gallery')['a']
  assert record['student_tokens'].shape == (0, 5) and record['moments'].shape == (0, 2)
  assert len(record['captions']) == 0 and record['teacher_text'].shape == (0, 4)
  with np.load(pathlib.Path(builder.data_dir) / 'lengths-gallery.npz') as lengths:
    assert lengths['captions'].tolist() == [0, 0, 0] and lengths['tokens'].shape == (0,)


def test_added_videos_add_files(tmp_path):
  folder, data = _begin(tmp_path / 'extracted'), tmp_path / 'data'
  for video in 'bdfhj':
    _write(folder, video)
  first = _build(folder, data)
  old = {path: path.stat() for path in pathlib.Path(first.data_dir).iterdir()}
  before = {path.stat().st_ino: hashlib.sha256(path.read_bytes()).digest() for path in old}
  for video, split in (('a', 'test'), ('c', 'train'), ('k', 'gallery')):
    _write(folder, video, split, captions=0 if split == 'gallery' else 3)
  second = _build(folder, data)
  assert str(second.version) == '1.0.1'
  assert list(_records(second, 'test')) == [*'bdfhj', 'a'] and list(_records(second, 'train')) == ['c']
  assert second.info.splits['test'].shard_lengths == [*first.info.splits['test'].shard_lengths, 1]
  files = sorted(pathlib.Path(second.data_dir).glob('*test.array_record*'))
  kept = [path for path in files if path.stat().st_ino in before]
  assert len(kept) == first.info.splits['test'].num_shards == len(files) - 1
  assert all(hashlib.sha256(path.read_bytes()).digest() == before[path.stat().st_ino] for path in kept)
  assert all(path.stat().st_mtime_ns == stat.st_mtime_ns for path, stat in old.items())
  # Counts and lengths are those of all videos at once.
  whole = _build(folder, tmp_path / 'whole')
  for split in ('train', 'test', 'gallery'):
    assert second.info.metadata['splits'][split] == whole.info.metadata['splits'][split]
    one, other = (np.load(pathlib.Path(builder.data_dir) / f'lengths-{split}.npz') for builder in (second, whole))
    assert all(sorted(one[name]) == sorted(other[name]) for name in one)
  record, expected = _records(second, 'test')['a'], _arrays('a', 3)
  np.testing.assert_array_equal(record['student_frames'], expected['student_frames'].astype(np.float16))
  # A third run finds nothing to add, and TFDS opens the newest.
  assert str(_build(folder, data).version) == '1.0.1'
  assert not (data / 'custom_prvr' / '1.0.2').exists()
  assert str(CustomPrvr(data_dir=data).version) == '1.0.1'


def test_packed_videos_may_go(tmp_path):
  folder = _begin(tmp_path / 'extracted')
  _write(folder, 'a')
  _build(folder, tmp_path / 'data')
  (folder / 'videos' / 'a.safetensors').unlink()
  _write(folder, 'b')
  assert list(_records(_build(folder, tmp_path / 'data'), 'test')) == ['a', 'b']


def test_what_differs_is_refused(tmp_path):
  folder, data = _begin(tmp_path / 'extracted'), tmp_path / 'data'
  _write(folder, 'a')
  _build(folder, data)
  with pytest.raises(errors.BuiltDifferentlyError, match="dtype is 'float16' there and 'float32' here"):
    _build(folder, data, dtype='float32')
  _write(folder, 'b')
  with pytest.raises(errors.BuiltDifferentlyError, match=r'rate is 2\.0 there and 3\.0 here'):
    _build(_begin(folder, rate=3.0), data)
  _begin(folder)
  _write(folder, 'a', digest='b')
  with pytest.raises(errors.BuiltDifferentlyError, match=r"changed since they were packed: \['a'\]"):
    _build(folder, data)
  assert [path.name for path in (data / 'custom_prvr').glob('[0-9]*')] == ['1.0.0']


@pytest.mark.parametrize(
  'damage, kind',
  [
    (lambda folder: (folder / 'extraction.json').unlink(), errors.MissingFileError),
    (lambda folder: (folder / 'extraction.json').write_text('{'), errors.MalformedFileError),
    (lambda folder: (folder / 'extraction.json').write_text('{"layout": 9}'), errors.MalformedFileError),
    (lambda folder: (folder / 'videos' / 'a.safetensors').write_bytes(b'cut'), errors.MalformedFileError),
    (lambda folder: _write(folder, 'a', split='tset'), errors.MalformedFileError),
    (lambda folder: _write(folder, 'a', times=np.zeros(1, np.float32)[:0]), errors.WrongSizeError),
    (lambda folder: _write(folder, 'a', teacher_text=np.zeros((2, 3), np.float32)), errors.WrongSizeError),
    (lambda folder: _write(folder, 'a', student_frames=np.full((2, 6), np.nan, np.float32)), errors.NotFiniteError),
    (lambda folder: (folder / 'videos' / 'a.safetensors').unlink(), errors.EmptyError),
  ],
)
def test_damage_is_named(damage, kind, tmp_path):
  folder = _begin(tmp_path / 'extracted')
  _write(folder, 'a')
  damage(folder)
  with pytest.raises(kind, match='extract'):
    _build(folder, tmp_path / 'data')
  assert not list((tmp_path / 'data').glob('custom_prvr/[0-9]*'))


def test_command_line(tmp_path, capsys):
  folder = _begin(tmp_path / 'extracted')
  _write(folder, 'a')
  flags = ['custom', f'--manual_dir={folder}', f'--data_dir={tmp_path / "data"}']
  assert build.main(flags) == 0
  assert 'is built' in capsys.readouterr().out
  assert build.main(flags) == 0
  assert 'already built' in capsys.readouterr().out
  _write(folder, 'b')
  assert build.main(flags) == 0
  assert 'custom_prvr/1.0.1 is built' in capsys.readouterr().out
  assert len(tfds.builder('custom_prvr', data_dir=tmp_path / 'data').as_data_source('test')) == 2
