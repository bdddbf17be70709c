# shellcheck shell=bash
# bench. Sourced by inside.sh.

bench_verb() {
  case ${1:-} in
    move) shift && bench_move "$@" ;;
    postgres) shift && bench_postgres "$@" ;;
    network) shift && bench_network "$@" ;;
    volumes) shift && bench_volumes "$@" ;;
    micro) shift && bench_micro "$@" ;;
    '') usage_error "bench needs to be told what: move, postgres, network, volumes or micro" ;;
    *) usage_error "bench does not know '$1' (move, postgres, network, volumes, micro)" ;;
  esac
}

bench_move() { bench_in_lab bench/move "$@"; }
bench_postgres() { bench_in_lab bench/postgres "$@"; }
bench_network() { bench_in_lab bench/network "$@"; }
bench_volumes() { bench_in_lab bench/volumes "$@"; }

# PROGRAM ARGUMENT...: a bench, or another program, that needs the lab and in it what has been built.
bench_in_lab() {
  local bench=$1 argument
  shift
  [[ ${1:-} != -- ]] || shift
  for argument in "$@"; do
    case $argument in -h | --help) exec python3 "$bench" --help ;; esac
  done
  local programs
  mapfile -t programs < <(PYTHONPATH=lab python3 -c 'from labkit.deploy import PROGRAMS; print(*PROGRAMS, sep="\n")')
  ((${#programs[@]})) || fail "lab/labkit/deploy.py does not say which programs the lab needs"
  build release "${programs[@]}" lab-forwarder
  exec python3 "$bench" "$@"
}

bench_micro() {
  (($# <= 1)) || usage_error "bench micro takes one FILTER"
  local filter=${1:-.} matched=no program
  [[ $filter != -* ]] || usage_error "bench micro does not know '$filter'"
  configure release
  for program in memory_bench state_bench tree_bench wire_bench; do
    has_target "$program" || fail "this checkout has no $program: nothing in bench/CMakeLists.txt makes it"
  done
  build release memory_bench state_bench tree_bench wire_bench
  for program in memory_bench state_bench tree_bench; do
    [[ $("build/release/bin/$program" --benchmark_list_tests --benchmark_filter="$filter" 2>/dev/null) ]] || continue
    matched=yes
    stage "$program"
    (cd build/release && "bin/$program" --benchmark_filter="$filter")
  done
  if [[ wire_bench =~ $filter ]]; then
    matched=yes
    stage wire_bench
    build/release/bin/wire_bench
  fi
  [[ $matched == yes ]] || fail "no part matches '$filter': build/release/bin/{memory,state,tree}_bench --benchmark_list_tests have their names"
}

has_target() { ninja -C build/release -t query "$1" >/dev/null 2>&1; }
