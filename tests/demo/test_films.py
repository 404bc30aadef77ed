"""Films as files: decodable, of the right length, with captions of the moments in them."""

import dataclasses
import json

import numpy as np

from dlkd_jax.demo import films, render, world
from dlkd_jax.demo.settings import SIZES
from dlkd_jax.video import decoding

SETTINGS = dataclasses.replace(SIZES['tiny'], films=(2, 1, 1))


def test_a_film_decodes_to_what_was_drawn(tmp_path):
  film = world.film(0, 'train', 0)
  films.write_film(film, tmp_path / 'a.mp4', rate=4, side=64)
  assert [path.name for path in tmp_path.iterdir()] == ['a.mp4']
  info = decoding.probe(tmp_path / 'a.mp4')
  assert abs(info.duration - film.seconds) < 0.3 and (info.width, info.height) == (64, 64)
  drawn = list(render.film_pictures(film, 4, 64))
  found = [np.array(frame.image) for frame in decoding.sample_frames(tmp_path / 'a.mp4', 4)]
  assert len(found) == len(drawn)
  assert np.mean([np.abs(a.astype(int) - b).mean() for a, b in zip(found, drawn, strict=True)]) < 12


def test_a_corpus_goes_on_where_it_was_stopped(tmp_path):
  films.render_corpus(SETTINGS, tmp_path)
  names = sorted(path.name for path in (tmp_path / 'videos').iterdir())
  assert names == ['test_0000.mp4', 'train_0000.mp4', 'train_0001.mp4', 'val_0000.mp4']
  lines = [json.loads(line) for line in (tmp_path / 'captions.jsonl').read_text().splitlines()]
  assert {line['video'] for line in lines} == set(names)
  assert all(line['start'] < line['end'] and line['video'].startswith(line['split']) for line in lines)
  kept, lost = tmp_path / 'videos' / names[0], tmp_path / 'videos' / names[1]
  before, content = kept.stat().st_mtime_ns, lost.read_bytes()
  lost.unlink()
  films.render_corpus(SETTINGS, tmp_path)
  assert kept.stat().st_mtime_ns == before
  assert lost.read_bytes() == content
