"""From films to records: against features computed on the pictures, whatever is broken, stopped or added."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pathlib
import re
import shutil
import signal
import time
from fractions import Fraction

import numpy as np
import pytest

from dlkd_jax.data import sources
from dlkd_jax.video import backbones, decoding, extraction, picture_statistics, work_folder
from tests import forked
from tests.environment import environment
from tests.paths import repository
from tests.video import films
from tfds_builders.custom_prvr import extracted


class _Teacher:
  """Means and extremes of a picture; a hash of a sentence."""

  name = fingerprint = 'fake:1'
  features = sentence_features = token_features = 6

  def prepare(self, image):
    return image.reshape(-1, 3)

  def encode(self, prepared):
    return np.stack(
      [np.concatenate([rows.mean(axis=0), rows.std(axis=0)]) / 255 for rows in prepared], dtype=np.float32
    )

  def __call__(self, images):
    return self.encode([self.prepare(image) for image in images])

  def tokens(self, texts):
    return [self.sentences([text]) for text in texts]

  def sentences(self, texts):
    digests = [hashlib.sha256(text.encode()).digest()[:6] for text in texts]
    return np.array([list(digest) for digest in digests], np.float32) / 255


@pytest.fixture(autouse=True)
def fake_teacher(monkeypatch):
  for name in ('open_frame_backbone', 'open_text_backbone'):
    real = getattr(backbones, name)
    monkeypatch.setattr(backbones, name, lambda spec, real=real: _Teacher() if spec == 'fake' else real(spec))


@pytest.fixture(scope='module')
def corpus(tmp_path_factory):
  """Four films of several kinds and a file of captions, some of them of moments."""
  folder = tmp_path_factory.mktemp('films')
  films.render(folder / 'a.mp4', films.steady(60), sound=1)
  films.render(folder / 'b.mkv', [Fraction(n * n, 100) for n in range(20)])  # Ever slower.
  (folder / 'more').mkdir()
  films.render(folder / 'more' / 'c.webm', films.steady(20, 10))
  films.render(folder / 'more' / 'd.mp4', films.steady(30, 10), rotation=90)
  said = [
    {'video': 'a.mp4', 'text': 'the beginning', 'start': 0, 'end': 1.5, 'split': 'train'},
    {'video': 'a.mp4', 'text': 'all of it', 'split': 'train'},
    {'video': 'b', 'text': 'it slows down', 'start': 1, 'end': 2.25},
    {'video': 'more/c.webm', 'text': 'numbers, in a row'},
  ]
  captions = folder / 'captions.jsonl'
  captions.write_text('\n'.join(map(json.dumps, said)) + '\n')
  return folder


def _request(folder, data_dir, **changed):
  request = extraction.Request(folder, data_dir, folder / 'captions.jsonl', teacher='fake', rate=4, batch=7, readers=2)
  return dataclasses.replace(request, **{'dtype': 'float32', 'settle_seconds': 0} | changed)


def _records(data_dir, split):
  source = sources.open_source(data_dir, 'custom_prvr', split)
  return {sources.text(record['video_id']): record for record in (source[i] for i in range(len(source)))}


def _status(result):
  return {each.video: each.status for each in result.outcomes.files}


def _assert_same_records(one, other, splits):
  for split in splits:
    first, second = _records(one, split), _records(other, split)
    assert list(first) == list(second)
    for video in first:
      assert first[video].keys() == second[video].keys()
      for name, value in first[video].items():
        np.testing.assert_array_equal(value, second[video][name])


def test_records_hold_features_of_the_pictures_shown(corpus, tmp_path):
  result = extraction.extract(_request(corpus, tmp_path))
  assert set(_status(result).values()) == {'extracted'} and result.outcomes.usable == 4
  records = {**_records(tmp_path, 'train'), **_records(tmp_path, 'test'), **_records(tmp_path, 'gallery')}
  assert sorted(records) == ['a.mp4', 'b.mkv', 'more/c.webm', 'more/d.mp4']
  student, teacher = backbones.open_frame_backbone('statistics'), _Teacher()
  for video, record in records.items():
    frames = list(decoding.sample_frames(corpus / video, 4))
    images = [frame.image for frame in frames]
    np.testing.assert_array_equal(record['times'], np.array([frame.time for frame in frames], np.float32))
    np.testing.assert_allclose(record['student_frames'], student(images), atol=1e-6)
    np.testing.assert_allclose(record['teacher_frames'], teacher(images), atol=1e-6)
    assert record['duration'] == pytest.approx(decoding.probe(corpus / video).duration)
  # Film b shows number n from n² / 100 s on: at time t the one of floor(10 sqrt(t)).
  shown = [films.read(frame.image) for frame in decoding.sample_frames(corpus / 'b.mkv', 4)]
  assert shown == [int(10 * np.sqrt(t) + 1e-6) for t in records['b.mkv']['times']]


def test_records_hold_the_captions(corpus, tmp_path):
  extraction.extract(_request(corpus, tmp_path))
  record = _records(tmp_path, 'train')['a.mp4']
  assert sources.texts(record['captions']) == ['the beginning', 'all of it']
  assert sources.texts(record['caption_ids']) == ['a.mp4#0', 'a.mp4#1']
  np.testing.assert_array_equal(record['moments'], np.array([[0, 1.5], [np.nan, np.nan]], np.float32))
  assert record['token_lengths'].tolist() == [2, 3]
  words = backbones.open_text_backbone('words:256')
  np.testing.assert_array_equal(record['student_tokens'], np.concatenate(words.tokens(['the beginning', 'all of it'])))
  np.testing.assert_array_equal(record['teacher_text'], _Teacher().sentences(['the beginning', 'all of it']))
  assert _records(tmp_path, 'test')['b.mkv']['moments'].tolist() == [[1, 2.25]]
  assert len(_records(tmp_path, 'gallery')['more/d.mp4']['captions']) == 0


def test_without_captions_it_is_a_gallery(corpus, tmp_path):
  extraction.extract(_request(corpus, tmp_path, captions=None))
  assert sources.split_names(tmp_path, 'custom_prvr') == ['gallery']
  assert len(_records(tmp_path, 'gallery')) == 4
  found = sources.open_lengths(tmp_path, 'custom_prvr', 'gallery')
  assert found.captions.tolist() == [0] * 4 and found.student.min() > 0


def test_student_and_teacher_may_be_one(corpus, tmp_path):
  extraction.extract(_request(corpus, tmp_path, student='fake', tokens='fake'))
  record = _records(tmp_path, 'test')['b.mkv']
  np.testing.assert_array_equal(record['student_frames'], record['teacher_frames'])
  np.testing.assert_array_equal(record['student_tokens'], record['teacher_text'])


@pytest.fixture(scope='module')
def broken(corpus, tmp_path_factory):
  """A folder with one good film, and what else lies in folders."""
  folder = tmp_path_factory.mktemp('broken')
  films.broken_files(folder)
  said = [{'video': name, 'text': 'something'} for name in ('good.mp4', 'text.mp4', 'never_there.mp4')]
  (folder / 'captions.jsonl').write_text('\n'.join(map(json.dumps, said)))
  return folder


def test_broken_files_are_reported_by_name(broken, tmp_path):
  result = extraction.extract(_request(broken, tmp_path))
  status = _status(result)
  assert status.pop('good.mp4') == 'extracted'
  assert {status.pop(name) for name in ('cut.mkv', 'spoiled.mp4')} == {'truncated'}
  assert status.pop('never_there.mp4') == 'missing' and status.pop('notes.txt') == 'skipped'
  assert status.pop('folder.mp4') == 'skipped'
  assert set(status.values()) == {'failed'}
  assert set(status) == films.FAILING
  assert all(each.reason for each in result.outcomes.files if each.status in ('failed', 'truncated'))
  assert 'empty.mkv: is empty (0 bytes)' in str(result.outcomes)
  written = json.loads(result.report_file.read_text())
  assert written['counts']['failed'] == 7 and len(written['files']) == len(result.outcomes.files)
  kept = _records(tmp_path, 'gallery')
  assert sorted(kept) == ['cut.mkv', 'spoiled.mp4']
  frames = []
  with pytest.raises(decoding.DamagedVideoError):
    for frame in decoding.sample_frames(broken / 'cut.mkv', 4):
      frames.append(frame.time)
  np.testing.assert_array_equal(kept['cut.mkv']['times'], np.array(frames, np.float32))
  assert kept['cut.mkv']['duration'] <= frames[-1] + 0.25
  # A second run tries the failed ones again, and still names the damaged ones.
  again = _status(extraction.extract(_request(broken, tmp_path)))
  assert again['good.mp4'] == 'kept' and again['cut.mkv'] == 'truncated' and again['text.mp4'] == 'failed'


def test_nothing_but_broken_files(tmp_path):
  (tmp_path / 'films').mkdir()
  (tmp_path / 'films' / 'a.mp4').touch()
  result = extraction.extract(_request(tmp_path / 'films', tmp_path / 'data', captions=None))
  assert result.builder is None and result.outcomes.usable == 0
  assert not list((tmp_path / 'data').glob('custom_prvr/[0-9]*'))


def test_stopped_and_restarted_gives_the_same_records(corpus, tmp_path):
  write, written = work_folder.WorkFolder.write, []

  def stopping(self, job, *more):
    if len(written) == 2:
      raise KeyboardInterrupt
    written.append(job.video)
    write(self, job, *more)

  with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
    patch.setattr(work_folder.WorkFolder, 'write', stopping)
    extraction.extract(_request(corpus, tmp_path / 'stopped'))
  assert not (tmp_path / 'stopped' / 'custom_prvr').exists()
  result = extraction.extract(_request(corpus, tmp_path / 'stopped'))
  assert sorted(_status(result).values()) == ['extracted', 'extracted', 'kept', 'kept']
  extraction.extract(_request(corpus, tmp_path / 'whole', batch=7, readers=1))
  _assert_same_records(tmp_path / 'stopped', tmp_path / 'whole', ('train', 'test', 'gallery'))


def _command(corpus, data_dir, *more):
  flags = [f'--videos={corpus}', f'--captions={corpus / "captions.jsonl"}', f'--data_dir={data_dir}', '--teacher=none']
  return 'dlkd_jax.extract', (*flags, '--rate=4', *more), environment(), repository()


def test_killed_and_restarted_gives_the_same_records(corpus, tmp_path):
  process = forked.start(*_command(corpus, tmp_path / 'killed'))
  while not list((tmp_path / 'killed').glob('*/videos/*.safetensors')):
    assert process.poll() is None
    time.sleep(0.002)
  process.kill()
  process.communicate()
  for data_dir in (tmp_path / 'killed', tmp_path / 'whole'):
    done = forked.run(*_command(corpus, data_dir))
    assert done.returncode == 0, done.stderr
    assert 'report.json' in done.stdout and 'custom_prvr/1.0.0' in done.stdout
  _assert_same_records(tmp_path / 'killed', tmp_path / 'whole', ('train', 'test', 'gallery'))


def test_a_terminated_command_says_how_to_go_on(corpus, tmp_path):
  process = forked.start(*_command(corpus, tmp_path, '--readers=1'))
  while not (tmp_path / 'custom_prvr_extracted').exists():
    assert process.poll() is None
    time.sleep(0.002)
  process.send_signal(signal.SIGTERM)
  _, message = process.communicate(timeout=30)
  assert process.returncode in (0, 75)  # 0 where it was faster.
  assert process.returncode == 0 or 'the same command goes on' in message
  assert 'Traceback' not in message


def test_added_videos_add_records(corpus, tmp_path):
  folder, data = tmp_path / 'films', tmp_path / 'data'
  shutil.copytree(corpus, folder)
  (folder / 'b.mkv').rename(tmp_path / 'b.mkv')
  result = extraction.extract(_request(folder, data))
  assert _status(result)['b'] == 'missing'
  old = {path.name: path.read_bytes() for path in pathlib.Path(result.builder.data_dir).glob('*array_record*')}
  (tmp_path / 'b.mkv').rename(folder / 'b.mkv')
  result = extraction.extract(_request(folder, data))
  assert _status(result) == {'a.mp4': 'kept', 'b.mkv': 'extracted', 'more/c.webm': 'kept', 'more/d.mp4': 'kept'}
  assert result.builder.data_dir.endswith('1.0.1')
  new = [path.read_bytes() for path in pathlib.Path(result.builder.data_dir).glob('*array_record*')]
  assert len(new) == len(old) + 1 and all(content in new for content in old.values())
  assert list(_records(data, 'test')) == ['more/c.webm', 'b.mkv']
  # Extracted files are not needed any more once they are packed.
  shutil.rmtree(data / 'custom_prvr_extracted' / 'videos')
  assert set(_status(extraction.extract(_request(folder, data))).values()) == {'kept'}
  assert not (data / 'custom_prvr' / '1.0.2').exists()


def test_other_options_are_refused(corpus, tmp_path):
  folder, data = tmp_path / 'films', tmp_path / 'data'
  shutil.copytree(corpus, folder)
  extraction.extract(_request(folder, data))
  student = f"student: '{picture_statistics.PictureStatistics.fingerprint}' → 'fake:1'"
  with pytest.raises(ValueError, match=re.escape(f'rate: 4.0 → 2.0\n  {student}')):
    extraction.extract(_request(folder, data, rate=2, student='fake'))
  shutil.rmtree(data / 'custom_prvr_extracted')  # The data set itself knows, too.
  with pytest.raises(ValueError, match=r'rate: 4\.0 → 2\.0'):
    extraction.extract(_request(folder, data, rate=2))


def test_a_damaged_work_file_is_made_again(corpus, tmp_path):
  extraction.extract(_request(corpus, tmp_path / 'whole'))
  shutil.copytree(tmp_path / 'whole' / 'custom_prvr_extracted', tmp_path / 'data' / 'custom_prvr_extracted')
  path = next((tmp_path / 'data').glob('*/videos/a*'))
  path.write_bytes(path.read_bytes()[:50])
  assert _status(extraction.extract(_request(corpus, tmp_path / 'data')))['a.mp4'] == 'extracted'
  _assert_same_records(tmp_path / 'whole', tmp_path / 'data', ('train', 'test', 'gallery'))


@pytest.mark.parametrize(
  'changed, message',
  [
    ({'rate': 0}, '--rate is 0'),
    ({'batch': -1}, '--batch is -1'),
    ({'teacher': 'statistics'}, 'no backbone of sentences'),
    ({'student': 'resnet'}, 'no backbone of frames'),
    ({'videos': pathlib.Path('nowhere')}, 'is not a folder'),
    ({'captions': pathlib.Path('nowhere.jsonl')}, 'nowhere.jsonl'),
  ],
)
def test_bad_requests_leave_nothing(changed, message, corpus, tmp_path):
  with pytest.raises((ValueError, OSError), match=message):
    extraction.extract(_request(corpus, tmp_path, **changed))
  assert not list(tmp_path.iterdir())


def _film(folder, name, **options):
  folder.mkdir(exist_ok=True)
  return films.render(folder / name, films.steady(50), **options)


def test_times_starts_and_ends_are_those_of_a_player(tmp_path):
  folder = tmp_path / 'films'
  folder.mkdir()
  films.render(folder / 'late.mp4', [3 + time for time in films.steady(50)], sound=6)
  (folder / 'twice.ts').write_bytes(_film(tmp_path / 'parts', 'a.ts').read_bytes() * 2)
  films.render(folder / 'jumps.mkv', [time + (40 if time >= 1 else 0) for time in films.steady(50)])
  result = extraction.extract(_request(folder, tmp_path / 'data', captions=None))
  records = _records(tmp_path / 'data', 'gallery')
  np.testing.assert_allclose(records['late.mp4']['times'], 3 + np.arange(8) / 4)
  assert records['late.mp4']['start'] == 3 and records['late.mp4']['duration'] == pytest.approx(5)
  np.testing.assert_allclose(records['twice.ts']['times'], np.arange(16) / 4, atol=1e-4)
  assert records['twice.ts']['start'] == 0 and records['twice.ts']['duration'] == pytest.approx(4)
  assert records['jumps.mkv']['times'][-4:].tolist() == [41, 41.25, 41.5, 41.75]
  assert set(_status(result).values()) == {'extracted'}
  said = str(result.outcomes)
  assert 'twice.ts: its clock starts again' in said and 'jumps.mkv: 1 gap without any frame' in said


def test_a_set_without_starts_is_gone_on_with(tmp_path, monkeypatch):
  """Sets of earlier versions: records of one version agree in what they tell."""
  folder, data = tmp_path / 'films', tmp_path / 'data'
  _film(folder, 'a.mp4')
  with monkeypatch.context() as patch:
    sizes = extracted.Extracted.sizes
    patch.setattr(extracted.Extracted, 'sizes', lambda self: dataclasses.replace(sizes(self), start=False))
    extraction.extract(_request(folder, data, captions=None))
  assert 'start' not in _records(data, 'gallery')['a.mp4']
  films.render(folder / 'b.mp4', [3 + time for time in films.steady(50)], sound=6)
  extraction.extract(_request(folder, data, captions=None))
  records = _records(data, 'gallery')
  assert list(records) == ['a.mp4', 'b.mp4'] and records['b.mp4']['times'][0] == 3
  assert 'start' not in records['b.mp4']


def test_features_of_an_earlier_version_are_made_again_where_they_are_not_packed(tmp_path, monkeypatch):
  folder, data = tmp_path / 'films', tmp_path / 'data'
  _film(folder, 'a.mp4')
  with monkeypatch.context() as patch:
    write = work_folder.WorkFolder.write
    old = lambda self, job, seen, arrays, meta: write(  # noqa: E731
      self, job, seen, arrays, {name: meta[name] for name in ('duration', 'damage')}
    )
    patch.setattr(work_folder.WorkFolder, 'write', old)
    patch.setattr(extraction, '_pack', lambda *arguments: None)
    extraction.extract(_request(folder, data, captions=None))
  assert _status(extraction.extract(_request(folder, data, captions=None))) == {'a.mp4': 'extracted'}
  assert _records(data, 'gallery')['a.mp4']['start'] == 0


def test_large_pictures_are_shrunk_unless_they_were_not_before(tmp_path, monkeypatch):
  monkeypatch.setattr(extraction, 'MAX_SIDE', 64)
  _film(tmp_path / 'films', 'a.mp4')
  seen = []
  prepare = _Teacher.prepare
  note = lambda self, image: seen.append(image.shape[1]) or prepare(self, image)  # noqa: E731
  monkeypatch.setattr(_Teacher, 'prepare', note)
  for asked, expected in ((None, 64), (100, 100), (0, films.WIDTH)):
    data = tmp_path / f'{asked}'
    extraction.extract(_request(tmp_path / 'films', data, captions=None, max_side=asked))
    assert set(seen) == {expected}
    # Films that come later are taken alike, and another size is refused.
    films.render(tmp_path / 'films' / f'more{asked}.mp4', films.steady(25))
    extraction.extract(_request(tmp_path / 'films', data, captions=None))
    assert set(seen) == {expected}
    with pytest.raises(ValueError, match='max_side'):
      extraction.extract(_request(tmp_path / 'films', data, captions=None, max_side=48))
    seen.clear()
  with pytest.raises(ValueError, match='expected pixels, or 0'):
    _request(tmp_path, tmp_path, max_side=-1)
