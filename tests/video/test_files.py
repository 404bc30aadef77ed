"""Tests of finding and opening files."""

import pickle
import socket

import pytest
from PIL import Image

from dlkd_jax.video import files
from tests.video import films


def test_walk_finds_all_and_names_the_rest(tmp_path):
  for name in ('b.mp4', 'a/c.MKV', 'a/b/d.webm', 'a/notes.txt', 'poster.jpg', '.hidden.mov'):
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b'x')
  (tmp_path / 'a' / 'loop').symlink_to(tmp_path, target_is_directory=True)
  found = files.walk(tmp_path)
  assert [str(p.relative_to(tmp_path)) for p in found.videos] == ['.hidden.mov', 'a/b/d.webm', 'a/c.MKV', 'b.mp4']
  assert [str(p.relative_to(tmp_path)) for p in found.others] == ['a/notes.txt', 'poster.jpg']


def test_walk_follows_links_to_folders(tmp_path):
  (tmp_path / 'real').mkdir()
  (tmp_path / 'real' / 'a.mp4').write_bytes(b'x')
  (tmp_path / 'set').mkdir()
  (tmp_path / 'set' / 'link').symlink_to(tmp_path / 'real', target_is_directory=True)
  assert files.walk(tmp_path / 'set').videos == [tmp_path / 'set' / 'link' / 'a.mp4']


def test_walk_refuses_what_is_no_folder(tmp_path):
  with pytest.raises(files.VideoError, match='is not a folder'):
    files.walk(tmp_path / 'nowhere')


def _bad_file(kind, folder):
  path = folder / f'{kind}.mp4'
  if kind == 'folder':
    path.mkdir()
  elif kind == 'empty':
    path.touch()
  elif kind == 'text':
    path.write_text('not a video\n' * 500)
  elif kind == 'art':
    path = path.with_suffix('.txt')
    path.write_text('FFmpeg draws this as pictures\n' * 500)
  elif kind == 'picture':
    Image.new('RGB', (64, 48)).save(path, 'png')
  elif kind == 'socket':
    with socket.socket(socket.AF_UNIX) as end:
      end.bind(str(path))
  elif kind == 'sound':
    films.sound_only(path)
  elif kind == 'playlist':
    films.render(folder / 'other.ts', films.steady(5))
    path.write_text('ffconcat version 1.0\nfile other.ts\n')
  elif kind == 'headless':
    films.cut(films.render(folder / 'whole.mp4', films.steady(20), faststart=False), 0.7, path)
  return path


@pytest.mark.parametrize(
  ('kind', 'reason'),
  [
    ('missing', 'No such file'),
    ('folder', 'is a folder'),
    ('socket', 'is not a regular file'),
    ('empty', 'is empty'),
    ('text', 'is not a video that FFmpeg knows'),
    ('art', 'is not a video'),
    ('picture', 'is not a video'),
    ('sound', r'no video stream \(streams: audio\)'),
    ('playlist', r'is not a video \(read as concat\)'),
    ('headless', 'truncated: an MP4 file without its index'),
  ],
)
def test_what_is_no_video_is_refused_with_its_name_and_reason(tmp_path, kind, reason):
  path = _bad_file(kind, tmp_path)
  with pytest.raises(files.VideoError, match=reason) as caught, files.open_video(path):
    pass
  assert caught.value.path == str(path) and str(path) not in caught.value.reason
  assert str(caught.value) == f'{path}: {caught.value.reason}'


def test_what_may_not_be_read_is_refused(tmp_path, monkeypatch):
  path = films.render(tmp_path / 'a.mp4', films.steady(2))

  def refuse(self, *args, **kwargs):
    raise PermissionError(13, 'Permission denied')

  monkeypatch.setattr(type(path), 'open', refuse)
  with pytest.raises(files.VideoError, match='cannot be read: Permission denied'), files.open_video(path):
    pass


def test_a_name_is_never_an_address(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  films.render(tmp_path / 'a.mp4', films.steady(2)).rename(tmp_path / 'concat:a.mp4')
  with files.open_video('concat:a.mp4') as video:
    assert video.stream.width == films.WIDTH


def test_errors_survive_being_sent_to_another_process():
  error = pickle.loads(pickle.dumps(files.DamagedVideoError('a.mp4', 'is truncated')))
  assert (error.path, error.reason, str(error)) == ('a.mp4', 'is truncated', 'a.mp4: is truncated')
