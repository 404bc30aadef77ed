"""The index on disk: what is checked when it is opened, and that it never lies half changed."""

import json
import shutil

import numpy as np
import pytest

from dlkd_jax.errors import UserError
from dlkd_jax.gallery import building, index_folder, index_text, quantization
from dlkd_jax.gallery.gallery import Gallery
from dlkd_jax.gallery.index_folder import IndexFolder, IndexFolderError
from dlkd_jax.gallery.segments import Caption, Cue, Entry

SCORERS = {'inheritance': 4, 'teacher': 3}


def create(path, dtype='float16'):
  manifest = {'dtype': dtype, 'scorers': SCORERS, 'weights': {'inheritance': 1.0}, 'features': {}, 'text': {}}
  manifest |= {'settings': {'long_videos': 'windows'}, 'student': None}
  path.mkdir(exist_ok=True)
  return IndexFolder.create(path, manifest, None)


def fill(folder, videos, seed=0):
  """Adds a segment of videos with 1, 2, 3, … frames; returns what went into it."""
  writer, rng, given = folder.new_segment(), np.random.default_rng(seed), []
  for number, video in enumerate(videos, 1):
    rows = {name: rng.normal(size=(number, size)).astype(np.float32) for name, size in SCORERS.items()}
    stored = {name: quantization.encode(array, folder.manifest['dtype']) for name, array in rows.items()}
    entry = Entry(video, video.upper(), duration=float(number), split='test', metadata={'year': 2000 + number})
    said = [Caption(f'{video}#0', video, 'Grüße', 0.5, None)]
    times = np.arange(number, dtype=np.float32)
    cues = [Cue(video, 0.5, 1.5, f'{video} fällt', 'de')] if number % 2 else []
    writer.add(entry, times, stored, said, {name: array[:1] for name, array in rows.items()}, cues)
    given.append((entry, times, stored, said))
  folder.commit([writer.finish()])
  return given


@pytest.mark.parametrize('dtype', ['float16', 'int8'])
def test_what_is_written_comes_back(tmp_path, dtype):
  folder = create(tmp_path / 'index', dtype)
  given = fill(folder, ['a', 'b', 'c']) + fill(folder, ['d'], seed=1)
  opened = IndexFolder.open(tmp_path / 'index')
  opened.verify()
  found = [
    (
      entry,
      segment.times[segment.slice_of(v)],
      segment.rows_of(v),
      [c for c in segment.captions if c.video_id == entry.video_id],
    )
    for segment in opened.segments()
    for v, entry in enumerate(segment.entries)
  ]
  assert [entry for entry, *_ in found] == [entry for entry, *_ in given]
  for (_, times, rows, said), (_, given_times, given_rows, given_said) in zip(found, given, strict=True):
    np.testing.assert_array_equal(times, given_times)
    assert said == given_said
    for name in SCORERS:
      np.testing.assert_array_equal(rows[name].decode(), given_rows[name].decode())
  there = [path for path in (tmp_path / 'index').rglob('*') if path.is_file() and path.name != 'manifest.json']
  assert opened.bytes() == sum(path.stat().st_size for path in there)


def test_what_was_not_committed_is_not_there_and_is_cleared_away(tmp_path):
  folder = create(tmp_path / 'index')
  fill(folder, ['a'])
  folder.new_segment().abandon()
  opened = IndexFolder.open(tmp_path / 'index')
  assert [s.name for s in opened.segments()] == ['000001']
  assert len(list((tmp_path / 'index' / 'segments').iterdir())) == 2
  opened.clear_away()
  fill(opened, ['b'])
  assert [s.entries[0].video_id for s in IndexFolder.open(tmp_path / 'index').segments()] == ['a', 'b']


def test_a_reader_that_was_overtaken_takes_the_new_state(tmp_path):
  folder = create(tmp_path / 'index')
  fill(folder, ['a'])
  reader = IndexFolder.open(tmp_path / 'index')
  mapped = reader.segments()
  writer = folder.new_segment()
  for video, entry in enumerate(mapped[0].entries):
    vectors = mapped[0].caption_vectors
    writer.add(entry, mapped[0].times, mapped[0].rows_of(video), mapped[0].captions, vectors)
  folder.commit([writer.finish()], replace=True)
  assert not (tmp_path / 'index' / 'segments' / '000001').exists()
  assert np.isfinite(mapped[0].rows['teacher'].decode()).all(), 'what is mapped stays readable'
  assert [s.name for s in reader.segments()] == ['000002']


def damaged(path, change):
  """A manifest changed by a function."""
  manifest = json.loads((path / 'manifest.json').read_text())
  change(manifest)
  (path / 'manifest.json').write_text(json.dumps(manifest))


def test_everything_is_checked_on_opening(world, tmp_path):
  def fresh():
    shutil.rmtree(tmp_path / 'index', ignore_errors=True)
    return shutil.copytree(world.index, tmp_path / 'index')

  with pytest.raises(FileNotFoundError, match=r'is no index.*dlkd add FOLDER'):
    IndexFolder.open(tmp_path)
  with pytest.raises(FileNotFoundError, match='does not exist'):
    IndexFolder.open(tmp_path / 'nowhere')

  path = fresh()
  damaged(path, lambda manifest: manifest.update(version=2))
  with pytest.raises(IndexFolderError, match=r'version 2, expected .* of version 1.*build it anew'):
    IndexFolder.open(path)
  damaged(path, lambda manifest: (manifest.update(version=1), manifest.pop('segments')))
  with pytest.raises(IndexFolderError, match=r"lacks \['segments'\]"):
    IndexFolder.open(path)
  (path / 'manifest.json').write_text('{"format"')
  with pytest.raises(IndexFolderError, match='is damaged'):
    IndexFolder.open(path)

  path = fresh()
  (student,) = path.glob('student-*.safetensors')
  content = bytearray(student.read_bytes())
  content[-1] ^= 1
  student.write_bytes(content)
  with pytest.raises(IndexFolderError, match=r'has the check sum .*expected the check sum.*not the one'):
    IndexFolder.open(path)
  student.write_bytes(content[:-4])
  with pytest.raises(IndexFolderError, match=r'has \d+ bytes, expected \d+ bytes'):
    IndexFolder.open(path)
  student.unlink()
  with pytest.raises(IndexFolderError, match='is absent'):
    IndexFolder.open(path)

  path = fresh()
  values = path / 'segments' / '000001' / 'teacher.values'
  content = bytearray(values.read_bytes())
  content[5] ^= 1
  values.write_bytes(content)
  IndexFolder.open(path).segments()
  with pytest.raises(IndexFolderError, match='check sum'):
    IndexFolder.open(path).verify()
  values.write_bytes(content[:-1])
  with pytest.raises(IndexFolderError, match=r'has \d+ bytes, expected \d+'):
    IndexFolder.open(path).segments()
  values.unlink()
  with pytest.raises(IndexFolderError, match='is absent'):
    IndexFolder.open(path).segments()


def test_one_writer_at_a_time(world, tmp_path):
  path = shutil.copytree(world.index, tmp_path / 'index')
  with index_folder.writing(path), pytest.raises(IndexFolderError, match='another process is changing'):
    building.add(path, world.collection)
  assert building.add(path, world.collection).added == 0


def test_a_folder_of_other_files_is_refused(world, tmp_path):
  (tmp_path / 'letter.txt').write_text('dear')
  with pytest.raises(IndexFolderError, match=r'letter\.txt'):
    building.build(tmp_path, world.collection, None)
  assert not (tmp_path / 'manifest.json').exists()


def test_rows_of_another_shape_are_refused(tmp_path):
  folder = create(tmp_path / 'index')
  writer = folder.new_segment()
  rows = {name: quantization.encode(np.ones((2, size), np.float32), 'float16') for name, size in SCORERS.items()}
  with pytest.raises(ValueError, match="video 'a': inheritance has float16"):
    writer.add(Entry('a', 'a'), np.zeros(3, np.float32), rows)
  writer.abandon()


def places(value, place=()):
  """Yields the place of every value in a manifest."""
  if place:
    yield place
  names = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
  for name in names:
    yield from places(value[name], (*place, name))


def test_a_damaged_manifest_is_named_wherever_it_is_damaged(tmp_path):
  path = tmp_path / 'index'
  fill(create(path), ['a', 'b'])
  good = json.loads((path / 'manifest.json').read_text())
  good |= {'forgotten': {'x': {'digest': ''}}, 'pruned': ['y'], 'roots': ['/films']}
  good['text'] = {'teacher': {'fingerprint': 'words:8', 'clip': None}, 'tokens': None}
  good['settings'] |= {'videos': '/films', 'metadata': '/said.jsonl', 'data_dir': '/data', 'dataset': 'custom_prvr'}
  (path / 'manifest.json').write_text(json.dumps(good))
  rng, refused = np.random.default_rng(0), 0
  odd = [None, 'x', 5, -1, 1.5, [], {}, ['a'], {'a': 1}, True, [None], {'a': None}, float('nan'), 10**30, '../x']
  for place in places(good):
    for wrong in [*odd, 'absent']:
      manifest = json.loads(json.dumps(good))
      within = manifest
      for name in place[:-1]:
        within = within[name]
      if wrong == 'absent':
        del within[place[-1]]
      else:
        within[place[-1]] = wrong
      (path / 'manifest.json').write_text(json.dumps(manifest))
      try:
        folder = IndexFolder.open(path)
        folder.verify()
        index_text.describe_index(index_text.summarize(folder), 'index')
        vectors = {name: rng.normal(size=(1, size)) for name, size in SCORERS.items()}
        Gallery.open(path).search_vectors(vectors, where='year>2000')
      except (UserError, FileNotFoundError) as error:  # Anything else is a bug.
        refused += 1
        assert len(str(error).splitlines()) == 1
  assert refused > 300
