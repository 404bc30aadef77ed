"""Packaging of dlkd_jax; `constraints.txt` pins the versions that the tests ran with."""

import pathlib
import re

from setuptools import find_packages, setup

HERE = pathlib.Path(__file__).parent
TRAIN = [  # Data sets, training and reports; a search needs none of these.
  'array_record',
  'chex',
  'clu>=0.0.12',  # Metrics and the overview of parameters.
  'grain>=0.2.18',
  'h5py',
  'importlib_resources',  # tensorflow-datasets imports it without requiring it.
  'matplotlib',  # Plots of the report.
  'optax>=0.2.5',  # flax needs it and the next in any case, and jax scipy.
  'orbax-checkpoint>=0.12',
  'scipy',
  'tensorboardX',
  'tensorflow-datasets>=4.9.10',
]
# The page is tested in Chromium where that and its driver are installed; the notebook is executed.
TEST = [
  'httpx2',
  'hypothesis',
  'ipykernel',
  'mypy',
  'nbclient',
  'nbformat',
  'opentimelineio',  # With its adapter and pycmx it reads the lists for editing programs.
  'otio-cmx3600-adapter',
  'psutil',
  'pycmx',
  'pytest',
  'pytest-xdist',
  'ruff',
  'selenium',
  'setuptools',  # What is installed is tested.
]

setup(
  name='dlkd_jax',
  version=re.search(r"__version__ = '(.+)'", (HERE / 'dlkd_jax/__init__.py').read_text(encoding='utf-8'))[1],
  description='Finds films, and the second in them, by a sentence; trains what finds them (DL-DKD++ in JAX).',
  long_description=(HERE / 'README.md').read_text(encoding='utf-8'),
  long_description_content_type='text/markdown',
  license='Apache-2.0',
  keywords=['video retrieval', 'moment retrieval', 'semantic search', 'CLIP', 'SigLIP', 'JAX', 'Flax'],
  classifiers=[
    'Development Status :: 4 - Beta',
    'Environment :: Console',
    'Environment :: Web Environment',
    'Intended Audience :: End Users/Desktop',
    'Intended Audience :: Science/Research',
    'Operating System :: POSIX',
    'Programming Language :: Python :: 3 :: Only',
    'Programming Language :: Python :: 3.11',
    'Topic :: Multimedia :: Video',
    'Topic :: Scientific/Engineering :: Artificial Intelligence',
    'Typing :: Typed',
  ],
  python_requires='>=3.11',
  # The recipes lie at the top, where one looks for them, and are installed within the package.
  packages=[*find_packages(include=['dlkd_jax*', 'tfds_builders*']), 'dlkd_jax.configs'],
  package_dir={'dlkd_jax.configs': 'configs'},
  package_data={
    'dlkd_jax': ['py.typed'],
    'dlkd_jax.page': ['static/*'],
    'tfds_builders': ['**/*.md', '**/*.bib'],
  },
  entry_points={'console_scripts': ['dlkd = dlkd_jax.__main__:main']},
  install_requires=[
    'absl-py',
    'av',  # Decodes videos; its wheels bring FFmpeg along.
    'charset-normalizer',  # Subtitles in whatever encoding they are.
    'etils[epath]',
    'faiss-cpu',  # Candidates of the two-stage search.
    'flax>=0.12',
    'fsspec',
    'huggingface_hub>=1',  # Models by name; tokenizers needs it in any case.
    'jax>=0.10',
    'ml_collections',
    'numpy',
    'pillow',
    'safetensors',
    'starlette',  # The page of the search, served by uvicorn.
    'tokenizers',
    'tqdm',
    'uvicorn',
  ],
  extras_require={
    'cuda': ['jax[cuda12]'],
    'gcs': ['gcsfs'],  # Work directories and data sets on gs://.
    'lancedb': ['lancedb>=0.40'],  # Frames of galleries beyond one machine's memory.
    'ray': ['ray>=2.40'],  # Films read by several machines.
    'test': [*TRAIN, *TEST],
    'torch': ['torch'],  # Only to read the authors' checkpoints.
    'tpu': ['jax[tpu]'],  # Also to compile for TPUs where there is none.
    'train': TRAIN,
  },
)
