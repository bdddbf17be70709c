# shellcheck shell=bash
# fmt and lint. Sourced by inside.sh.

# Our C++: tracked files and new ones that git does not ignore.
cpp_files() {
  find src fuzz lab tests -type f \( -name '*.cc' -o -name '*.h' \) -print0 2>/dev/null | sort -z
}

fmt_verb() {
  local mode=(-i) files=()
  while (($#)); do
    case $1 in
      --check) mode=(--dry-run --Werror) && shift ;;
      -*) usage_error "fmt does not know '$1'" ;;
      *) files+=("$1") && shift ;;
    esac
  done
  ((${#files[@]})) || mapfile -d '' -t files < <(cpp_files)
  ((${#files[@]})) || return 0
  printf '%s\0' "${files[@]}" | xargs -0 -P "$JOBS" -n 32 clang-format --style=file "${mode[@]}" ||
    fail "these files are not formatted: run ./dev fmt"
}

lint_verb() {
  local bad=() files=()
  for file in "$@"; do
    [[ -f $file ]] || usage_error "lint: there is no file '$file' (paths are relative to the checkout)"
    files+=("$file")
  done
  if ((${#files[@]} == 0)); then
    stage "layers and file sizes"
    python3 tools/check_layers.py src || bad+=("layers")
    stage "shell scripts"
    mapfile -d '' -t scripts < <(shell_scripts)
    shellcheck -x "${scripts[@]}" || bad+=("shell scripts")
    stage "Python syntax"
    find tools lab tests bench model -name '*.py' -exec python3 -c '
import ast, sys
for path in sys.argv[1:]:
    ast.parse(open(path, "rb").read(), path)' {} + || bad+=("Python syntax")
  fi
  stage "clang-tidy"
  tidy "${files[@]}" || bad+=("clang-tidy")
  ((${#bad[@]} == 0)) || fail "lint found something in: ${bad[*]}"
}

shell_scripts() {
  printf '%s\0' dev
  find .ci tools lab tests packaging -type f -print0 2>/dev/null |
    while IFS= read -r -d '' file; do
      case $file in
        *.sh) printf '%s\0' "$file" ;;
        *.*) ;;
        *) if head -c 64 "$file" | grep -qaE '^#!.*\b(ba)?sh\b'; then printf '%s\0' "$file"; fi ;;
      esac
    done
}

# The debug build says how each file is compiled; of it only the headers made from .proto files must exist.
tidy() {
  local headers
  configure debug
  mapfile -t headers < <(ninja -C build/debug -t targets all | sed -n 's/^\(generated\/.*\.h\): .*/\1/p')
  if ((${#headers[@]})); then build debug "${headers[@]}"; fi
  python3 tools/dev/tidy.py build/debug "$JOBS" "$@"
}
