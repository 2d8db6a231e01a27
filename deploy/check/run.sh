#!/bin/sh
# Holds the files of deploy/ against the programs that will read them. What a machine lacks is said and left out; what is there
# and refuses a file is a failure.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
tools=${WEBHOOK_HUB_TOOLS:-$root/.dev/tools}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

not_run() { echo "not run: $1 ($2 is missing)"; }
checked() { echo "checked: $1"; }

# A ConfigMap takes no file from outside of its folder, hence the copy.
cmp "$root/nats.conf" "$root/deploy/kubernetes/nats.conf" || {
    echo "deploy/kubernetes/nats.conf must be a copy of nats.conf: cp nats.conf deploy/kubernetes/" >&2
    exit 1
}

# Every password that nats.conf names is set by whoever starts it.
for name in $(grep -v '^ *#' "$root/nats.conf" | grep -o '\$NATS_[A-Z]*_PASSWORD' | tr -d '$' | sort -u); do
    for file in docker-compose.yml deploy/node/docker-compose.yml deploy/kubernetes/nats.yaml deploy/kubernetes/secrets.env.example; do
        case $name:$file in
            # A single server has no routes.
            NATS_ROUTE_PASSWORD:docker-compose.yml) continue ;;
        esac
        grep -q "$name" "$root/$file" || {
            echo "$file does not set $name, which nats.conf names" >&2
            exit 1
        }
    done
done

# The cluster's configuration, as the container's command would set its variables.
nats_server=${NATS_SERVER_BIN:-$(command -v nats-server || echo "$tools/nats/bin/nats-server")}
if [ -x "$nats_server" ]; then
    mkdir "$work/nats"
    cp "$root/nats.conf" "$root/deploy/kubernetes/cluster.conf" "$work/nats/"
    # Each variable that a file names gets a value; one that nothing sets would be refused.
    for name in $(grep -ho '\$NATS_[A-Z0-9_]*' "$work"/nats/*.conf | tr -d '$' | sort -u); do
        case $name in
            NATS_STORE_DIR) value=$work/nats/data ;;
            NATS_ROUTE_[0-9]) value="\"nats-route://route:secret@nats-${name#NATS_ROUTE_}.nats:6222\"" ;;
            *) value='"secret"' ;;
        esac
        export "$name=$value"
    done
    "$nats_server" -t -c "$work/nats/cluster.conf" >"$work/nats.log" 2>&1 || {
        cat "$work/nats.log" >&2
        exit 1
    }
    checked "deploy/kubernetes/cluster.conf"
else
    not_run "deploy/kubernetes/cluster.conf" nats-server
fi

# The manifests: put together as `kubectl apply -k` would, then held against the schemas.
if command -v kubectl >/dev/null && kubectl kustomize --help >/dev/null 2>&1; then
    cp -r "$root/deploy/kubernetes" "$work/kubernetes"
    sed 's/=$/=secret/' "$work/kubernetes/secrets.env.example" >"$work/kubernetes/secrets.env"
    kubectl kustomize "$work/kubernetes" >"$work/manifests.yaml"
    checked "deploy/kubernetes (kustomize)"
else
    # Without it, each file by itself.
    for file in namespace nats setup hub network-policy; do
        echo ---
        cat "$root/deploy/kubernetes/$file.yaml"
    done >"$work/manifests.yaml"
    not_run "deploy/kubernetes (kustomize)" kubectl
fi
if command -v python3 >/dev/null && python3 -m pip --version >/dev/null 2>&1; then
    stamp=$(sha256sum <"$here/requirements.txt")
    if [ ! -f "$tools/kubernetes/stamp" ] || [ "$(cat "$tools/kubernetes/stamp")" != "$stamp" ]; then
        rm -rf "$tools/kubernetes"
        PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PIP_USER=0 python3 -m pip install --quiet --no-deps \
            --require-hashes --only-binary=:all: --target "$tools/kubernetes" -r "$here/requirements.txt"
        printf '%s' "$stamp" >"$tools/kubernetes/stamp"
    fi
    PYTHONPATH="$tools/kubernetes" python3 "$here/manifests.py" "$work/manifests.yaml"
    checked "deploy/kubernetes (schemas, and what each workload must have)"
else
    not_run "deploy/kubernetes (schemas)" "python3 with pip"
fi

# The compose files, as far as they can be judged without docker.
if command -v python3 >/dev/null && PYTHONPATH="$tools/kubernetes" python3 -c 'import yaml' 2>/dev/null; then
    (cd "$root" && PYTHONPATH="$tools/kubernetes" python3 "$here/compose.py" docker-compose.yml deploy/node/docker-compose.yml)
    checked "the compose files (names, images, hardening)"
else
    not_run "the compose files (names, images, hardening)" "python3 with PyYAML"
fi
if docker compose version >/dev/null 2>&1; then
    (cd "$root" && docker compose -f docker-compose.yml config --quiet)
    checked docker-compose.yml
    NODE=nats-1 NODE_ADDRESS=10.0.0.1 NODES=10.0.0.1,10.0.0.2,10.0.0.3 BACKEND_URL=https://backend.example \
        HUB_DATABASE_ROLE=hub_run \
        docker compose -f "$root/deploy/node/docker-compose.yml" config --quiet
    checked deploy/node/docker-compose.yml
else
    not_run "the compose files (docker compose config)" "docker compose"
fi
