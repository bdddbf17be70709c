# shellcheck shell=bash
# build, demo and faults. Sourced by inside.sh.

check_preset() {
  case $1 in
    release | debug | clang | asan | tsan | fuzz) ;;
    *) usage_error "there is no preset '$1' (release, debug, clang, asan, tsan, fuzz)" ;;
  esac
}

build_verb() {
  local preset=release targets=()
  while (($#)); do
    case $1 in
      --preset) preset=${2:?--preset needs a name} && shift 2 ;;
      --preset=*) preset=${1#*=} && shift ;;
      -*) usage_error "build does not know '$1'" ;;
      *) targets+=("$1") && shift ;;
    esac
  done
  check_preset "$preset"
  build "$preset" "${targets[@]}"
}

# Configures when needed and compiles. Two calls in one checkout must not run ninja at once: it has no lock of its own.
build() {
  local preset=$1 lock
  shift
  mkdir -p "build/$preset"
  exec {lock}>"build/$preset/.lock"
  flock -w 3600 "$lock" || fail "another ./dev has been building build/$preset for an hour: end it and try again"
  configure "$preset"
  ninja -C "build/$preset" -j "$JOBS" "$@" {lock}>&-
  exec {lock}>&-
}

# ninja runs CMake again when a CMakeLists.txt changes, but knows nothing of presets, nor of a new root with other
# compilers and libraries, where only a start from nothing is right.
configure() {
  local preset=$1 stamp=build/$1/.configured want have=''
  want="$TRANSSHIP_ROOT_ID $(sha256sum <CMakePresets.json)"
  [[ ! -e $stamp ]] || have=$(<"$stamp")
  if [[ -e build/$preset/build.ninja && $have == "$want" ]]; then return; fi
  local fresh=()
  if [[ ${have%% *} != "$TRANSSHIP_ROOT_ID" ]]; then fresh=(--fresh); fi
  rm -f "$stamp"
  cmake --preset "$preset" "${fresh[@]}"
  echo "$want" >"$stamp"
}

demo_verb() {
  [[ ${1:-} != -- ]] || shift
  build release
  exec python3 lab/demo.py "$@"
}

faults_verb() {
  local preset=release words=()
  while (($#)); do
    case $1 in
      --preset) preset=${2:?--preset needs a name} && shift 2 ;;
      --preset=*) preset=${1#*=} && shift ;;
      --) shift ;;
      *) words+=("$1") && shift ;;
    esac
  done
  check_preset "$preset"
  local programs
  mapfile -t programs < <(PYTHONPATH=lab python3 -c 'from faultkit.stage import NEEDED; print(*NEEDED, sep="\n")')
  ((${#programs[@]})) || fail "lab/faultkit/stage.py does not say which programs it needs"
  build "$preset" "${programs[@]}"
  TRANSSHIP_BUILD=/src/build/$preset exec python3 lab/faults.py "${words[@]}"
}
