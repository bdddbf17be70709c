# shellcheck shell=bash
# test, asan and tsan. Sourced by inside.sh.

# Each stage leaves a JUnit file here; summarize.py adds them up.
readonly RESULTS=build/test-results

test_verb() {
  local preset=release unit_only=no filter='' files=()
  while (($#)); do
    case $1 in
      --preset) preset=${2:?--preset needs a name} && shift 2 ;;
      --preset=*) preset=${1#*=} && shift ;;
      --unit) unit_only=yes && shift ;;
      -k) filter=${2:?-k needs an expression} && shift 2 ;;
      -*) usage_error "test does not know '$1'" ;;
      *) files+=("$1") && shift ;;
    esac
  done
  check_preset "$preset"
  start_results
  stage "build ($preset)"
  build "$preset"
  if ((${#files[@]})); then
    pytest_stage chosen "$preset" "$filter" "${files[@]}"
  else
    ctest_stage unit "$preset" "$filter"
    [[ $unit_only == yes ]] || ctest_stage stress "$preset" "$filter"
    pytest_stage tools "$preset" "$filter" tests/dev
    pytest_stage model "$preset" "$filter" tests/model
    if [[ $unit_only == no ]]; then integration_stages "$preset" "$filter"; fi
  fi
  summarize
}

# Moves in every mode by programs with a sanitizer in them. What they report fails the test (tests/integration/conftest.py).
readonly SANITIZED_MOVES=(tests/integration/test_memory_churn.py tests/integration/test_memory_modes.py tests/integration/test_move.py)

sanitizer_verb() {
  local preset=$1 filter='' moves=no
  shift
  while (($#)); do
    case $1 in
      --moves) moves=yes && shift ;;
      -k) filter=${2:?-k needs an expression} && shift 2 ;;
      *) usage_error "$preset does not know '$1'" ;;
    esac
  done
  start_results
  stage "build ($preset)"
  build "$preset"
  if [[ $moves == yes ]]; then
    pytest_stage moves "$preset" "$filter" "${SANITIZED_MOVES[@]}"
  else
    ctest_stage unit "$preset" "$filter"
    ctest_stage stress "$preset" "$filter"
  fi
  summarize
}

start_results() {
  rm -rf "$RESULTS"
  mkdir -p "$RESULTS"
  STAGES=()
}

# A test stage may fail and the next one still runs: summarize decides. Its file must be there, however it ended.
# LABEL is unit or stress.
ctest_stage() {
  local label=$1 preset=$2 filter=$3 selection=()
  [[ -z $filter ]] || selection=(-R "$filter")
  stage "$label tests"
  STAGES+=("$RESULTS/$label.xml")
  local status=0
  ctest --test-dir "build/$preset" -L "^$label\$" --output-on-failure --timeout 120 -j "$JOBS" \
    --test-output-size-passed 65536 --output-junit "/src/$RESULTS/$label.xml" "${selection[@]}" || status=$?
  echo "$status" >"$RESULTS/$label.status"
}

pytest_stage() {
  local name=$1
  stage "$name tests"
  STAGES+=("$RESULTS/$name.xml")
  run_pytest "$@"
}

# What measures first, by itself. Then all others in two labs at once: most of the time tests wait for something.
# What the second half prints is shown when it has ended.
integration_stages() {
  local preset=$1 filter=$2 second
  pytest_stage measuring "$preset" "$filter" tests/integration --half 0
  stage "integration tests"
  STAGES+=("$RESULTS/integration-1.xml" "$RESULTS/integration-2.xml")
  run_pytest integration-2 "$preset" "$filter" tests/integration --half 2 \
    >"$RESULTS/integration-2.log" 2>&1 &
  second=$!
  run_pytest integration-1 "$preset" "$filter" tests/integration --half 1
  wait "$second"
  cat "$RESULTS/integration-2.log"
}

run_pytest() {
  local name=$1 preset=$2 filter=$3 selection=()
  shift 3
  [[ -z $filter ]] || selection=(-k "$filter")
  local status=0
  TRANSSHIP_BUILD=/src/build/$preset python3 -m pytest "$@" -q -p no:cacheprovider --timeout=900 -o junit_family=xunit2 \
    --junitxml="$RESULTS/$name.xml" "${selection[@]}" || status=$?
  echo "$status" >"$RESULTS/$name.status"
}

summarize() {
  stage "summary"
  exec python3 tools/dev/summarize.py "${STAGES[@]}"
}
