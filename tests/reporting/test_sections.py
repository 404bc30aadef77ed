"""What the report says in words and cells."""

import pytest

from dlkd_jax.reporting import document, report_document, sections
from dlkd_jax.reporting.bootstrap import Interval
from dlkd_jax.reporting.document import Document
from dlkd_jax.reporting.findings import Estimate
from dlkd_jax.reporting.significance import Comparison
from tests.reporting import worlds
from tests.reporting.test_analysis import analysed, found

__all__ = ['analysed', 'found']  # The fixtures.


def test_numbers():
  assert sections.number(1234.56) == '1,234.6' and sections.number(0.12346, 'mAP') == '0.1235'
  assert sections.number(-0.01) == '0.0' and sections.number(-0.06) == '-0.1'
  assert sections.cell(Estimate(3.0, Interval(1.0, 4.25))) == '3.0 [1.0, 4.2]'
  assert sections.p_value(0.0004) == '< 0.001' and sections.p_value(0.0312) == '0.031'


def test_clear_differences_stand_out():
  clear = Comparison('fused', 'teacher', 'SumR', 2.0, Interval(1.0, 3.0), 0.001, 0.004)
  vague = Comparison('fused', 'exploration', 'mAP', -0.01, Interval(-0.03, 0.01), 0.3, 0.6)
  table = sections.comparison_table('title', [clear, vague])
  assert table.strong == [0] and table.rows[0][:3] == ('fused over teacher alone', 'SumR', '+2.0 [1.0, 3.0]')
  assert table.rows[1][2] == '-0.0100 [-0.0300, 0.0100]'


def html_of(result):
  return document.to_html(Document('t', 's', sections.run_sections(result)))


def test_every_part_is_there_and_in_its_file(found, tmp_path):
  _, _, result = found()
  content = report_document.build([result], None, worlds.QUICK)
  text = document.to_html(content)
  titles = ('Results', 'Slices', 'The right second', 'Fusion weights', 'Training', 'Queries', 'Best queries')
  assert all(f'>{title}</h' in text for title in titles)
  assert 'frames are spread evenly over the duration' in text
  assert 'intervals over videos are rough' in text  # There are 20 of them.
  values = report_document.as_json([result], None, worlds.QUICK)
  paths = report_document.write(tmp_path / 'out', content, values)
  assert [path.name for path in paths] == ['report.html', 'report.md', 'report.json']
  assert paths[0].read_text() == text and all(path.stat().st_size > 1000 for path in paths)
  figures = list((tmp_path / 'out' / 'figures').iterdir())
  assert len(figures) == len(document.figures_of(content))
  assert all('xmlns="http://www.w3.org/2000/svg"' in path.read_text() for path in figures)


def test_what_is_left_out_is_said(found):
  _, _, result = found(moments=False, scorers=('inheritance',))
  text = html_of(result)
  assert 'the moment-to-video ratio is left out' in text and 'this part is left out' in text
  assert 'nothing to weigh' in text and 'holds no log of a finished epoch' in text


def test_weights_chosen_on_the_split_itself_are_called_flattered(found, monkeypatch):
  from dlkd_jax.reporting import analysis

  options = analysis.Options(split='val', samples=100, permutations=100)
  _, _, result = found(options)
  monkeypatch.undo()
  assert 'so their gain is flattered' in document.to_html(Document('t', 's', [sections._fusion(result, '')]))


def test_nothing_is_left_where_the_folder_cannot_be_written(tmp_path):
  (tmp_path / 'out').write_text('a file')
  with pytest.raises(OSError, match='out'):
    report_document.write(tmp_path / 'out', Document('t', 's', []), {})
