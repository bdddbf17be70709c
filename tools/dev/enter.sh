# shellcheck shell=bash
# Runs a command inside the root. Sourced by ./dev; the head of ./dev says what the command sees.

# Replaces this process by the command: its exit code is ours, signals reach it, and no shell is left waiting.
# The mounts are made in a new mount namespace whose first process becomes the command.
enter() {
  export TRANSSHIP_ENTER_CACHE=$CACHE TRANSSHIP_ENTER_ROOT=$ROOT TRANSSHIP_ENTER_SRC=$SRC
  exec unshare --mount --propagation private bash "$SRC/tools/dev/enter_inner.sh" "$@"
}
