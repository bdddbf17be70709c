# shellcheck shell=bash
# fuzz. Sourced by inside.sh.

fuzz_verb() {
  build fuzz fuzz_targets
  # Whoever else works on this machine goes first.
  exec nice -n 10 python3 tools/dev/fuzz.py build/fuzz fuzz/corpus "$@"
}
