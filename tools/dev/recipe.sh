#!/bin/bash
# Makes a Debian root in an empty place:  recipe.sh DIRECTORY MIRROR SUITE
# This file, packages.txt and customize_root.sh say what is in it; a change to any of them makes ./dev build a new one.
set -euo pipefail
directory=$1 mirror=$2 suite=$3
here=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
# Given to apt by name: mmdebstrap can find out which key is the right one only on machines that have gpg.
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
packages=$(sed 's/#.*//' "$here/packages.txt" | xargs | tr ' ' ',')

export MIRROR=$mirror
# Without manuals and translations it is a third smaller. The sync after each package is useless in a directory that is
# thrown away when anything goes wrong.
exec mmdebstrap --mode=root --variant=minbase --format=directory --include="$packages" \
  --aptopt='Acquire::Retries "5"' --dpkgopt=force-unsafe-io \
  --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
  --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-include=/usr/share/doc/*/copyright' \
  --customize-hook="bash '$here/customize_root.sh' \"\$1\"" \
  "$suite" "$directory" "deb [signed-by=$keyring] $mirror $suite main"
