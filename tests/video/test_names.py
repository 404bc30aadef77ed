"""Names that people write, and the files that they mean."""

import os
import pathlib
import subprocess
import sys
import tempfile
import unicodedata

import pytest

from dlkd_jax.video import corpus, names
from tests.paths import repository


@pytest.mark.parametrize(
  'written',
  [
    'sub/café.mp4',
    'sub\\café.mp4',
    './sub/café.mp4',
    '.\\sub\\café.mp4',
    'sub//café.mp4',
    'sub/../sub/./café.mp4',
    'films/sub/café.mp4',
    'films\\sub\\café.mp4',
    './films/sub/café.mp4',
    '/data/films/sub/café.mp4',
    'data/films/sub/café.mp4',
    'SUB/Café.MP4',
    'café.mp4',
    'café',
    'CAFÉ',
    ' sub/café.mp4 ',
    'Films/SUB/CAFÉ',
  ],
)
@pytest.mark.parametrize('there', ['NFC', 'NFD'])
@pytest.mark.parametrize('here', ['NFC', 'NFD'])
def test_spellings(written, there, here):
  file = unicodedata.normalize(there, 'sub/café.mp4')
  book = names.Names([file, 'sub/other.mp4', 'b.mp4'], pathlib.Path('/data/films'))
  assert book.find(unicodedata.normalize(here, written)) == [file]


def test_the_exact_name_comes_first():
  both = [unicodedata.normalize(form, 'é.mp4') for form in ('NFC', 'NFD')]
  there = [*both, 'A.mp4', 'a.mp4', 'x\\y.mp4', 'x/y.mp4', 'films/b.mp4', 'b.mp4']
  book = names.Names(there, pathlib.Path('films'))
  for name in there:
    assert book.find(name) == [name]
  assert book.find('films/a.mp4') == ['a.mp4'] and book.find('./films/b.mp4') == ['films/b.mp4']


def test_what_may_be_two_files_is_both():
  book = names.Names(['A.mp4', 'a.MP4', 'x/c.mp4', 'y/c.mp4'], pathlib.Path('films'))
  assert book.find('a.mp4') == ['A.mp4', 'a.MP4'] and book.find('c') == ['x/c.mp4', 'y/c.mp4']
  assert book.find('x/d.mp4') == [] and book.find('z/c.mp4') == []


def test_the_nearest_names():
  book = names.Names(['lake.mp4', 'sub/lakes.mp4', 'mountain.mp4'], pathlib.Path('films'))
  assert book.nearest('x/lake2.mp4', 3)[:2] == ('lake.mp4', 'sub/lakes.mp4')


def _folder(tmp_path, *files):
  for name in files:
    path = tmp_path / 'films' / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b'x')
  return tmp_path / 'films'


def test_captions_of_no_film_are_refused_with_near_names(tmp_path):
  folder = _folder(tmp_path, 'lake.mp4', 'lakes.mp4', 'hill.mp4')
  captions = tmp_path / 'captions.jsonl'
  captions.write_text('{"video": "lake_1.mp4", "text": "a"}\n{"video": "q.mp4", "text": "b"}')
  with pytest.raises(ValueError, match=r"none of its 2 videos is in .*'lake_1.mp4'; the nearest .*'lake.mp4'"):
    corpus.find(folder, captions)
  captions.write_text('{"video": "lake_1.mp4", "text": "a"}\n{"video": "hill", "text": "b"}')
  found = corpus.find(folder, captions)
  assert found.missing == {'lake_1.mp4': 1} and 'lake.mp4' in found.nearest['lake_1.mp4']


def test_two_spellings_of_one_film_are_one(tmp_path):
  folder = _folder(tmp_path, 'a.mp4')
  captions = tmp_path / 'captions.jsonl'
  captions.write_text('{"video": "a.mp4", "text": "1"}\n{"video": "./a.mp4", "text": "2"}\n')
  (job,) = corpus.find(folder, captions).jobs
  assert [each.text for each in job.captions] == ['1', '2']
  captions.write_text('{"video": "a.mp4", "text": "1"}\n{"video": "./a.mp4", "text": "2", "split": "val"}\n')
  with pytest.raises(ValueError, match='named in two ways'):
    corpus.find(folder, captions)


def test_what_is_no_film_is_named_and_not_opened(tmp_path, monkeypatch):
  folder = _folder(tmp_path, 'a.mp4', 'x.mp4/b.mp4', 'real/c.mp4')
  os.mkfifo(folder / 'pipe.mp4')
  (folder / 'gone.mp4').symlink_to('nowhere.mp4')
  (folder / 'circle.mp4').symlink_to('circle.mp4')
  (folder / 'up').symlink_to(tmp_path)
  (folder / 'again').symlink_to(folder / 'real')
  (folder / 'device.mp4').symlink_to('/dev/zero')
  open(os.fsencode(folder) + b'/caf\xe9.mp4', 'wb').close()
  for name in ('new\nline.mp4', 'l' * 250 + '.mp4', '\x1b[2J.mp4'):
    (folder / name).write_bytes(b'x')
  captions = folder / 'captions.jsonl'
  captions.write_text('{"video": "a", "text": "x"}')
  found = corpus.find(folder, captions)
  assert not found.skipped
  assert set(found.refused) == {'caf\udce9.mp4'} and set(found.left) == {'x.mp4', 'up'}
  assert 'real/c.mp4' in {job.video for job in found.jobs} and 'again/c.mp4' not in {job.video for job in found.jobs}
  reasons = {}
  for job in found.jobs:
    try:
      job.look()
    except ValueError as error:
      reasons[job.video] = error.reason
  assert set(reasons) == {'pipe.mp4', 'gone.mp4', 'circle.mp4', 'device.mp4'}
  assert 'named pipe' in reasons['pipe.mp4'] and 'a device' in reasons['device.mp4']
  assert 'link to nowhere.mp4' in reasons['gone.mp4'] and 'symbolic links' in reasons['circle.mp4']


def test_a_folder_that_cannot_be_listed_is_named(tmp_path, monkeypatch):
  folder = _folder(tmp_path, 'a.mp4', 'closed/b.mp4')
  real = os.scandir

  def scandir(path):
    if str(path).endswith('closed'):
      raise PermissionError(13, 'Permission denied', str(path))
    return real(path)

  monkeypatch.setattr(os, 'scandir', scandir)  # The administrator may list everything.
  found = corpus.find(folder, None)
  assert found.refused == {'closed': 'is a folder that cannot be listed: Permission denied'}
  assert [job.video for job in found.jobs] == ['a.mp4']


_AS_ANOTHER = """
import os, pathlib, sys
from dlkd_jax.video import corpus
if os.geteuid() == 0:
  os.setgid(65534), os.setuid(65534)
found = corpus.find(pathlib.Path(sys.argv[1]), None)
print(found.refused)
for job in found.jobs:
  try:
    print(job.video, bool(job.look()))
  except ValueError as error:
    print(job.video, error.reason)
"""


def test_what_may_not_be_read_is_named():
  with tempfile.TemporaryDirectory() as name:  # That of the test is open to its owner alone.
    folder = pathlib.Path(name)
    folder.chmod(0o755)
    for file in ('a.mp4', 'b.mp4', 'closed/c.mp4', 'listed/d.mp4', 'listed/inner/e.mp4'):
      (folder / file).parent.mkdir(parents=True, exist_ok=True)
      (folder / file).write_bytes(b'x')
    (folder / 'b.mp4').chmod(0)
    (folder / 'closed').chmod(0)
    (folder / 'listed').chmod(0o444)
    command = [sys.executable, '-c', _AS_ANOTHER, name]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=repository())
    for closed in ('closed', 'listed'):
      (folder / closed).chmod(0o755)
  assert done.stdout.split('\n')[1:-1] == [
    'a.mp4 True',
    'b.mp4 cannot be read: Permission denied',
    'listed/d.mp4 cannot be read: Permission denied',
  ], done.stderr
  assert "'closed': 'is a folder that cannot be listed: Permission denied'" in done.stdout
  assert "'listed/inner': 'is a folder that cannot be listed: Permission denied'" in done.stdout
