"""What there is to filter by: each filter that is offered chooses as many videos as it says."""

import numpy as np
import pytest

from dlkd_jax.gallery import facets, filters, quantization
from dlkd_jax.gallery.catalog import Catalog
from dlkd_jax.gallery.gallery import Gallery
from dlkd_jax.gallery.segments import Entry
from tests.gallery.test_index_folder import SCORERS, create

ABOUT = [
  ('lake/a.mp4', {'year': 2019, 'tags': ['dog', "it's"], 'day': '2019-05-01', 'note': 'one of a kind', 'seen': True}),
  ('lake/b.mp4', {'year': 2021, 'tags': ['dog'], 'day': '2020-05-01T10:00:00Z', 'mixed': 3}),
  ('lake/deep/c.mp4', {'year': 2020.5, 'tags': [], 'mixed': 'x', 'seen': False, 'a "b" c': 'y'}),
  ('d.mp4', {'year': 2019, 'mixed': 'x', 'long': 'z' * 200}),
]


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  folder = create(tmp_path_factory.mktemp('facets') / 'index')
  writer = folder.new_segment()
  for number, (video, metadata) in enumerate(ABOUT):
    rows = {name: quantization.encode(np.eye(1, size, dtype=np.float32), 'float16') for name, size in SCORERS.items()}
    written = (1_600_000_000 + 86400 * number) * 10**9
    entry = Entry(video, video, duration=10.0 + number, split='test', metadata=metadata, size=7, written=written)
    writer.add(entry, np.zeros(1, np.float32), rows)
  folder.commit([writer.finish()])
  return folder


def test_fields(folder):
  found = Gallery.open(folder.path).facets
  fields = {field['name']: field for field in found['fields']}
  assert (found['videos'], found['looked_at']) == (4, 4)
  assert (fields['year']['kind'], fields['year']['least'], fields['year']['most']) == ('number', 2019, 2021)
  assert (fields['length']['least'], fields['length']['most']) == (10.0, 13.0)
  assert fields['date']['kind'] == fields['day']['kind'] == 'date'
  assert (fields['date']['least'], fields['date']['most']) == ('2020-09-13T12:26:40Z', '2020-09-16T12:26:40Z')
  assert (fields['day']['least'], fields['day']['most']) == ('2019-05-01', '2020-05-01T10:00:00Z')
  assert [(value['value'], value['videos']) for value in fields['tags']['values']] == [('dog', 2), ("it's", 1)]
  assert fields['tags']['videos'] == 2 and fields['mixed']['videos'] == 3
  assert fields['seen']['kind'] == 'truth' and fields['mixed']['kind'] == 'text' and 'long' not in fields
  assert fields['a "b" c']['values'][0]['filter'] == '"a ""b"" c" = \'y\''


def test_each_filter_chooses_what_it_says(folder):
  catalog = Catalog.open(folder)
  for field in facets.facets(catalog)['fields']:
    for value in field.get('values', ()):
      keep = filters.parse(value['filter'])
      more = value['value'] == 'lake'  # Those in folders below it count, too.
      assert catalog.select(keep.sql, keep.parameters).sum() == value['videos'] + more, value
    if 'least' in field:
      keep = filters.parse(f'{field["field"]} >= {field["least"]} and {field["field"]} <= {field["most"]}')
      assert catalog.select(keep.sql, keep.parameters).sum() == field['videos'], field


def test_many_videos_are_a_sample(folder, monkeypatch):
  monkeypatch.setattr(facets, '_SAMPLE', 2)
  found = facets.facets(Catalog.open(folder))
  assert (found['videos'], found['looked_at']) == (4, 2)
  assert {field['name']: field['videos'] for field in found['fields']}['year'] == 2
