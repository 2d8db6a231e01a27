#!/bin/sh
# Looks at all dependencies: known vulnerabilities, licences, sources, versions that are there twice (deny.toml).
# Without cargo-deny, or without its database of advisories, it says what was not looked at, and goes on: a machine that builds need
# not reach the internet. SUPPLY_CHAIN=required makes that a failure.
set -eu

root=$(cd "$(dirname "$0")/../.." && pwd)
cd "$root"

skipped() {
    echo "supply chain: not run, $1"
    [ "${SUPPLY_CHAIN:-}" != required ] || exit 1
}

if ! cargo deny --version >/dev/null 2>&1; then
    skipped "because cargo-deny is missing (cargo install cargo-deny --locked): advisories, licences, sources, duplicates"
    exit 0
fi
# The crates are in Cargo's cache after a build, so this asks nobody.
cargo deny --locked --offline check licenses bans sources

# The database of advisories is fetched where that is possible; else the last one counts, if it is not older than deny.toml allows.
database=${CARGO_HOME:-$HOME/.cargo}/advisory-dbs
cargo deny --locked fetch db >/dev/null 2>&1 || echo "supply chain: the database of advisories cannot be fetched now"
if [ -n "$(find "$database" -maxdepth 2 -name .git 2>/dev/null | head -1)" ]; then
    cargo deny --locked --offline check advisories
else
    skipped "because the database of advisories is missing: advisories"
fi
