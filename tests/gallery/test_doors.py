"""The commands as a user gives them, each a process of its own: from a data set to a moment."""

import json
import re
import shutil

import pytest

from tests import forked
from tests.environment import environment
from tests.gallery import worlds
from tests.test_packaging import without_training
from tests.video import films


@pytest.fixture(scope='module')
def folder(world, tmp_path_factory):
  """A folder with `clip`, `data` (test, gallery and val), `run`, `films` and `about.jsonl`; commands run in it."""
  path = tmp_path_factory.mktemp('doors')
  shutil.copytree(world.clip, path / 'clip')
  worlds.data_set(path / 'data', path / 'clip', 12)
  worlds.data_set(path / 'data', path / 'clip', 4, 'gallery', first=12)
  worlds.data_set(path / 'data', path / 'clip', 6, 'val', first=20)
  shutil.copytree(world.run, path / 'run')
  (path / 'films').mkdir()
  for number in range(16):
    (path / 'films' / f'v{number:03d}.mp4').write_bytes(b'')
  about = [{'video': f'v{n:03d}.mp4', 'title': f'Film {n}', 'year': 2000 + n} for n in range(16)]
  (path / 'about.jsonl').write_text('\n'.join(map(json.dumps, about)))
  return path


def run(folder, module, *arguments, code=0, given=''):
  done = forked.run(module, arguments, environment(), folder, given)
  assert done.returncode == code, done.stdout + done.stderr
  assert 'Traceback' not in done.stderr
  return done.stdout if code == 0 else done.stderr


@pytest.fixture(scope='module')
def index(folder):
  """The index that the first command makes."""
  options = ('--workdir=run', '--data_dir=data', '--splits=test,gallery', '--clip=clip', '--index=index')
  said = run(folder, 'dlkd_jax.index', 'build', *options, '--videos=films', '--metadata=about.jsonl')
  assert said.startswith('16 videos with 24 captions added to index\n') and said.count('\n') == 1
  return '--index=index'


def test_a_sentence_finds_moments(folder, index):
  said = run(folder, 'dlkd_jax.search', 'a red square', index, '--top=3', '--moments=2')
  first, heading, *rows = said.splitlines()
  assert re.fullmatch('“a red square”: 16 videos, [0-9.]+ s', first) and len(rows) == 3
  assert heading.split() == ['rank', 'score', 'video', 'title', 'moment', 'inheritance', 'exploration', 'teacher']
  for rank, row in enumerate(rows, 1):
    assert re.match(rf'\s+{rank}  -?0\.\d{{3}}  v0\d\d\.mp4  Film \d+\s+0:\d\d\u20130:\d\d', row), row


def test_json_says_all_of_it(folder, index):
  content = json.loads(run(folder, 'dlkd_jax.search', 'a red square', index, '--top=2', '--json', '--curve'))
  assert content['query'] == 'a red square' and content['total'] == 16 and len(content['hits']) == 2
  hit = content['hits'][0]
  assert set(hit['scores']) == {'inheritance', 'exploration', 'teacher'}
  assert hit['score'] == pytest.approx(
    0.7 * hit['scores']['inheritance'] + 0.3 * hit['scores']['exploration'], abs=1e-5
  )
  assert hit['path'] == str(folder / 'films' / hit['video_id']) and hit['metadata']['year'] >= 2000
  assert len(hit['times']) == len(hit['curve']) and max(hit['curve']) == hit['moments'][0]['score']


def test_queries_of_a_file(folder, index):
  asked = 'a red square\n{"caption": "v003.mp4#1", "id": "second"}\n'
  options = ('--queries=-', index, '--json', '--zero_shot', '--where=year>=2004', '--flat', '--moments=2', '--top=4')
  one, other = map(json.loads, run(folder, 'dlkd_jax.search', *options, given=asked).splitlines())
  assert one['query'] == 'a red square' and 'id' not in one
  assert other['query'] == '3 moves left' and other['id'] == 'second' and other['total'] == 12
  assert len(other['hits']) == 4 and all(len(hit['moments']) == 1 for hit in other['hits'])
  said = run(folder, 'dlkd_jax.search', index, '--caption=v003.mp4#1', '--threshold=9')
  assert said.startswith('“3 moves left”: nothing found with a score of 9 or more; the best has')


def test_add_remove_info_tune(folder, index):
  shutil.copytree(folder / 'index', folder / 'changed')
  changed = '--index=changed'
  which = [f'v{number:03d}.mp4' for number in (0, 1, 2, 3, 9, 999)]
  said = run(folder, 'dlkd_jax.index', 'remove', *which, '--where=year<2009', '--compact', changed)
  assert said.startswith('4 videos removed from changed\n') and said.endswith('MiB freed\n')
  info = json.loads(run(folder, 'dlkd_jax.index', 'info', changed, '--json'))
  assert (info['videos'], info['removed'], info['splits']) == (12, 0, {'gallery': 4, 'test': 8})
  said = run(folder, 'dlkd_jax.index', 'add', changed, '--splits=gallery,val')
  assert said.startswith('6 videos with 12 captions added to changed; 4 were there already')
  said = run(folder, 'dlkd_jax.index', 'tune', changed)
  assert said.startswith('custom_prvr, val: 12 captions, 6 videos\nteacher   SumR\n') and 'stored in changed: ' in said
  assert run(folder, 'dlkd_jax.index', 'accelerate', changed).startswith('2 segments of changed prepared')
  ask = ('dlkd_jax.search', 'a red square', changed, '--json')
  one, other = json.loads(run(folder, *ask)), json.loads(run(folder, *ask, '--two_stage'))
  assert [hit['video_id'] for hit in one['hits']] == [hit['video_id'] for hit in other['hits']]
  said = run(folder, 'dlkd_jax.index', 'info', changed, '--verify')
  assert 'videos     18, ' in said and 'year (12)' in said and said.endswith('every file is what was written\n')
  assert 'v005.mp4#0\ta red square 5\n' in run(folder, 'dlkd_jax.index', 'info', changed, '--captions')


def test_errors_are_one_line(folder, index):
  for module, arguments, message in (
    ('search', ('a', '--index=nowhere'), 'nowhere is no index: it does not exist; `dlkd add FOLDER --index=nowhere`'),
    ('search', ('a', index, '--zero_shot', '--weights=teacher=1'), 'contradict'),
    ('index', ('build', '--data_dir=data', index), 'made otherwise'),
    ('index', ('build', '--data_dir=nowhere', '--index=new'), 'No built data set in nowhere'),
  ):
    said = run(folder, f'dlkd_jax.{module}', *arguments, code=1)
    assert said.count('\n') == 1 and said.startswith('error: ') and message in said, said
  assert not (folder / 'new').exists()


def test_the_index_is_the_one_of_the_folder_or_of_the_environment(folder, index, tmp_path):
  def info(where, code=0, **more):
    done = forked.run('dlkd_jax', ('info',), environment(**more), where)
    assert done.returncode == code, done.stderr
    return done.stdout or done.stderr

  assert info(folder).startswith('index      index, ')
  assert info(tmp_path, DLKD_INDEX=str(folder / 'index')).startswith(f'index      {folder}/index, ')
  assert info(tmp_path, code=1) == (
    'error: index is no index: it does not exist; `dlkd add FOLDER --index=index` makes one of the films in a folder\n'
  )


def test_a_command_is_what_its_module_is(folder, index):
  asked = ('a red square', '--top=2', '--json')
  one, other = run(folder, 'dlkd_jax', 'search', *asked), run(folder, 'dlkd_jax.search', *asked, index)
  assert '"total": 16' in one and one.partition('"seconds"')[0] == other.partition('"seconds"')[0]


def test_search_needs_nothing_that_training_alone_needs(folder, tmp_path):
  (tmp_path / 'films').mkdir()
  for name, frames in (('one', 25), ('other', 50)):
    films.render(tmp_path / f'films/{name}.mp4', films.steady(frames))
  at = f'--index={tmp_path}/index'
  for command in (
    ('add', f'{tmp_path}/films', f'--clip={folder}/clip', at),
    ('remove', 'other.mp4', '--compact', at),
    ('search', 'a red square', at),
  ):
    done = without_training(*command)
    assert done.returncode == 0, done.stderr
  assert '“a red square”: 1 video,' in done.stdout and 'one.mp4' in done.stdout
  # An index of films is of no data set; captions to weigh it by are looked for in the usual place, or where one says.
  assert 'No built data set in data/custom_prvr' in run(tmp_path, 'dlkd_jax', 'tune', code=1)
  assert 'there is nothing to blend' in run(tmp_path, 'dlkd_jax', 'tune', f'--data_dir={folder}/data', code=1)
