"""Checks compose files as far as that is possible without docker: names, files, images and the hardening of each service.

compose.py FILE... Says what is wrong with which service, and ends with 1.
"""

import os
import re
import sys

import yaml

# A version that does not move: postgres:18.6-alpine, and not postgres:18-alpine.
EXACT = re.compile(r".+:\d+\.\d+(\.\d+)?(-[a-z0-9.]+)?(@sha256:[0-9a-f]{64})?")
# Built on this machine, or given from outside.
OWN = re.compile(r"webhook-hub:local|\$\{HUB_IMAGE.*\}")


def names(value):
    """What a list or a mapping names."""
    return list(value or [])


def faults_of(service, compose):
    image = service.get("image", "")
    if not EXACT.fullmatch(image) and not OWN.fullmatch(image):
        yield f"the image {image!r} has no exact tag"
    for kind in ("secrets", "networks"):
        for name in names(service.get(kind)):
            if name not in names(compose.get(kind)):
                yield f"{kind} has no {name}"
    for name in names(service.get("depends_on")):
        if name not in compose["services"]:
            yield f"it depends on {name}, which is no service"
    if service.get("cap_drop") != ["ALL"]:
        yield "it keeps capabilities"
    if "no-new-privileges:true" not in names(service.get("security_opt")):
        yield "it may get new privileges"
    for variable, value in (service.get("environment") or {}).items():
        secret = re.fullmatch(r"/run/secrets/(.+)", str(value))
        if secret and secret[1] not in names(service.get("secrets")):
            yield f"{variable} names the secret {secret[1]}, which it does not have"


def mounted(service):
    """Files and folders of this repository that a service sees; ./backups is the operator's."""
    sources = (mount.split(":")[0] for mount in names(service.get("volumes")))
    return [source for source in sources if source.startswith(".") and source != "./backups"]


def main(paths):
    faults = []
    for path in paths:
        with open(path, encoding="utf-8") as file:
            compose = yaml.safe_load(file)
        for name, service in compose["services"].items():
            faults += [f"{path}: {name}: {fault}" for fault in faults_of(service, compose)]
            missing = (one for one in mounted(service) if not os.path.exists(os.path.join(os.path.dirname(path), one)))
            faults += [f"{path}: {name}: there is no {one}" for one in missing]
    for fault in faults:
        print(fault, file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
