#!/bin/sh
# Makes what is handed out, in dist/: an archive with the program, its bill of materials (CycloneDX), and the checksums of both.
# The same commit gives the same bytes. Signing is a step of its own: docs/supply-chain.md.
set -eu

root=$(cd "$(dirname "$0")/../.." && pwd)
cd "$root"
command -v python3 >/dev/null || {
    echo "make dist needs python3 (3.11 or newer) for the bill of materials" >&2
    exit 1
}
if [ -n "$(git status --porcelain --untracked-files=no)" ]; then
    echo "make dist: there are changes that no commit has; the archive would be of no known source" >&2
    exit 1
fi
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
export SOURCE_DATE_EPOCH
triple=$(rustc -vV | sed -n 's/^host: //p')
version=$(cargo metadata --format-version 1 --no-deps --locked | python3 -c 'import json, sys; print(json.load(sys.stdin)["packages"][0]["version"])')
name=webhook-hub-$version-$triple
program=$(deploy/dist/build.sh)
# It starts and deletes servers of its own, and has nothing to do in production.
if "$program" dev --help >/dev/null 2>&1; then
    echo "make dist: the program has the command dev, so it was built with the feature of that name" >&2
    exit 1
fi

rm -rf dist
mkdir -p "dist/$name"
cp "$program" LICENSE README.md SECURITY.md CHANGELOG.md nats.conf "dist/$name/"
cp -r providers sql streams docs "dist/$name/"
git log -1 --format=%H >"dist/$name/COMMIT"
rustc -vV >"dist/$name/RUSTC"
python3 deploy/dist/sbom.py "$triple" >"dist/$name.cdx.json"
# Names in order, one owner, the commit's time: else the same files make another archive.
tar --directory dist --sort=name --owner=0 --group=0 --numeric-owner --mode='u+rwX,go+rX,go-w' \
    --mtime="@$SOURCE_DATE_EPOCH" -cf - "$name" | gzip -9n >"dist/$name.tar.gz"
rm -rf "dist/${name:?}"
(cd dist && sha256sum "$name.cdx.json" "$name.tar.gz" >SHA256SUMS)
cat dist/SHA256SUMS
