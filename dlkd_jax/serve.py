"""A page on which an index is searched with sentences, and the found films play at the found second.

  dlkd serve                              then open http://127.0.0.1:8000/
  dlkd serve --index=other --port=8080

Only this machine can reach it, unless --host says otherwise; there is no password, so do that in
networks that you trust. It serves the films of the index and nothing else. A proxy may show it below
any path, if it takes that path away. Ctrl-C and SIGTERM stop it, with exit code 0.
"""

import signal

from absl import flags

from dlkd_jax import doors, search_flags
from dlkd_jax.errors import UserError

_INDEX = doors.DEFINE_index()
_HOST = flags.DEFINE_string('host', '127.0.0.1', 'Address to listen at; 0.0.0.0 lets other machines in.')
_PORT = flags.DEFINE_integer('port', 8000, 'Port to listen at; 0 takes a free one.', 0, 65535)
_ALLOW_HOST = flags.DEFINE_multi_string('allow_host', [], 'Name that this server may be called by, besides localhost.')
_VIDEOS = doors.DEFINE_multi_path(
  'videos', 'Folder of video files, in place of those that the index says; may be given several times.'
)
_TOP = flags.DEFINE_integer('top', 10, 'Results that are shown at a time.', 1, 50)
_MOMENTS = flags.DEFINE_integer('moments', 3, 'Moments that are shown of a video.', 1, 8)
_SCORING = search_flags.Scoring()
_EXAMPLE = flags.DEFINE_multi_string('example', [], 'Sentence that the empty page suggests; default: some captions.')


def _settings():
  from dlkd_jax.page.server import PageSettings

  for folder in _VIDEOS.value or ():
    if not folder.is_dir():
      raise UserError(f'--videos={folder} is no folder; give one that holds videos of the index')
  return PageSettings(
    hosts=(_HOST.value, *_ALLOW_HOST.value),
    roots=tuple(map(str, _VIDEOS.value or ())),
    examples=tuple(_EXAMPLE.value),
    top=_TOP.value,
    moments=_MOMENTS.value,
    **_SCORING.options(),
  )


def main(names):
  """Opens the index and serves until it is stopped."""
  signal.signal(signal.SIGTERM, signal.default_int_handler)  # As Ctrl-C.
  try:
    # Imported here, so that --help answers at once, and a port that is taken is known before much is loaded.
    from dlkd_jax.page import server as server_lib

    server = server_lib.listen(_HOST.value, _PORT.value)
    from dlkd_jax.gallery.gallery import Gallery
    from dlkd_jax.page import app, live

    doors.keep_compiled()
    gallery = Gallery.open(_INDEX.value, clip=_SCORING.clip.value)
    settings = _settings()
    application = app.prepare(gallery, settings)
    what = f'{len(gallery)} videos, files {live.served(gallery, settings)}'
    server_lib.run(application, server, lambda url: print(f'{url}  {what}; Ctrl-C stops', flush=True))
  except KeyboardInterrupt:
    pass
  print('stopped', flush=True)


if __name__ == '__main__':
  doors.run(main)
