#!/bin/sh
# Whether the release build is reproducible: the commit is built twice, in two folders of different names and lengths, and the
# two programs are compared byte for byte. Takes two whole release builds.
set -eu

root=$(cd "$(dirname "$0")/../.." && pwd)
cd "$root"
work=$root/target/dist/check
rm -rf "$work"
mkdir -p "$work"
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
export SOURCE_DATE_EPOCH
for folder in one another-folder; do
    mkdir -p "$work/$folder"
    git archive HEAD | tar --directory "$work/$folder" -xf -
    "$work/$folder/deploy/dist/build.sh" "$work/$folder/out" >/dev/null
done
one=$work/one/out/release/webhook-hub
other=$work/another-folder/out/release/webhook-hub
if cmp "$one" "$other"; then
    sha256sum "$one" | cut -d' ' -f1 | sed 's/^/reproducible: both builds are /'
else
    echo "not reproducible; the paths of both are in $work. Folders that are left in the programs:" >&2
    for program in "$one" "$other"; do
        strings -n 8 "$program" 2>/dev/null | grep -F "$work" | head -5 >&2 || true
    done
    exit 1
fi
