"""Commands one after another in any order: the index holds what a dictionary says that it should."""

import dataclasses
import hashlib
import itertools
import json
import pathlib

import numpy as np
import pytest

from dlkd_jax.errors import UserError
from dlkd_jax.gallery import acceleration, building, index_text
from dlkd_jax.gallery.building import IndexSettings
from dlkd_jax.gallery.catalog import Catalog
from dlkd_jax.gallery.collection import Collection, Knowledge
from dlkd_jax.gallery.gallery import Gallery
from dlkd_jax.gallery.index_folder import IndexFolder

WIDTH = 6
# Names that quoting, patterns or line ends could break.
NAMES = ("it's.mp4", 'a "b".mp4', '100%_.mp4', 'two\nlines.mp4', 'dir/é.mp4', 'dir/e\u0301.mp4', '-x', ' ', '日本.mkv')
NAMES += tuple(f'v{number}.mp4' for number in range(8))


def rows(video, version):
  """The frames of a version of a video."""
  seed = int.from_bytes(hashlib.sha256(f'{video}\0{version}'.encode()).digest()[:8], 'big')
  rng = np.random.default_rng(seed)
  found = rng.normal(size=(int(rng.integers(1, 6)), WIDTH)).astype(np.float32)
  return found / np.linalg.norm(found, axis=1, keepdims=True)


@dataclasses.dataclass(frozen=True)
class Records(Collection):
  """A data set in memory: `videos` is id → version, all of one split."""

  videos: dict = dataclasses.field(default_factory=dict)

  @classmethod
  def of(cls, videos):
    names = ('student', 'tokens', 'teacher')
    options, sizes = dict.fromkeys(names, 'words:8'), {'Dv': 4, 'Dq': 8, 'Dt': WIDTH}
    return cls('data', 'custom_prvr', ('test',), options, sizes, {'test': len(videos)}, pathlib.Path(), videos=videos)

  def digests(self):
    return {video: f'{version:032x}' for video, version in self.videos.items()}

  def find(self, wanted):
    return {video: ('test', number) for number, video in enumerate(self.videos) if video in wanted}

  def records(self, places=None, running=None):
    for number in sorted(number for _, number in places):
      video = list(self.videos)[number]
      frames = rows(video, self.videos[video])
      yield (
        'test',
        {
          'video_id': video,
          'duration': float(len(frames)),
          'start': 0.0,
          'teacher_frames': frames,
          'student_frames': np.zeros((len(frames), 4), np.float32),
          'token_lengths': np.ones(1, np.int32),
          'teacher_text': frames[:1],
          'caption_ids': [f'{video}#0'],
          'captions': [f'{video} {self.videos[video]}'],
          'moments': np.array([[0.0, 1.0]]),
        },
      )


class Machine:
  """An index, and what should be in it."""

  def __init__(self, folder, seed):
    self.rng, self.index, self.films = np.random.default_rng(seed), folder / 'index', folder / 'films'
    self.said, self.step = folder / 'said.jsonl', 0
    self.data, self.next = {}, 1  # The data set, and the next version.
    self.inside, self.forgotten, self.pruned = {}, set(), set()  # The index: id → version and description.
    self.described = {}
    (self.films / 'dir').mkdir(parents=True)
    self.change_data()
    self.write()
    self.build()

  def pick(self, some, most=4):
    some = sorted(some)
    return [some[n] for n in self.rng.permutation(len(some))[: int(self.rng.integers(1, most + 1))]]

  def knowledge(self):
    return Knowledge.read(self.films, self.said)

  def write(self):
    lines = [json.dumps({'video': video, **said}) for video, said in self.described.items()]
    self.said.write_text('\n'.join(lines))

  def change_data(self):
    """Videos come, change and go in the data set; so do films and descriptions."""
    for video in self.pick(NAMES):
      self.data[video] = self.next
      self.next += 1
      (self.films / video).write_bytes(b'')
    for video in self.pick(self.data, 2) if len(self.data) > 4 else ():
      del self.data[video]
    for video in self.pick(self.data, 2) if len(self.data) > 4 and self.rng.random() < 0.5 else ():
      (self.films / video).unlink(missing_ok=True)
    for video in self.pick(self.described, 1) if len(self.described) > 4 else ():
      del self.described[video]  # What was said of it stays.
    for video in self.pick(NAMES, 2):
      self.described[video] = {'year': int(self.rng.integers(2000, 2005)), 'tags': ["it's", '50%']}
      if self.rng.random() < 0.5:
        self.described[video]['title'] = f'T{self.next}'
    self.write()

  def is_there(self, video):
    return (self.films / video).is_file()

  def wanted(self, video):
    return self.data[video], json.dumps(self.described.get(video))

  def take(self, update=False, prune=False, again=False):
    """What an addition does; returns whether it is refused."""
    vanished = {video for video in self.inside if video not in self.data or not self.is_there(video)}
    changed = set()
    for video, (version, said) in self.inside.items():
      if (video in self.data and self.data[video] != version) or (
        video in self.described and json.dumps(self.described[video]) != said
      ):
        changed.add(video)
    changed &= set(self.inside)
    new = {v for v in self.data if v not in self.inside and (v not in self.pruned or self.is_there(v))}
    if not again:
      new -= self.forgotten
    taken = new | ({video for video in changed if video in self.data} if update else set())
    if prune and vanished:
      kept = {v for v in self.inside if v in self.data and v not in taken and v not in vanished}
      if not kept and not any(self.is_there(video) for video in taken):
        return None
    gone = {video for video in vanished if video not in taken} if prune else set()
    for video in gone:
      del self.inside[video]
    self.pruned = (self.pruned | gone) - taken
    self.forgotten -= taken
    for video in taken:
      before = json.loads(self.inside[video][1]) if video in self.inside else None
      self.inside[video] = self.data[video], json.dumps(self.described.get(video, before))
    return len(new), gone

  def frames(self):
    return int(self.rng.choice([1, 4, 12, 1 << 18]))

  def build(self):
    expected = self.take()
    done = building.build(
      self.index, Records.of(dict(self.data)), None, IndexSettings(), self.knowledge(), segment_frames=self.frames()
    )
    assert done.added == expected[0]

  def add(self):
    wish = {name: bool(self.rng.random() < 0.5) for name in ('update', 'prune', 'again')}
    before = dict(self.inside), set(self.forgotten), set(self.pruned)
    expected = self.take(**wish)
    given = self.knowledge() if self.rng.random() < 0.5 else None
    collection = Records.of(dict(self.data))
    if expected is None:
      self.inside, self.forgotten, self.pruned = before
      with pytest.raises(UserError, match='is its disk there'):
        building.add(self.index, collection, given, self.frames(), **wish)
    else:
      done = building.add(self.index, collection, given, self.frames(), **wish)
      assert (done.added, set(done.pruned)) == expected

  def remove(self):
    names = set(self.pick(NAMES, 3))
    gone = building.remove(self.index, lambda entry: entry.video_id in names)
    assert set(gone) == names & set(self.inside)
    self.forgotten |= set(gone)
    for video in gone:
      del self.inside[video]

  def compact(self):
    building.compact(self.index, self.frames())

  def accelerate(self):
    acceleration.accelerate(self.index)

  def kill(self):
    """What a killed writer leaves: a segment that was never finished."""
    folder = IndexFolder.open(self.index)
    folder.new_segment().abandon()

  def run(self):
    """Does one thing, and checks the index."""
    names = ('change_data', 'build', 'add', 'add', 'add', 'remove', 'compact', 'accelerate', 'kill')
    name = str(self.rng.choice(names))
    getattr(self, name)()
    self.step += 1
    self.check()
    return name

  def check(self):
    folder = IndexFolder.open(self.index)
    folder.verify()
    assert set(folder.manifest.get('forgotten', ())) == self.forgotten
    gallery, catalog = Gallery.open(self.index), Catalog.open(folder)
    assert set(gallery.videos) == set(self.inside) and len(gallery) == len(self.inside)
    for video, (version, said) in self.inside.items():
      found = gallery.frames(video)[1]['teacher']
      np.testing.assert_allclose(found, rows(video, version), atol=2e-3, err_msg=video)
      said, entry = json.loads(said) or {}, gallery.videos[video]
      title = said.pop('title', None)
      assert entry.metadata == said and (
        entry.title == title if title else entry.title == video.rpartition('.')[0] or video
      )
      assert [caption.text for caption in catalog.captions(video)] == [f'{video} {version}']
      (result,) = gallery.search_captions([f'{video}#0'], top=3)
      assert result.total == len(self.inside) and result.hits[0].video_id == video
    if self.inside:
      self.check_pages(gallery)

  def check_pages(self, gallery):
    query = {'teacher': self.rng.normal(size=(1, WIDTH)).astype(np.float32)}
    best = {v: float((rows(v, version) @ query['teacher'][0]).max()) for v, (version, _) in self.inside.items()}
    ways = [None, False] if acceleration.is_ready(gallery.manifest) else [None]
    for exact in ways:
      pages = []
      while len(pages) < len(self.inside):
        (result,) = gallery.search_vectors(query, top=3, offset=len(pages), exact=exact)
        assert result.total == len(self.inside) and result.hits
        pages += [hit.video_id for hit in result.hits]
      assert sorted(pages) == sorted(self.inside)
      scores = [best[video] for video in pages]
      assert all(one >= other - 0.02 for one, other in itertools.pairwise(scores))
    year = int(self.rng.integers(2000, 2005))
    (result,) = gallery.search_vectors(query, top=99, where=f'year={year} and tags="it\'s"')
    years = {video: (json.loads(said) or {}).get('year') for video, (_, said) in self.inside.items()}
    assert {hit.video_id for hit in result.hits} == {video for video in years if years[video] == year}
    names = sorted(self.inside)[:3]
    (result,) = gallery.search_vectors(query, top=99, where={'id': names})
    forms = {hit.video_id for hit in result.hits}
    assert set(names) <= forms <= set(self.inside)


@pytest.mark.parametrize('seed', [0, 1])
def test_sequences(tmp_path, seed):
  machine = Machine(tmp_path, seed)
  done = [machine.run() for _ in range(25)]
  assert len(set(done)) > 4


@pytest.mark.slow
@pytest.mark.parametrize('seed', range(100, 112))
def test_many_sequences(tmp_path, seed):
  machine = Machine(tmp_path, seed)
  for _ in range(80):
    machine.run()


def test_the_same_name_in_two_data_sets_is_named(tmp_path):
  building.build(tmp_path / 'index', Records.of({'a': 1, 'b': 2}), None, IndexSettings())
  other = dataclasses.replace(Records.of({'a': 9, 'c': 3}), dataset='other')
  done = building.add(tmp_path / 'index', other)
  assert (done.added, done.alike) == (1, ['a'])
  assert 'names from another data set: a' in index_text.describe_addition(done, 'index')
  assert building.add(tmp_path / 'index', Records.of({'a': 1, 'b': 2})).alike == []
