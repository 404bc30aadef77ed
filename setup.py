"""Packaging of dlkd_jax; `constraints.txt` pins the versions that the tests ran with."""

import pathlib
import re

from setuptools import find_packages, setup

HERE = pathlib.Path(__file__).parent

setup(
  name='dlkd_jax',
  version=re.search(r"__version__ = '(.+)'", (HERE / 'dlkd_jax/__init__.py').read_text(encoding='utf-8'))[1],
  description='Partially relevant video retrieval: DL-DKD++ in JAX and Flax.',
  long_description=(HERE / 'README.md').read_text(encoding='utf-8'),
  long_description_content_type='text/markdown',
  license='Apache-2.0',
  python_requires='>=3.11',
  # The recipes lie at the top, where one looks for them, and are installed within the package.
  packages=[*find_packages(include=['dlkd_jax*', 'tfds_builders*']), 'dlkd_jax.configs'],
  package_dir={'dlkd_jax.configs': 'configs'},
  package_data={'dlkd_jax.page': ['static/*'], 'tfds_builders': ['**/*.md', '**/*.bib']},
  entry_points={'console_scripts': ['dlkd = dlkd_jax.__main__:main']},
  install_requires=[
    'absl-py',
    'array_record',
    'av',  # Decodes videos; its wheels bring FFmpeg along.
    'chex',
    'clu>=0.0.12',  # Metrics and the overview of parameters.
    'etils[epath]',
    'faiss-cpu',  # Candidates of the two-stage search.
    'flax>=0.12',
    'fsspec',
    'grain>=0.2.18',
    'h5py',
    'scipy',  # jax needs it in any case.
    'huggingface_hub>=1',  # Models by name; tokenizers needs it in any case.
    'importlib_resources',  # tensorflow-datasets imports it without requiring it.
    'jax>=0.10',
    'matplotlib',  # Plots of the report.
    'ml_collections',
    'numpy',
    'optax>=0.2.5',
    'orbax-checkpoint>=0.12',
    'pillow',
    'safetensors',
    'starlette',  # The page of the search, served by uvicorn.
    'tensorboardX',
    'tensorflow-datasets>=4.9.10',
    'tokenizers',
    'tqdm',
    'uvicorn',
  ],
  extras_require={
    'cuda': ['jax[cuda12]'],
    'gcs': ['gcsfs'],  # Work directories and data sets on gs://.
    # The page is tested in Chromium where that and its driver are installed; the notebook is executed.
    'test': [
      'httpx2',
      'hypothesis',
      'ipykernel',
      'nbclient',
      'nbformat',
      'psutil',
      'pytest',
      'pytest-xdist',
      'ruff',
      'selenium',
      'setuptools',  # What is installed is tested.
    ],
    'torch': ['torch'],  # Only to read the authors' checkpoints.
    'tpu': ['jax[tpu]'],  # Also to compile for TPUs where there is none.
  },
)
