"""Nothing of this runs: what others write on this package is checked for its types, by `test_types.py`."""

from dlkd_jax.gallery.gallery import Gallery
from dlkd_jax.gallery.queries import Query
from dlkd_jax.gallery.results import Hit, SearchResult
from dlkd_jax.losses.total import Term
from dlkd_jax.models.students import Student
from dlkd_jax.training.online_teacher import OnlineTeacher
from tests.extensions import diverse_loss, linear_teacher
from tests.extensions.pooled_student import PooledStudent


def search(index: str) -> dict[str, float]:
  """The second at which it happens in each video."""
  gallery = Gallery.open(index)
  results: list[SearchResult] = gallery.search([Query('a dog', without=('a ball',)), 'a cat'], top=3, where='year=2019')
  hits: list[Hit] = [hit for result in results for hit in result.hits]
  return {hit.video_id: hit.moments[0].start for hit in hits if hit.moments}


def extend() -> tuple[Student, Term, OnlineTeacher]:
  """A student, a loss term and a teacher of one's own."""
  student = PooledStudent(hidden=8, branches=('inheritance',), dtype='float32', vectors=2)
  term = Term('diverse', diverse_loss.diverse, 0.5, ('inheritance',), options=(('margin', 0.2),))
  return student, term, linear_teacher.load(None, 'float32')
