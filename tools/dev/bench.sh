# shellcheck shell=bash
# bench. Sourced by inside.sh.

bench_verb() {
  case ${1:-} in
    move) shift && bench_move "$@" ;;
    micro) shift && bench_micro "$@" ;;
    '') usage_error "bench needs to be told what: move or micro" ;;
    *) usage_error "bench does not know '$1' (move, micro)" ;;
  esac
}

bench_move() {
  [[ ${1:-} != -- ]] || shift
  local argument
  for argument in "$@"; do
    case $argument in -h | --help) exec python3 bench/move --help ;; esac
  done
  build release transshipd transship transship-runtime lab-forwarder
  exec python3 bench/move "$@"
}

bench_micro() {
  (($# <= 1)) || usage_error "bench micro takes one FILTER"
  local filter=${1:-} programs=() program
  [[ $filter != -* ]] || usage_error "bench micro does not know '$filter'"
  if [[ -z $filter || wire_bench =~ $filter ]]; then programs+=(wire_bench); fi
  if [[ -z $filter || ${#programs[@]} == 0 ]]; then programs+=(memory_bench); fi
  configure release
  for program in "${programs[@]}"; do
    has_target "$program" || fail "this checkout has no $program: nothing in bench/CMakeLists.txt makes it"
  done
  build release "${programs[@]}"
  for program in "${programs[@]}"; do
    stage "$program"
    if [[ $program == memory_bench && -n $filter ]]; then
      "build/release/bin/$program" --benchmark_filter="$filter"
    else
      "build/release/bin/$program"
    fi
  done
}

has_target() { ninja -C build/release -t query "$1" >/dev/null 2>&1; }
