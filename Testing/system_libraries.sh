#!/bin/sh
# The tests load the panel with Qt, whose wheel needs a few of Debian's libraries. Installs them
# where they are missing and that is allowed; otherwise says what to install, and Qt's tests skip.
missing=
for pair in libEGL.so.1:libegl1 libGL.so.1:libgl1 libxkbcommon.so.0:libxkbcommon0 \
    libfontconfig.so.1:libfontconfig1 libdbus-1.so.3:libdbus-1-3 libglib-2.0.so.0:libglib2.0-0; do
  PATH="$PATH:/sbin:/usr/sbin" ldconfig -p | grep -q "${pair%%:*}" || missing="$missing ${pair#*:}"
done
[ -z "$missing" ] && exit 0
if [ "$(id -u)" = 0 ]; then sudo=; else sudo="sudo -n"; fi
$sudo apt-get update -qq && $sudo apt-get install -y -qq --no-install-recommends $missing && exit 0
echo "Libraries for the panel's tests are missing; install them with: apt-get install$missing"
