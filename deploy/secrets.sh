#!/bin/sh
# Makes the secrets that docker-compose.yml mounts, each a file of random letters and digits in deploy/secrets/. Leaves
# those alone that are there: to replace one, remove its file, run this again and restart what uses it (PostgreSQL keeps
# postgres_password of its first start, so change that one there too).
set -eu
cd "$(dirname "$0")/secrets"

# The folder is what keeps others out. The files themselves are readable, because compose mounts them with the mode and
# owner that they have here, and the programs in the containers run as other users.
chmod 700 .
umask 022

for name in \
    nats_provision_password nats_backup_password nats_hub_password nats_subscriber_password nats_route_password \
    postgres_password database_password database_run_password \
    service_token careem_webhook_secret; do
    if [ -s "$name" ]; then
        echo "kept    deploy/secrets/$name"
        continue
    fi
    # 32 bytes in hex, without a line end, for not every reader would cut it off.
    value=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')
    printf '%s' "$value" >"$name"
    echo "created deploy/secrets/$name"
done

echo "careem_webhook_secret is random: put in the one that the provider gave you, and the backend's own token in service_token"
