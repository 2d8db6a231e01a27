#!/bin/sh
# Puts the SDKs that sign webhooks where tests/sdks.rs looks for them. Pinned and checked by hash: requirements.txt for
# pip, package-lock.json for npm. Needs python3 with pip, and Node.js with npm. Does nothing when they are there.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
tools=${WEBHOOK_HUB_TOOLS:-$here/../../.dev/tools}/sdks
stamp=$(cat "$here/requirements.txt" "$here/package-lock.json" | sha256sum)

[ -f "$tools/stamp" ] && [ "$(cat "$tools/stamp")" = "$stamp" ] && exit 0

for program in python3 npm; do
    command -v "$program" >/dev/null || {
        echo "$0: $program is missing: install it, or run the tests without the SDKs (make test)" >&2
        exit 1
    }
done

rm -rf "$tools"
mkdir -p "$tools/node"
echo "installing the SDKs into $tools ..."
PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PIP_USER=0 python3 -m pip install --quiet --no-deps \
    --require-hashes --only-binary=:all: --target "$tools/python" -r "$here/requirements.txt"
cp "$here/package.json" "$here/package-lock.json" "$tools/node/"
(cd "$tools/node" && npm ci --silent --ignore-scripts --no-audit --no-fund)
# Node.js looks for packages from the script's own folder upward, so the script stands beside them.
cp "$here/sign.mjs" "$tools/node/"
printf '%s' "$stamp" >"$tools/stamp"
