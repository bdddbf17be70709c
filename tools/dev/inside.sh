#!/bin/bash
# The verbs of ./dev that run inside the Debian 13 root, with the checkout at /src. Called by ./dev only.
set -euo pipefail

fail() {
  echo "dev: $*" >&2
  exit 1
}
usage_error() {
  echo "dev: $*; see ./dev help" >&2
  exit 2
}
stage() { echo "== $*" >&2; }

JOBS=${TRANSSHIP_JOBS:-$(nproc)}
readonly JOBS

# shellcheck source=tools/dev/build.sh
. tools/dev/build.sh
# shellcheck source=tools/dev/test.sh
. tools/dev/test.sh
# shellcheck source=tools/dev/bench.sh
. tools/dev/bench.sh
# shellcheck source=tools/dev/fuzz.sh
. tools/dev/fuzz.sh
# shellcheck source=tools/dev/style.sh
. tools/dev/style.sh

verb=$1
shift
case $verb in
  build) build_verb "$@" ;;
  test) test_verb "$@" ;;
  asan | tsan) sanitizer_verb "$verb" "$@" ;;
  model) exec python3 model/check.py "$@" ;;
  fuzz) fuzz_verb "$@" ;;
  demo) demo_verb "$@" ;;
  faults) faults_verb "$@" ;;
  matrix) bench_in_lab lab/matrix.py "$@" ;;
  bench) bench_verb "$@" ;;
  fmt) fmt_verb "$@" ;;
  lint) lint_verb "$@" ;;
esac
