"""All benchmarks, one after another, in one table, and as JSON.

    python -m dlkd_jax.tools.benchmark --json=benchmark.json
    python -m dlkd_jax.tools.benchmark --sections=step,checkpoint --quick

| section | what |
|---|---|
| step | training step, lengths like TVR's and ActivityNet's: packed against full padding and a plain einsum |
| full | the same step with every frame and word real: its share of the machine's rate of matrix products |
| scaling | time and memory of the packed step with 64 to 4,096 videos a batch, encoded in parts of 128 |
| evaluation | 15,753 captions, 4,430 videos of 128 frames, two branches |
| input | the input pipeline alone, and what a step waits for it |
| checkpoint | saving and restoring the training state |
| backbones | CLIP ViT-B/32, EfficientNet-Lite0, ResNet-152 and I3D, as the extraction runs them |
| search | a query against a million frame vectors of two scorers: exact, and in two stages |

Every section runs in a process of its own, so that its memory is its own; each is also a command
(`python -m dlkd_jax.tools.benchmark_step` and so on) with more options. `--quick` shrinks all sizes: a check of the
benchmark, not of the program. On a CPU the whole takes about half an hour.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

from dlkd_jax import files, tables
from dlkd_jax.files import expand
from dlkd_jax.tools import benchmark_search

_MIB = 2**20


def _commands(quick: bool) -> dict[str, list[list[str]]]:
  """Returns the commands of each section: module and flags."""
  step = ['benchmark_step', '--repeats=1' if quick else '--repeats=5']
  few = ['--videos=8'] if quick else []
  return {
    'step': [[*step, f'--model={model}', *few] for model in ('tvr', 'activitynet')],
    'full': [[*step, '--model=full', '--forms=packed', *few]],
    'scaling': [
      ['benchmark_step', '--forms=packed', '--repeats=1', f'--scaling={videos}']
      for videos in ((4, 8) if quick else (64, 128, 256, 512, 1024, 2048, 4096))
    ],
    'evaluation': [['benchmark_evaluation', f'--size={"tiny" if quick else "activitynet"}', '--repeat=2']],
    'input': [['benchmark_input', *(['--videos=16', '--batch_videos=4', '--batches=2'] if quick else [])]],
    'checkpoint': [['benchmark_checkpoint', *(['--repeats=1'] if quick else [])]],
    'backbones': [
      ['benchmark_backbones', f'--network={name}', *(['--batch=1', '--repeats=1'] if quick else [f'--batch={batch}'])]
      for name, batch in (('ViT-B/32', 32), ('efficientnet_lite0', 32), ('resnet152', 8), ('i3d', 2))
    ],
    'search': [['benchmark_search', *(['--rows=4000', '--queries=5', '--repeats=1'] if quick else [])]],
  }


SECTIONS = tuple(_commands(quick=True))


def rows(section: str, found: Any) -> Iterator[tuple[str, str]]:
  """Yields what was measured and how much, as text, for the results of one command of a section."""
  if section in ('step', 'full', 'scaling'):
    for result in found:
      name = f'{result["model"]}, {result["videos"]:,} videos'
      for form in (f for f in ('baseline', 'packed') if f in result):
        r = result[form]
        yield (
          f'step, {name}, {form}',
          f'{1e3 * r["seconds"]:,.1f} ms, {r["videos_per_second"]:.1f} videos/s, {r["share_of_product_rate"]:.0%} of '
          f'the product rate, {r["temporary_bytes"] / _MIB:,.0f} MiB temporary',
        )
        yield (
          f'similarity and losses, {name}, {form}',
          f'{r["contrast_temporary_bytes"] / _MIB:,.1f} MiB temporary',
        )
      if 'baseline' in result and 'packed' in result:
        ratios = [result['packed'][k] / result['baseline'][k] for k in ('seconds', 'temporary_bytes')]
        yield f'step, {name}, packed / baseline', f'time {ratios[0]:.2f}, temporary memory {ratios[1]:.2f}'
  elif section == 'evaluation':
    size = found['size']
    yield (
      f'evaluation, {size["captions"]:,} x {size["videos"]:,} x {size["frames"]}',
      f'{min(found["seconds"]):.3g} s, {found["share_of_matmul_rate"]:.0%} of the product rate, '
      f'{found["peak_beyond_features"] / _MIB:,.0f} MiB beyond the gallery of {found["gallery_bytes"] / _MIB:,.0f} MiB',
    )
  elif section == 'input':
    for result in found:
      waits = [f'{v:.1f} ms wait {k[8:].replace("_", " ")}' for k, v in result.items() if k.startswith('wait_ms_')]
      yield (
        f'input pipeline, {result["form"]}',
        f'{result["batch_ms"]:.0f} ms a batch of {result["batch_megabytes"]:.1f} MB, {", ".join(waits)}, padding '
        f'{result["padding_frames"]:.1%} of frames, {result["padding_tokens"]:.1%} of tokens, {result["shapes"]} '
        'shapes',
      )
  elif section == 'search':
    yield from benchmark_search.table_rows(found)
  elif section == 'backbones':
    for name, r in found.items():
      if isinstance(r, dict):
        yield (
          f'{found["network"]}, {found["dtype"]}, {name}',
          f'{r["a_second"]:,.1f} a second, {r["share_of_product_rate"]:.0%} of the product rate',
        )
  else:
    yield (
      f'checkpoint, {found["model"]}, {found["state_bytes"] / _MIB:.0f} MiB',
      f'save {found["save_seconds"]:.2f} s, restore {found["restore_seconds"]:.2f} s',
    )


def run(command: list[str]) -> Any:
  """Runs one command in a process of its own and returns what it measured; its output goes to the terminal.

  Raises:
    subprocess.CalledProcessError: the command failed.
  """
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder) / 'found.json'
    module, *flags = command
    print(f'\n== {" ".join(command)}', flush=True)
    subprocess.run([sys.executable, '-m', f'dlkd_jax.tools.{module}', *flags, f'--json={path}'], check=True)
    return json.loads(path.read_text(encoding='utf-8'))


def main(arguments: list[str] | None = None) -> None:
  """Runs the sections asked for and prints one table; a section that fails is named in it."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--sections', default=','.join(SECTIONS), help='comma-separated (default: all)')
  parser.add_argument('--quick', action='store_true', help='tiny sizes: a check of the benchmark itself')
  parser.add_argument('--json', type=expand, help='file to write all numbers to')
  flags = parser.parse_args(arguments)
  sections = flags.sections.split(',')
  if unknown := set(sections) - set(SECTIONS):
    parser.error(f'unknown section(s) {sorted(unknown)}; expected some of {", ".join(SECTIONS)}')
  table, found, failed = [], {}, []
  for section in sections:
    for command in _commands(flags.quick)[section]:
      try:
        result = run(command)
      except subprocess.CalledProcessError as error:
        failed.append(section)
        table.append((' '.join(command), f'failed with exit code {error.returncode}'))
        continue
      found.setdefault(section, []).append(result)
      table += rows(section, result)
  print(f'\n{platform.processor() or platform.machine()}\n')
  print(tables.as_markdown([('benchmark', 'measured'), *table], left=(0, 1)))
  if flags.json:
    files.write_json(flags.json, found)
  if failed:
    sys.exit(1)


if __name__ == '__main__':
  main()
