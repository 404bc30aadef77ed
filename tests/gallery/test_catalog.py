"""What an index knows of its videos: the same from the file, from memory and from the segments; never half written."""

import concurrent.futures
import contextlib
import json
import shutil
import sqlite3
import time

import numpy as np
import pytest

from dlkd_jax.gallery import building, catalog_file, filters, quantization
from dlkd_jax.gallery.catalog import Catalog
from dlkd_jax.gallery.gallery import Gallery
from dlkd_jax.gallery.index_folder import IndexFolder, IndexFolderError
from dlkd_jax.gallery.segments import Caption, Entry, describe_file
from dlkd_jax.gallery.texts import Texts
from tests.gallery.test_index_folder import create, damaged, fill


def content(folder):
  """What a catalog says, all of it."""
  found = Catalog.open(folder)
  columns = 'id, title, path, start, duration, split, frames, metadata, digest, dataset, size, written, said'
  cues = 'SELECT place, start, "end", text, track FROM texts WHERE start IS NOT NULL ORDER BY place, start'
  return (
    found.fetch(f'SELECT place, {columns} FROM videos ORDER BY place'),
    found.fetch('SELECT * FROM captions ORDER BY number'),
    found.fetch(cues) if Texts(found).count else [],
  )


def from_segments(folder):
  """The same, by plain loops over the segments."""
  videos, captions, cues, place, number = [], [], [], 0, 0
  for segment in folder.segments():
    for own, entry in enumerate(segment.entries):
      if entry.video_id not in segment.removed:
        start = entry.start if entry.start_known else None
        n = int(segment.offsets[own + 1] - segment.offsets[own])
        about = (start, entry.duration, entry.split, n, json.dumps(dict(entry.metadata), ensure_ascii=False))
        videos.append((place, entry.video_id, entry.title, entry.path, *about, entry.digest, entry.dataset))
        videos[-1] += (entry.size, entry.written, entry.said)
        cues += [(place, c.start, c.end, c.text, c.track) for c in segment.cues if c.video_id == entry.video_id]
      place += 1
    for caption in segment.captions:
      if caption.video_id not in segment.removed:
        row = (caption.caption_id, caption.video_id, caption.text, caption.start, caption.end)
        captions.append((number, *row))
      number += 1
  return videos, captions, cues


def check(path):
  folder = IndexFolder.open(path)
  folder.verify()
  assert content(folder) == from_segments(folder)
  names = [file.name for file in path.glob('catalog*')]
  assert names == [folder.manifest['catalog']['file']]
  return Catalog.open(folder)


def test_it_follows_every_change(world, tmp_path):
  path = tmp_path / 'index'
  building.build(path, world.collection, None, building.IndexSettings(clip=str(world.clip)), segment_frames=60)
  assert len(check(path)) == 16 and len(IndexFolder.open(path).manifest['segments']) > 2
  building.remove(path, lambda entry: entry.video_id in ('v001.mp4', 'v013.mp4'))
  found = check(path)
  assert len(found) == 14 and found.places == 16 and 'v001.mp4' not in found.videos
  building.compact(path)
  assert len(check(path)) == 14


def test_questions(tmp_path):
  folder = create(tmp_path / 'index')
  fill(folder, ['b', 'a', 'ä'])
  fill(folder, ['d', 'Z'], seed=1)
  folder.manifest['segments'][0]['removed'] = ['a']
  folder.write_manifest()
  found = Catalog.open(IndexFolder.open(folder.path))
  assert list(found.videos) == ['b', 'ä', 'd', 'Z'] and len(found) == len(found.videos) == 4 and found.places == 5
  assert [found.place_of(video) for video in found.videos] == [0, 2, 3, 4]
  assert found.segment_of(3) == (1, 0) and found.segment_of(2) == (0, 2)
  assert found.entries([4, 0]) == [found.videos['Z'], found.entry(0)] and found.entry(4).metadata == {'year': 2002}
  assert list(found.ranks()) == [1, -1, 3, 2, 0], 'by code points, as Python sorts'
  year = 'json_extract(metadata, \'$."year"\') >= ?'
  assert list(found.select(year, [2002])) == [False, False, True, False, True]
  assert list(found.filter(lambda entry: entry.metadata['year'] >= 2002)) == list(found.select(year, [2002]))
  assert list(found.select('casefold(title) = ?', ['ä'])) == [False, False, True, False, False]
  assert found.captions('d') == [Caption('d#0', 'd', 'Grüße', 0.5, None)] == [found.caption('d#0')]
  assert found.caption_place('Z#0') == (1, 1) and found.captions('a') == []
  assert [caption.video_id for caption in found.captions_by_id.values()] == ['b', 'ä', 'd', 'Z']
  assert dict(found.videos.items())['d'] == found.videos['d'] and 'a' not in found.videos and None not in found.videos
  for ask in (
    lambda: found.entry(1),
    lambda: found.place_of('a'),
    lambda: found.caption('a#0'),
    lambda: found.videos[0],
  ):
    with pytest.raises(KeyError):
      ask()
  moved = Catalog.open(IndexFolder.open(folder.path), videos=str(tmp_path / 'films'))
  assert moved.videos['d'].path == str(tmp_path / 'films' / 'd')


def test_an_index_without_one(tmp_path):
  """Made before there were catalogs, or changed by a program that knows of none."""
  folder = create(tmp_path / 'index')
  fill(folder, ['a', 'b'])
  expected = content(folder)
  damaged(folder.path, lambda manifest: manifest.pop('catalog'))
  assert content(IndexFolder.open(folder.path)) == expected
  damaged(folder.path, lambda manifest: manifest['segments'][0].update(removed=['a']))
  assert [row[1] for row in content(IndexFolder.open(folder.path))[0]] == ['b']
  shutil.rmtree(folder.path)
  folder = create(folder.path)
  fill(folder, ['a', 'b'])
  damaged(folder.path, lambda manifest: manifest['segments'][0].update(removed=['a']))
  assert [row[1] for row in content(IndexFolder.open(folder.path))[0]] == ['b'], 'a stale one is not believed'
  fill(IndexFolder.open(folder.path), ['c'], seed=2)
  assert len(check(folder.path)) == 2


def test_one_that_was_written_before_facts_of_files(tmp_path):
  folder = create(tmp_path / 'index')
  fill(folder, ['a', 'b'])
  file = folder.path / folder.manifest['catalog']['file']
  with contextlib.closing(sqlite3.connect(file)) as connection:
    for name in ('size', 'written', 'said'):
      connection.execute(f'ALTER TABLE videos DROP COLUMN {name}')
    connection.executescript('DROP TABLE words; DROP TABLE texts;')
  damaged(folder.path, lambda manifest: manifest['catalog'].update(describe_file(file)))
  found = Catalog.open(IndexFolder.open(folder.path))
  assert content(folder)[:2] == from_segments(folder)[:2] and found.videos['a'].size is None
  assert Texts(found).find('fällt', np.ones(2, bool)) == [] and Texts(found).cues(0) == []
  keep = filters.parse('size > 5 or date > 2020-01-01')
  assert not found.select(keep.sql, keep.parameters).any()
  fill(IndexFolder.open(folder.path), ['c'], seed=2)
  assert len(check(folder.path)) == 3
  assert 'size' in {
    row[1] for row in Catalog.open(IndexFolder.open(folder.path)).fetch('PRAGMA main.table_info(videos)')
  }


def test_a_damaged_one_is_named(tmp_path):
  folder = create(tmp_path / 'index')
  fill(folder, ['a'])
  file = folder.path / folder.manifest['catalog']['file']
  whole = file.read_bytes()
  for bad, message in ((whole[:-7], r'has \d+ bytes, expected'), (b'x' * len(whole), 'damaged'), (None, 'is absent')):
    file.unlink()
    if bad is not None:
      file.write_bytes(bad)
    with pytest.raises(IndexFolderError, match=message):
      IndexFolder.open(folder.path).contents()
  file.write_bytes(b'x' * len(whole))
  with pytest.raises(IndexFolderError, match='check sum'):
    IndexFolder.open(folder.path).verify()
  fill(IndexFolder.open(folder.path), ['b'], seed=1)
  assert len(check_videos(folder.path)) == 2, 'the segments know all of it'


def check_videos(path):
  return Catalog.open(IndexFolder.open(path)).videos


def test_files_of_others_with_such_names_stay(tmp_path):
  folder = create(tmp_path / 'index')
  (folder.path / 'catalog-000099.sqlite').write_text('mine')
  (folder.path / 'catalog-000003.sqlite').symlink_to(folder.path / 'catalog-000099.sqlite')
  (folder.path / 'catalog-7.sqlite').write_bytes(b'')
  for number in range(4):
    fill(folder, [f'v{number}'], seed=number)
  assert (folder.path / 'catalog-000099.sqlite').read_text() == 'mine' and (folder.path / 'catalog-7.sqlite').exists()
  assert (folder.path / 'catalog-000003.sqlite').is_symlink()


def test_what_a_killed_writer_left_goes(tmp_path):
  folder = create(tmp_path / 'index')
  fill(folder, ['a'])
  shutil.copy(folder.path / folder.manifest['catalog']['file'], folder.path / 'catalog-000050.sqlite.tmp')
  (folder.path / 'catalog-000051.sqlite').write_bytes(b'')
  fill(folder, ['b'], seed=1)
  check(folder.path)


def test_several_threads_and_a_writer(tmp_path):
  folder = create(tmp_path / 'index')
  fill(folder, [f'v{number}' for number in range(50)])
  reader = Catalog.open(IndexFolder.open(folder.path))
  with concurrent.futures.ThreadPoolExecutor(8) as pool:
    asked = [pool.submit(lambda n=n: reader.videos[f'v{n % 50}'].title) for n in range(400)]
    for number in range(5):
      fill(folder, [f'w{number}'], seed=number)
    assert [one.result() for one in asked] == [f'V{n % 50}' for n in range(400)]
  assert len(reader) == 50, 'what was opened stays as it was'


def test_a_folder_whose_name_means_something_in_addresses(tmp_path):
  folder = create(tmp_path / 'a ?mode=rw#%41 [ü]')
  fill(folder, ['a'])
  assert list(check(folder.path).videos) == ['a']


@pytest.mark.slow
def test_a_large_index_opens_fast(tmp_path):
  count, many = 200_000, 100_000
  path = tmp_path / 'index'
  path.mkdir()
  manifest = {'dtype': 'int8', 'scorers': {'teacher': 4}, 'weights': {'teacher': 1.0}, 'features': {}, 'text': {}}
  folder = IndexFolder.create(path, manifest | {'settings': {'long_videos': 'windows'}, 'student': None}, None)
  rows = {'teacher': quantization.encode(np.ones((1, 4), np.float32), 'int8')}
  times = np.zeros(1, np.float32)
  for first in range(0, count, many):
    writer = folder.new_segment()
    for number in range(first, first + many):
      entry = Entry(f'films/{number:06d}.mp4', f'Film {number}', '/films/x.mp4', 1.0, 'test', {'year': number % 50})
      writer.add(entry, times, rows, [Caption(f'{number}#0', entry.video_id, 'a dog')], {'teacher': np.ones((1, 4))})
    folder.commit([writer.finish()])
  seconds = []
  for _ in range(5):
    start = time.process_time()
    found = Gallery.open(path)
    seconds.append(time.process_time() - start)
  assert len(found) == count and found.videos['films/123456.mp4'].metadata == {'year': 6}
  print(f'opening {count:,} videos: {min(seconds):.3f} s of CPU time')
  assert min(seconds) < 0.5


def test_numbers_that_json_does_not_know(tmp_path):
  assert catalog_file._plain([1, float('nan')]) == [1, None] and catalog_file._plain(float('inf')) is None


def test_names_that_are_no_text_are_of_no_video(world):
  gallery = Gallery.open(world.index)
  for name in ('\udcff.mp4', 'v\ud800'):
    assert name not in gallery.videos and name not in gallery.captions
    with pytest.raises(KeyError):
      gallery.frames(name)


def test_damage_of_a_catalog_is_not_taken_over(tmp_path):
  folder = create(tmp_path / 'index')
  fill(folder, ['a', 'b'])
  (file,) = (tmp_path / 'index').glob('catalog-*.sqlite')
  content = file.read_bytes()
  assert content.count(b'B') and b'a#0' in content
  file.write_bytes(content.replace(b'a#0', b'a#9'))
  fill(IndexFolder.open(tmp_path / 'index'), ['c'])
  found = Catalog.open(IndexFolder.open(tmp_path / 'index'))
  assert [caption.caption_id for caption in found.captions('a')] == ['a#0']
