#!/usr/bin/env bash
# From nothing to a table of results, and the tests.
#
#   ./run.sh              environment; films, teacher, features, students, table and contact sheet in runs/demo
#   ./run.sh test         the tests; further arguments go to pytest (--slow adds the slow ones)
#   ./run.sh --size=tiny  arguments go to dlkd_jax.demo: this one shows the whole path in a few minutes
#
# PYTHON names the interpreter to make the environment with (3.11 or newer), DLKD_VENV its folder, DLKD_EXTRAS the extras
# of setup.py to install: test,tpu adds the compiler for TPUs, and with it the tests that compile for them.
# DLKD_TEST_JOBS is the number of processes that share the tests, 3 by default: on two cores one of them often waits.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

python=${PYTHON:-python3}
venv=${DLKD_VENV:-.venv}
extras=${DLKD_EXTRAS:-test}
workdir=runs/demo

say() { printf '\n== %s\n' "$*"; }

if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
  echo "error: $python is $("$python" --version 2>&1); dlkd_jax needs Python 3.11 or newer. Name one: PYTHON=python3.12 ./run.sh" >&2
  exit 1
fi

# The stamp is written last, so an installation that was interrupted is done again.
stamp="$venv/.installed-$extras-$(cat setup.py constraints.txt | cksum | cut -d' ' -f1)"
if [ ! -e "$stamp" ]; then
  say "installing into $venv (once; about a minute)"
  [ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[$extras]"
  touch "$stamp"
fi
python="$venv/bin/python"

# Where the TPU's compiler is installed and nothing but a CPU is there, JAX would look for a TPU at each start, and complain.
there() { [ -n "$(compgen -G "$1")" ]; }
if [ -z "${JAX_PLATFORMS:-}" ] && there "$venv/lib/python3*/site-packages/libtpu" &&
  ! there '/dev/accel*' && ! there '/dev/vfio/[0-9]*' && ! there '/dev/nvidia[0-9]*'; then
  export JAX_PLATFORMS=cpu
fi

if [ "${1:-}" = test ]; then
  shift
  say "tests"
  exec "$python" -m pytest -n "${DLKD_TEST_JOBS:-3}" --dist loadfile --no-loadscope-reorder "$@"
fi

say "demonstration: $workdir"
exec "$python" -m dlkd_jax.demo --workdir="$workdir" "$@"
