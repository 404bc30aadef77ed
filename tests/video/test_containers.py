"""Nothing is opened but the file itself, and no header gets more memory than its file can fill."""

import os
import pathlib
import struct
import subprocess
import sys
from fractions import Fraction

import av
import pytest
from PIL import Image

from dlkd_jax.video import containers, decoding, files, pictures
from tests.video import films

# Reads videos in a process of its own; says what came of each and how much memory they took at most, MiB.
_READ = """
import resource, sys
from dlkd_jax.video import decoding
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sys.argv[1:]:
  said, count = '', 0
  try:
    decoding.probe(path)
    for _ in decoding.sample_frames(path, 2.0):
      count += 1
  except decoding.VideoError as error:
    said = error.reason
  print(count, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10, said, sep='|')
"""


def read(path, seconds=60):
  """(samples, MiB, reason) of a reading."""
  found = subprocess.run(
    [sys.executable, '-c', _READ, str(path)], capture_output=True, text=True, timeout=seconds, check=True
  )
  count, memory, said = found.stdout.strip().split('|', 2)
  return int(count), int(memory), said


LISTS = {
  'concat': 'ffconcat version 1.0\nfile pipe.ts\n',
  'concat_bom': '\ufeffffconcat version 1.0\nfile pipe.ts\n',
  'hls': '#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\npipe.ts\n#EXT-X-ENDLIST\n',
  'dash': '<?xml version="1.0"?>\n<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><Period><AdaptationSet '
  'mimeType="video/mp4"><Representation id="1" bandwidth="1"><BaseURL>pipe.ts</BaseURL></Representation>'
  '</AdaptationSet></Period></MPD>',
  'sdp': 'v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 9 RTP/AVP 96\n',
  'asx': '<asx version="3.0"><entry><ref href="pipe.ts"/></entry></asx>',
  'imf': '<?xml version="1.0"?><CompositionPlaylist xmlns="http://www.smpte-ra.org/schemas/2067-3/2013"/>',
  'playlist': '[playlist]\nFile1=pipe.ts\n',
}


@pytest.mark.parametrize('kind', LISTS)
def test_lists_open_nothing(tmp_path, kind):
  paths, pipe = [tmp_path / f'list{suffix}' for suffix in ('.mp4', '.m3u8', '.ts', '.mkv')], tmp_path / 'pipe.ts'
  for path in paths:
    path.write_text(LISTS[kind], encoding='utf-8')
  os.mkfifo(pipe)
  asked = subprocess.Popen(
    [sys.executable, '-c', _READ, *map(str, paths)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
  )
  while asked.poll() is None:
    with pytest.raises(OSError):  # There is nobody who reads from it.
      os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
  assert asked.returncode == 0, asked.stderr.read()
  said = asked.stdout.read().splitlines()
  assert len(said) == len(paths)
  for line in said:
    assert 'is not a video (read as ' in line and (kind == 'sdp' or 'none is opened' in line)


def test_a_name_is_no_pattern(tmp_path):
  for number in range(3):
    Image.new('RGB', (64, 48)).save(tmp_path / f'a{number}.gif')
    Image.new('RGB', (64, 48)).save(tmp_path / f'a{number}.png')
  path = tmp_path / 'a%d.gif'
  Image.new('RGB', (32, 16)).save(path, save_all=True, append_images=[Image.new('RGB', (32, 16), 'red')], duration=200)
  with files.open_video(path) as video:
    assert (video.stream.width, video.container.format.name) == (32, 'gif')
  films.render(tmp_path / 'b%03d.mp4', films.steady(5))
  assert len(list(decoding.sample_frames(tmp_path / 'b%03d.mp4', 25))) == 5


@pytest.mark.parametrize('suffix', ['.mp4', '.mkv', '.webm', '.avi', '.ts', '.vob', '.mov', '.flv', '.gif', '.ogv'])
def test_films_of_all_kinds_are_read(tmp_path, suffix):
  codec = {'.flv': 'flv1', '.gif': 'gif', '.mov': 'libx264', '.ogv': 'libvpx'}.get(suffix) or films.CODECS[suffix]
  path = tmp_path / f'a{suffix}'
  with av.open(str(path), 'w') as container:
    stream = container.add_stream(codec, rate=25)
    stream.width, stream.height = films.WIDTH, films.HEIGHT
    stream.pix_fmt = 'rgb8' if codec == 'gif' else 'yuv420p'
    for number in range(25):
      container.mux(
        stream.encode(av.VideoFrame.from_ndarray(films.draw(number), 'rgb24').reformat(format=stream.pix_fmt))
      )
    container.mux(stream.encode(None))
  numbers = [films.read(sample.image) for sample in decoding.sample_frames(path, 5)]
  assert numbers == [0, 5, 10, 15, 20]


def test_sound_with_a_cover_is_named_so(tmp_path):
  path = tmp_path / 'song.mp4'
  with av.open(str(path), 'w') as container:
    cover = container.add_stream('mjpeg', rate=1)
    cover.width, cover.height, cover.pix_fmt = 64, 48, 'yuvj420p'
    cover.disposition = av.stream.Disposition.attached_pic
    films.silence(container, 1, also=lambda: [*cover.encode(av.VideoFrame(64, 48, 'yuvj420p')), *cover.encode(None)])
  with pytest.raises(files.VideoError, match=r'no video stream \(streams: audio, cover picture\)'):
    decoding.probe(path)
  with pytest.raises(files.VideoError, match='no video stream'), files.open_video(path):
    pass


def boxes(content, kind):
  """Where the content of each box of a kind begins."""
  place = -1
  while (place := content.find(kind, place + 1)) >= 0:
    yield place + 4


def test_a_header_that_counts_more_samples_than_there_are_bytes(tmp_path):
  content = bytearray(films.render(tmp_path / 'whole.mp4', films.steady(50)).read_bytes())
  (place,) = boxes(content, b'stsz')
  content[place + 4 : place + 12] = struct.pack('>II', 1, 2_000_000_000)
  (place,) = boxes(content, b'stsc')
  content[place + 4 : place + 8] = struct.pack('>I', 1)
  content[place + 12 : place + 16] = struct.pack('>I', 2_000_000_000)
  path = tmp_path / 'counts.mp4'
  path.write_bytes(content)
  count, memory, said = read(path)
  assert count == 0 and memory < 100 and 'says that it holds 2,000,000,000 samples' in said


def test_fragments_that_count_more_samples_than_there_are_bytes(tmp_path):
  path = tmp_path / 'fragments.mp4'
  with av.open(str(path), 'w', options={'movflags': 'frag_keyframe+empty_moov'}) as container:
    films.numbered(container, 50)
  assert read(path)[0] == 4
  content = bytearray(path.read_bytes())
  place = next(boxes(content, b'trun'))
  content[place : place + 8] = struct.pack('>II', 1, 500_000_000)  # Without sizes of their own.
  path.write_bytes(content)
  count, memory, said = read(path)
  assert count == 0 and memory < 100 and 'samples' in said


@pytest.mark.parametrize('size', [0xFFFFFFFF, 1])
def test_boxes_that_are_said_to_hold_gigabytes(tmp_path, size):
  whole = films.render(tmp_path / 'whole.mp4', films.steady(50)).read_bytes()
  for kind in (b'moov', b'trak', b'stbl', b'stsd', b'avcC', b'mdat', b'stco', b'stts'):
    content = bytearray(whole)
    place = content.find(kind) - 4
    content[place : place + 4] = struct.pack('>I', size)
    path = tmp_path / f'{kind.decode()}.mp4'
    path.write_bytes(content)
    assert read(path)[1] < 200


def test_a_compressed_index_that_is_said_to_be_gigabytes(tmp_path):
  def box(kind, content):
    return struct.pack('>I', 8 + len(content)) + kind + content

  path = tmp_path / 'packed.mov'
  packed = box(b'cmov', box(b'dcom', b'zlib') + box(b'cmvd', struct.pack('>I', 0xF0000000) + b'x' * 100))
  path.write_bytes(box(b'ftyp', b'qt  ' + bytes(8)) + box(b'moov', packed))
  with pytest.raises(files.VideoError, match='compressed index'):
    decoding.probe(path)


def pictures_of(path, sizes):
  """Writes JPEG pictures whose headers have been given other sizes (None: left as they are) as a film."""
  with av.open(str(path), 'w') as container:
    stream = container.add_stream('mjpeg', rate=10)
    stream.width, stream.height, stream.pix_fmt = 64, 48, 'yuvj420p'
    for number, size in enumerate(sizes):
      for packet in stream.encode(av.VideoFrame(64, 48, 'yuvj420p')):
        content = bytearray(bytes(packet))
        place = content.find(b'\xff\xc0') + 5
        if size:
          content[place : place + 4] = struct.pack('>HH', size[1], size[0])
        changed = av.Packet(bytes(content))
        changed.stream, changed.pts, changed.dts = stream, number, number
        changed.time_base, changed.duration, changed.is_keyframe = Fraction(1, 10), 1, True
        container.mux(changed)
  return path


@pytest.mark.parametrize('suffix', ['.avi', '.mkv', '.mov'])
def test_pictures_that_grow_in_the_middle(tmp_path, suffix):
  path = pictures_of(tmp_path / f'grows{suffix}', [None] * 8 + [(65_000, 65_000)] * 4)
  count, memory, said = read(path)
  assert count == 2 and memory < 200 and said.startswith('4 times a packet cannot be decoded')


def test_pictures_that_are_too_large(tmp_path):
  path = tmp_path / 'large.y4m'
  path.write_bytes(b'YUV4MPEG2 W9000 H8000 F25:1 Ip C420jpeg\nFRAME\n' + bytes(10_000))
  count, memory, said = read(path)
  assert count == 0 and memory < 200 and said == 'has pictures of 9000 x 8000 pixels; at most 64 million are decoded'


def test_a_canvas_that_is_too_large(tmp_path):
  path = tmp_path / 'large.gif'
  Image.new('L', (32, 16)).save(path, save_all=True, append_images=[Image.new('L', (32, 16), 200)], duration=200)
  content = bytearray(path.read_bytes())
  content[6:10] = struct.pack('<HH', 60_000, 60_000)
  path.write_bytes(content)
  count, memory, said = read(path)
  assert count == 0 and memory < 200 and said.startswith('has no whole frame (')


def test_pixels_that_no_picture_has_are_taken_for_square_ones(tmp_path):
  path, findings = films.render(tmp_path / 'wide.mp4', films.steady(10), aspect=Fraction(3, 2)), decoding.Findings()
  content = bytearray(path.read_bytes())
  (place,) = boxes(content, b'pasp')
  content[place : place + 8] = struct.pack('>II', 1000, 1)
  path.write_bytes(content)
  sizes = {sample.image.shape for sample in decoding.sample_frames(path, 5, findings=findings)}
  assert sizes == {(films.HEIGHT, films.WIDTH, 3)} and 'taken for square' in findings.notes[0]
  assert decoding.probe(path).width == films.WIDTH
  path = films.render(tmp_path / 'anamorphic.mp4', films.steady(10), aspect=Fraction(2))
  assert decoding.probe(path).width == 2 * films.WIDTH


def test_no_picture_is_stretched_beyond_what_is_decoded():
  class Frame:
    width, height = 8000, 8000
    side_data = ()

  width, height = pictures.shown_size(Frame, Fraction(8))
  assert width * height <= containers.MOST_PIXELS * 1.001 and width == pytest.approx(8 * height, abs=8)
  assert pictures.shown_size(Frame, Fraction(8), max_side=1000) == (1000, 125)


def test_it_takes_as_long_as_a_header_is_long(tmp_path):
  path = tmp_path / 'boxes.mp4'
  path.write_bytes(struct.pack('>I4s', 8, b'ftyp') * 100_000)
  assert containers.refuse_header(pathlib.Path(path)) is None
  assert containers.lacks_index(path) is not None


def box(kind, content):
  return struct.pack('>I4s', 8 + len(content), kind) + content


@pytest.mark.parametrize('depth', [300, 5000, 100_000])
def test_boxes_in_boxes_in_boxes(tmp_path, depth):
  content = b''.join(struct.pack('>I4s', 8 * (depth - level), b'moov') for level in range(depth))
  path = tmp_path / 'nested.mp4'
  path.write_bytes(struct.pack('>I4s4sI', 16, b'ftyp', b'isom', 0) + content)
  with pytest.raises(files.VideoError, match=r'nested\.mp4: '):
    decoding.probe(path)


def test_a_header_is_looked_at_whatever_box_is_first(tmp_path):
  """FFmpeg takes a file for MP4 by any of these."""
  counted = box(b'stsz', struct.pack('>III', 0, 1, 2_000_000_000))
  for kind in (b'stbl', b'minf', b'mdia', b'trak', b'moov'):
    counted = box(kind, counted)
  for kind in (b'uuid', b'udta', b'junk', b'pict', b'prfl', b'ediw', b'sinf', b'jP  '):
    path = tmp_path / 'first.mp4'
    path.write_bytes(box(kind, bytes(16)) + box(b'ftyp', b'isom' + bytes(4)) + counted)
    assert 'damaged' in (containers.refuse_header(path) or ''), kind


def test_no_end_of_boxes(tmp_path, monkeypatch):
  monkeypatch.setattr(containers, '_MOST_BOXES', 1000)
  path, seen = tmp_path / 'many.mp4', []
  path.write_bytes(box(b'ftyp', b'isom' + bytes(4)) + box(b'free', b'') * 5000)
  boxes = containers._boxes
  monkeypatch.setattr(containers, '_boxes', lambda *args: (seen.append(one) or one for one in boxes(*args)))
  assert containers.lacks_index(path)
  assert len(seen) < 1100
