"""The commands of "Models by name" in its README as they stand, from a hub that the test serves, then without it."""

import re
import shlex

from tests import forked
from tests.environment import environment
from tests.models import served_hub, test_siglip
from tests.models.test_sentence_encoder import write_model
from tests.paths import golden, repository
from tests.video import films


def _contents(folder):
  return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob('*') if path.is_file()}


def test_from_names_to_a_moment(tmp_path):
  section = (repository() / 'dlkd_jax/video/README.md').read_text().split('## Models by name')[1]
  extract, index = re.search(r'```sh\n(.*?)```', section, re.DOTALL)[1].splitlines()
  teacher, tokens = re.findall(r'=hf:([\w./-]+)', extract)
  (tmp_path / 'films').mkdir()
  for number in range(2):
    films.render(tmp_path / 'films' / f'{number}.mp4', films.steady(50))
  write_model(tmp_path / 'bert')
  test_siglip.write_pieces(tmp_path / 'spiece.model')
  siglip = {name: data for name, data in _contents(golden('siglip_tiny')).items() if name != 'io.npz'}
  siglip |= {'spiece.model': (tmp_path / 'spiece.model').read_bytes()}
  siglip |= {'preprocessor_config.json': b'{"size": {"height": 32, "width": 32}}'}

  def run(line, **variables):
    done = forked.run('dlkd_jax', tuple(shlex.split(line)[1:]), environment(**names, **variables), tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout

  with served_hub.serve() as (hub, address):
    hub.models = {teacher: siglip, tokens: _contents(tmp_path / 'bert')}
    names = {'HF_ENDPOINT': address, 'HF_HOME': str(tmp_path / 'cache')}
    assert 'Dv 64, Dq 8, Dt 64' in run(extract)
    run(index)
  found = run('dlkd search "a dog" --index=index --top=1', HF_HUB_OFFLINE='1')
  assert re.search(r'\d\.mp4', found) and '2 videos' in found
