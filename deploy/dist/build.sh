#!/bin/sh
# Builds the program so that the same commit gives the same bytes, whatever the folders are called.
# usage: deploy/dist/build.sh [TARGET_FOLDER]; prints where the program is
set -eu

root=$(cd "$(dirname "$0")/../.." && pwd)
target=${1:-$root/target/dist/build}
mkdir -p "$target"
target=$(cd "$target" && pwd)
cargo_home=${CARGO_HOME:-$HOME/.cargo}
sysroot=$(rustc --print sysroot)

# Folders stand in messages of panics and in what C compilers write for __FILE__. The later mapping wins, and the target folder
# may be inside of the root.
rust_map="--remap-path-prefix=$root=/webhook-hub --remap-path-prefix=$cargo_home=/cargo"
rust_map="$rust_map --remap-path-prefix=$sysroot=/rust --remap-path-prefix=$target=/target"
c_map="-ffile-prefix-map=$root=/webhook-hub -ffile-prefix-map=$cargo_home=/cargo -ffile-prefix-map=$target=/target"

cd "$root"
# The time of the commit, in place of that of the build.
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
export SOURCE_DATE_EPOCH
export CARGO_INCREMENTAL=0 CARGO_TARGET_DIR="$target" LC_ALL=C TZ=UTC
export RUSTFLAGS="$rust_map -C strip=symbols" CFLAGS="$c_map" CXXFLAGS="$c_map"
cargo build --release --locked --bin webhook-hub >&2
echo "$target/release/webhook-hub"
