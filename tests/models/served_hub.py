"""A hub on the loopback address: what huggingface_hub asks for, for as many models as a test has."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import json
import re
import threading
import urllib.parse

_SECRET = 'hf_secret'


class Hub:
  """Models by name, and what was asked for.

  Attributes:
    models: name → {file: content}; `gated` and `private` ones want the token.
    asked: (method, path, token or None) of each request.
  """

  token = _SECRET

  def __init__(self):
    self.models, self.gated, self.private, self.asked = {}, set(), set(), []

  def commit(self, name):
    """The commit of a model: it follows the contents."""
    content = repr(sorted((file, hashlib.sha1(data).hexdigest()) for file, data in self.models[name].items()))
    return hashlib.sha1(content.encode()).hexdigest()

  def files_asked(self):
    """The files whose contents were fetched, in order."""
    return [path.rpartition('/')[2] for method, path, _ in self.asked if method == 'GET' and '/resolve/' in path]

  def answer(self, path, token):
    """Status, headers and body of a path."""
    if found := re.fullmatch(r'/api/models/(.+?)(?:/revision/(.+))?', path):
      name, revision, file = found[1], found[2], None
    elif found := re.fullmatch(r'/(.+?)/resolve/([^/]+)/(.+)', path):
      name, revision, file = found.groups()
    else:
      return 404, {}, b''
    if name not in self.models or (name in self.private and token != self.token):
      return 401, {'X-Error-Code': 'RepoNotFound'}, b'{"error": "Repository not found"}'
    commit = self.commit(name)
    if urllib.parse.unquote(revision or 'main') not in ('main', commit):
      return 404, {'X-Error-Code': 'RevisionNotFound'}, b'{"error": "Invalid rev id"}'
    if file is None:
      siblings = [{'rfilename': each} for each in self.models[name]]
      return 200, {}, json.dumps({'id': name, 'modelId': name, 'sha': commit, 'siblings': siblings}).encode()
    if name in self.gated and token != self.token:
      return 403, {'X-Error-Code': 'GatedRepo'}, b'{"error": "Access is restricted"}'
    if file not in self.models[name]:
      return 404, {'X-Error-Code': 'EntryNotFound', 'X-Repo-Commit': commit}, b''
    data = self.models[name][file]
    return 200, {'X-Repo-Commit': commit, 'ETag': f'"{hashlib.sha1(data).hexdigest()}"'}, data


@contextlib.contextmanager
def serve():
  """Yields a hub and its address."""
  hub = Hub()

  class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
      path = urllib.parse.urlsplit(self.path).path
      token = (self.headers.get('Authorization') or '').removeprefix('Bearer ') or None
      hub.asked.append((self.command, path, token))
      status, headers, body = hub.answer(path, token)
      self.send_response(status)
      for name, value in headers.items():
        self.send_header(name, value)
      self.send_header('Content-Length', str(len(body)))
      self.end_headers()
      if self.command == 'GET':
        self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, *arguments):
      pass

  server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
  thread = threading.Thread(target=server.serve_forever, daemon=True)
  thread.start()
  try:
    yield hub, f'http://127.0.0.1:{server.server_port}'
  finally:
    server.shutdown()
    server.server_close()
    thread.join()
