"""custom_prvr: records from the files of an extraction, and videos that are added later."""

from __future__ import annotations

import hashlib
import json
import pathlib
import subprocess
import sys
import time

import numpy as np
import pytest
import safetensors.numpy
import tensorflow_datasets as tfds

from dlkd_jax.data import sources
from tfds_builders import BuildOptions, CustomPrvr, build, errors
from tfds_builders.custom_prvr import extracted

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


def _write(
  folder: pathlib.Path, video: str, split: str = 'test', captions: int = 2, digest: str = 'a', check_sum='', **changed
):
  arrays = _arrays(video, captions) | changed
  metadata = {
    'video': video,
    'split': split,
    'duration': '7.25',
    'captions': json.dumps([f'caption {k} of {video}' for k in range(captions)]),
    'caption_ids': json.dumps([f'{video}#{k}' for k in range(captions)]),
    'digest': digest,
  } | ({'check_sum': check_sum} if check_sum else {})
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
  with pytest.raises(errors.BuiltDifferentlyError, match="dtype: 'float16' → 'float32'"):
    _build(folder, data, dtype='float32')
  _write(folder, 'b')
  with pytest.raises(errors.BuiltDifferentlyError, match=r'rate: 2\.0 → 3\.0'):
    _build(_begin(folder, rate=3.0), data)
  assert [path.name for path in (data / 'custom_prvr').glob('[0-9]*')] == ['1.0.0']


def _content(builder) -> dict[str, dict]:
  return {split: _records(builder, split) for split in builder.info.splits}


def test_what_changed_is_left_and_the_rest_goes_on(tmp_path):
  folder, data = _begin(tmp_path / 'extracted'), tmp_path / 'data'
  _write(folder, 'a', digest='1:1')
  _build(folder, data)
  _write(folder, 'a', digest='2:2', captions=3)
  _write(folder, 'b')
  builder = _build(folder, data)
  assert str(builder.version) == '1.0.1'
  assert len(_records(builder, 'test')['a']['captions']) == 2 and 'b' in _records(builder, 'test')


@pytest.mark.parametrize('shards', [None, 1, 5])
def test_what_is_taken_anew_replaces_its_record_alone(shards, tmp_path):
  folder, data = _begin(tmp_path / 'extracted'), tmp_path / 'data'
  for video in 'abcdefgh':
    _write(folder, video, 'train' if video < 'c' else 'test')
  first = _build(folder, data, num_shards=shards)
  before = _content(first)
  files = {path.name: path.read_bytes() for path in pathlib.Path(first.data_dir).iterdir()}
  _write(folder, 'd', digest='2', captions=3)  # Other captions.
  _write(folder, 'a', 'test', digest='2')  # Another split.
  _write(folder, 'z', 'val')
  second = CustomPrvr(data_dir=data, extracted=folder, options=BuildOptions(num_shards=shards), update=['a', 'd'])
  second.download_and_prepare()
  assert str(second.version) == '1.0.1'
  assert {split: set(videos) for split, videos in _content(second).items()} == {
    'train': {'b'},
    'test': set('acdefgh'),
    'val': {'z'},
  }
  after = _content(second)
  assert len(after['test']['d']['captions']) == 3
  for video in 'cefgh':
    for name, value in before['test'][video].items():
      np.testing.assert_array_equal(value, after['test'][video][name])
  # The earlier version is what it was, and files without these videos are the same files.
  assert {path.name: path.read_bytes() for path in pathlib.Path(first.data_dir).iterdir()} == files
  inodes = {path.stat().st_ino for path in pathlib.Path(first.data_dir).glob('*array_record*')}
  linked = [path for path in pathlib.Path(second.data_dir).glob('*array_record*') if path.stat().st_ino in inodes]
  assert len(linked) == len(inodes) - 2
  # Lengths and counts are those of a set that was built at once.
  whole = _build(folder, tmp_path / 'whole')
  for split in ('train', 'test', 'val'):
    assert second.info.metadata['splits'][split] == whole.info.metadata['splits'][split]
    with np.load(pathlib.Path(second.data_dir) / f'lengths-{split}.npz') as lengths:
      for number, record in enumerate(second.as_data_source(split)):
        assert lengths['student'][number] == len(record['student_frames'])
        assert lengths['captions'][number] == len(record['captions'])
  assert json.loads((pathlib.Path(second.data_dir) / 'videos.json').read_text())['d'] == '2'
  assert str(_build(folder, data, num_shards=shards).version) == '1.0.1'


def test_a_split_that_lost_its_only_video_is_none_any_more(tmp_path):
  folder, data = _begin(tmp_path / 'extracted'), tmp_path / 'data'
  _write(folder, 'a', 'train')
  _write(folder, 'b', 'test')
  _build(folder, data)
  _write(folder, 'a', 'test', digest='2')
  builder = CustomPrvr(data_dir=data, extracted=folder, update=True)
  builder.download_and_prepare()
  assert {split: set(videos) for split, videos in _content(builder).items()} == {'test': {'a', 'b'}}
  assert 'train' not in builder.info.metadata['splits']
  _write(folder, 'c', 'train')
  assert set(_content(_build(folder, data))) == {'train', 'test'}


def test_a_damaged_file_is_not_gone_on_from(tmp_path):
  folder, data = _begin(tmp_path / 'extracted'), tmp_path / 'data'
  for video in 'abc':
    _write(folder, video)
  first = _build(folder, data, num_shards=1)
  (path,) = pathlib.Path(first.data_dir).glob('*array_record-*')
  content = bytearray(path.read_bytes())
  place = content.find(_arrays('b', 2)['student_frames'].astype(np.float16).tobytes())
  content[place] ^= 255
  path.write_bytes(content)
  _write(folder, 'a', digest='2')
  builder = CustomPrvr(data_dir=data, extracted=folder, update=['a'])
  with pytest.raises(errors.MalformedFileError, match='copy the data set again'):
    builder.download_and_prepare()
  assert [each.name for each in (data / 'custom_prvr').glob('[0-9]*')] == ['1.0.0']


def test_features_are_those_that_were_written(tmp_path):
  folder = _begin(tmp_path / 'extracted')
  arrays = _arrays('a', 2)
  _write(folder, 'a', check_sum=extracted.check_sum(arrays))
  _build(folder, tmp_path / 'data')
  path = folder / 'videos' / 'a.safetensors'
  start = path.read_bytes().find(arrays['student_frames'].tobytes())
  content = bytearray(path.read_bytes())
  content[start : start + 8] = bytes(8)
  path.write_bytes(content)
  with pytest.raises(errors.MalformedFileError, match='damaged since it was written'):
    _build(folder, tmp_path / 'other')


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


@pytest.mark.parametrize(
  'name', ['a[1]', '[ab]*?', ' sp ace ', '-lead', '~', '{split}', '%20@2:$HOME', 'é日本', 'a\nb', '[1:2]']
)
def test_folders_of_any_name(name, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  data = tmp_path / name / 'data'
  folder = _begin(pathlib.Path('./' + name, 'extracted'))
  _write(folder, 'a')
  _write(folder, 'b', 'train')
  _build(folder, data)
  _write(folder, 'c')
  _write(folder, 'a', digest='2', captions=3)
  builder = CustomPrvr(data_dir=data, extracted=folder, update=['a'])
  builder.download_and_prepare()
  for split, videos in (('test', ['a', 'c']), ('train', ['b'])):
    source = sources.open_source(data, 'custom_prvr', split)
    assert sorted(sources.text(source[number]['video_id']) for number in range(len(source))) == videos


@pytest.mark.slow
def test_an_update_that_is_killed_loses_nothing(tmp_path):
  folder, data = _begin(tmp_path / 'extracted'), tmp_path / 'data'
  for video in 'abcdefgh':
    _write(folder, video, 'train' if video < 'd' else 'test', digest='0')
  _build(folder, data)
  draw, command = np.random.default_rng(0), [sys.executable, '-m', 'tfds_builders.build', 'custom', '--update']
  command += [f'--manual_dir={folder}', f'--data_dir={data}']
  started = time.monotonic()
  subprocess.run(command, check=True, capture_output=True)
  took, killed = time.monotonic() - started, 0
  for round_ in range(1, 21):
    for video in draw.choice(list('abcdefgh'), 3, replace=False):
      _write(folder, str(video), str(draw.choice(['train', 'test'])), int(draw.integers(1, 4)), digest=str(round_))
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
      process.wait(took * draw.uniform(0.5, 1.05))
    except subprocess.TimeoutExpired:
      process.kill()
      killed += 1
    process.wait()
    content = _content(CustomPrvr(data_dir=data))
    assert sorted(video for split in content.values() for video in split) == list('abcdefgh')
  assert killed > 5
  subprocess.run(command, check=True, capture_output=True)
  builder, whole = CustomPrvr(data_dir=data), _build(folder, tmp_path / 'whole')
  for split, videos in _content(whole).items():
    found = _records(builder, split)
    assert found.keys() == videos.keys()
    for video, record in videos.items():
      for name, value in record.items():
        np.testing.assert_array_equal(found[video][name], value)
