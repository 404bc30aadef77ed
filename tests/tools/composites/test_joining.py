"""Composites: splits and joins draw each clip as often as they say, and a pack builds into what was joined."""

import collections
import json

import numpy as np
import pytest
import tensorflow_datasets as tfds

from dlkd_jax.tools.composites import joining
from tfds_builders import BuildOptions, CompositesPrvr


def write_clips(folder, count=40, dims=6, seed=0):
  """Writes a pack of random clips; returns it as it is read."""
  rng = np.random.default_rng(seed)
  frames = rng.uniform(0, 2, (count, 6, dims)).astype(np.float16)
  ids = [f'clip{number}' for number in range(count)]
  folder.mkdir(parents=True, exist_ok=True)
  np.savez(folder / 'frames.npz', F=frames, ids=np.array(ids))
  lines = [json.dumps({'video': name, 'text': f'sentence of {name}'}) for name in reversed(ids)]
  (folder / 'captions.jsonl').write_text('\n'.join(lines) + '\n')
  texts = [f'sentence of {name}' for name in ids]
  return joining.Clips(ids, list(frames.astype(np.float32)), texts, [15.0] * count)


def test_clips_are_read_and_joined_on_ids(tmp_path):
  written, found = write_clips(tmp_path), joining.read_clips(tmp_path)
  assert found.ids == written.ids and found.texts == written.texts
  np.testing.assert_array_equal(found.frames, written.frames)
  tokens = [np.full((2, 3), 1.0 + n) for n in range(40)]
  np.testing.assert_allclose(found._replace(tokens=tokens).sentences(), np.full((40, 3), 3**-0.5))


@pytest.mark.parametrize(
  ('captions', 'message'),
  [
    ('{"video": "clip0", "text": "one"}', 'expected one sentence a clip, found 1 for 2 clips'),
    ('{"video": "clip0", "text": "one"}\n{"video": "other", "text": "two"}', r"odd: \['clip1', 'other'\]"),
    ('{"video": "clip0"}', "KeyError: 'text'"),
    ('no json', 'expected F, ids'),
  ],
)
def test_bad_captions_are_refused(tmp_path, captions, message):
  write_clips(tmp_path, 2)
  (tmp_path / 'captions.jsonl').write_text(captions)
  with pytest.raises(ValueError, match=message):
    joining.read_clips(tmp_path)


def test_bad_frames_are_refused(tmp_path):
  with pytest.raises(FileNotFoundError, match=r'frames.npz and .*captions.jsonl absent'):
    joining.read_clips(tmp_path)
  write_clips(tmp_path, 2)
  np.savez(tmp_path / 'frames.npz', F=np.full((2, 6, 3), np.nan), ids=['clip0', 'clip1'])
  with pytest.raises(ValueError, match='finite'):
    joining.read_clips(tmp_path)
  (tmp_path / 'frames.npz').write_bytes(b'PK cut short')
  with pytest.raises(ValueError, match=r'frames|expected F, ids'):
    joining.read_clips(tmp_path)


@pytest.mark.parametrize('count', [4, 7, 8, 53, 100])
def test_every_clip_is_joined_once_a_round(count):
  clips = list(range(100, 100 + count))
  videos = joining.join('train', clips, seed=3, rounds=2)
  assert collections.Counter(c for v in videos for c in v.clips) == dict.fromkeys(clips, 2)
  assert all(4 <= len(v.clips) <= 7 or len(v.clips) < 4 > count % 4 for v in videos)
  assert len({v.name for v in videos}) == len(videos)
  assert videos == joining.join('train', clips, seed=3, rounds=2) != joining.join('train', clips, seed=4, rounds=2)


def test_splits_share_no_clip():
  split = joining.split_clips(40, (20, 8, 10), seed=1)
  assert [len(split[name]) for name in joining.SPLITS] == [20, 8, 10]
  assert len(set().union(*split.values())) == 38
  with pytest.raises(ValueError, match='there are 40'):
    joining.split_clips(40, (30, 8, 10), seed=1)


def test_pack_builds_into_what_was_joined(tmp_path):
  tokens = [np.full((2 + index % 3, 5), index / 64) for index in range(40)]
  clips = write_clips(tmp_path / 'clips')._replace(tokens=tokens)
  split = joining.split_clips(40, (20, 8, 10), seed=1)
  videos = {name: joining.join(name, rows, seed=1) for name, rows in split.items()}
  joining.write_pack(tmp_path / 'packs', clips, videos)
  assert [path.name for path in (tmp_path / 'packs').iterdir()] == ['composites']
  builder = CompositesPrvr(data_dir=tmp_path, options=BuildOptions(teacher=False, tokens=joining.TOKENS))
  builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=tmp_path / 'packs'))
  for name, composites in videos.items():
    records = {record['video_id'].decode(): record for record in builder.as_data_source(name)}
    assert set(records) == {video.name for video in composites}
    for video in composites:
      record = records[video.name]
      np.testing.assert_array_equal(record['student_frames'], np.concatenate([clips.frames[c] for c in video.clips]))
      assert [x.decode() for x in record['captions']] == [clips.texts[clip] for clip in video.clips]
      np.testing.assert_array_equal(record['student_tokens'], np.concatenate([tokens[c] for c in video.clips]))
      np.testing.assert_array_equal(record['moments'], [[15 * i, 15 * i + 15] for i in range(len(video.clips))])
      assert record['duration'] == 15 * len(video.clips)


def record(video, captions=('a sentence',), frames=2, seconds=4.0):
  return {
    'video_id': video.encode(),
    'captions': np.array([text.encode() for text in captions]),
    'student_frames': np.full((frames, 6), float(video[4:]), np.float16),
    'student_tokens': np.ones((3, 5), np.float16),
    'duration': np.float32(seconds),
  }


def test_clips_of_a_data_set_are_those_with_one_caption(tmp_path, monkeypatch):
  splits = {'test': [record('clip3', frames=3), record('clip1')], 'gallery': [record('clip2', captions=())]}
  monkeypatch.setattr(joining.sources, 'split_names', lambda *where: list(splits))
  monkeypatch.setattr(joining.sources, 'open_source', lambda data_dir, name, split: splits[split])
  found = joining.read_set(tmp_path)
  assert found.ids == ['clip1', 'clip3'] and found.texts == ['a sentence'] * 2 and found.seconds == [4.0] * 2
  assert [rows.shape for rows in found.frames] == [(2, 6), (3, 6)] and found.frames[1][0, 0] == 3
  assert found.frames[0].dtype == found.tokens[0].dtype == np.float32
  joining.write_pack(tmp_path, found, {'test': [joining.Composite('both', [1, 0])]})
  moments = json.loads((tmp_path / 'composites/TextData/composites.moments.json').read_text())
  assert moments == {'both#enc#0': [0, 4, 8], 'both#enc#1': [4, 8, 8]}
  for odd in ({'captions': ('one', 'two')}, {'frames': 0}, {'seconds': np.nan}):
    splits['test'][0] = record('clip3', **odd)
    with pytest.raises(ValueError, match=r'clip3 of custom_prvr has .* expected one caption'):
      joining.read_set(tmp_path)
