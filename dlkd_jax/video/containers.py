"""What a file may be read as, and what its header may ask for, both checked before FFmpeg acts on it."""

from __future__ import annotations

import itertools
import pathlib
from typing import BinaryIO

# Formats that hold what they show, by FFmpeg's names. No lists of other files, no text or still pictures drawn as
# films, no devices; sound, so that a file without a picture is named as what it is.
_FORMATS = """
  3g2 3gp asf asf_o avi bink dv flv gif h264 hevc ivf live_flv m4v matroska mj2 mov mp4 mpeg mpegts mpegvideo mxf nsv
  nut obu ogg rm smk swf vc1 webm wtv yuv4mpegpipe aac ac3 aiff caf flac mp3 wav
"""
# More than any camera's; a decoded frame of as many takes 100 to 400 MB, and there are several at once.
MOST_PIXELS = 64_000_000
OPTIONS = {
  'format_whitelist': ','.join(_FORMATS.split()),
  'protocol_whitelist': 'file',
  'max_pixels': str(MOST_PIXELS),
}
# How files begin that are taken for videos by mistake: FFmpeg's name and what they are.
_LIST = 'a list of other files, of which none is opened'
_PICTURE = 'a still picture'
_OTHERS = {
  b'ffconcat version': ('concat', _LIST),
  b'#EXTM3U': ('hls', _LIST),
  b'[playlist]': ('a playlist', _LIST),
  b'[Reference]': ('a playlist', _LIST),
  b'v=0': ('sdp', 'an address of a stream, which is not opened'),
  b'\x89PNG': ('png_pipe', _PICTURE),
  b'\xff\xd8\xff': ('jpeg_pipe', _PICTURE),
  b'BM': ('bmp_pipe', _PICTURE),
  b'II*\0': ('tiff_pipe', _PICTURE),
  b'MM\0*': ('tiff_pipe', _PICTURE),
}
_XML = {b'<MPD': 'dash', b'<SmoothStreamingMedia': 'ism', b'<asx': 'a playlist', b'<CompositionPlaylist': 'imf'}
_HEADLESS = 'is truncated: an MP4 file without its index, so that no frame can be found'
_PARENTS = (b'moov', b'trak', b'mdia', b'minf', b'stbl', b'moof', b'traf')
# By which FFmpeg takes a file for MP4 where one is the first.
_MP4 = (
  *b'ftyp moov mdat moof wide free skip styp sidx pnot uuid udta junk pict prfl ediw sinf emsg ssix'.split(),
  b'jP  ',
)
_MOST_BOXES = 1_000_000
_DEEPEST = 12  # FFmpeg follows boxes in boxes ten times.
_MOST_SAMPLES = 30_000_000  # A week at 50 a second.
_FEW_SAMPLES = 1_000_000
_MOST_UNPACKED = 256 << 20


def kind_of_list(path: pathlib.Path) -> str | None:
  """Says what a file is that is no video: 'read as concat: …'; None where it does not begin as anything known."""
  with path.open('rb') as file:
    head = file.read(1024).removeprefix(b'\xef\xbb\xbf').lstrip()
  for start, (name, what) in _OTHERS.items():
    if head.startswith(start):
      return f'read as {name}): {what}'
  if head.startswith(b'RIFF') and head[8:12] == b'WEBP':
    return f'read as webp_pipe): {_PICTURE}'
  return next((f'read as {name}): {_LIST}' for start, name in _XML.items() if head[:1] == b'<' and start in head), None)


def lacks_index(path: pathlib.Path) -> str | None:
  """Says that a file begins as MP4 and ends before or in its index, as an interrupted copy does; None otherwise."""
  first, length = None, path.stat().st_size
  with path.open('rb') as file:
    for kind, _, end in itertools.islice(_boxes(file, 0, length), _MOST_BOXES):
      first = first or kind
      if kind == b'moov':
        return _HEADLESS if first == b'ftyp' and end > length else None
  return _HEADLESS if first == b'ftyp' else None


def refuse_header(path: pathlib.Path) -> str | None:
  """Says what is wrong with an MP4 header that asks for more memory than its file can fill; None for all others.

  A demuxer makes a row of a table for each sample that the header counts, however small the file is.
  """
  length = path.stat().st_size
  with path.open('rb') as file:
    if file.read(8)[4:] not in _MP4:
      return None
    total, left = 0, [_MOST_BOXES]
    for samples, video in _counted(file, 0, length, left):
      if samples < 0:
        return f'has a compressed index of {-samples:,} bytes; at most {_MOST_UNPACKED:,} are unpacked'
      total += samples
      if (total > length and total > _FEW_SAMPLES) or (video and samples > _MOST_SAMPLES):
        return f'says that it holds {total:,} samples, in {length:,} bytes; its header is damaged'
  return None


def _boxes(file: BinaryIO, start: int, end: int):
  """Yields (kind, where its content begins, where it ends) of the boxes of MP4 from `start` on."""
  while start + 8 <= end:
    file.seek(start)
    header = file.read(16)
    size, read = int.from_bytes(header[:4]), 8
    if size == 1:
      size, read = int.from_bytes(header[8:16]), 16
    elif size == 0:
      size = end - start
    if size < read or len(header) < read:
      return
    yield header[4:8], start + read, start + size
    start += size


def _counted(file: BinaryIO, start: int, end: int, left: list[int], deep: int = 0):
  """Yields (samples, whether of a picture) for each table of samples; bytes below 0 for a compressed index."""
  video = False
  for kind, begin, stop in _boxes(file, start, end):
    left[0] -= 1
    if left[0] < 0 or deep > _DEEPEST:
      return
    if kind in _PARENTS:
      for samples, of_video in _counted(file, begin, min(stop, end), left, deep + 1):
        yield samples, of_video or video
    elif kind in (b'hdlr', b'stsz', b'stz2', b'trun', b'cmov'):
      file.seek(begin)
      content = file.read(64)
      if kind == b'hdlr':
        video = content[8:12] == b'vide'
      elif kind == b'cmov':
        place = content.find(b'cmvd')
        unpacked = int.from_bytes(content[place + 4 : place + 8]) if place >= 0 else 0
        if unpacked > _MOST_UNPACKED:
          yield -unpacked, False
      else:
        place = 4 if kind == b'trun' else 8
        yield int.from_bytes(content[place : place + 4]), kind == b'trun'
