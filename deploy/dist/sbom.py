#!/usr/bin/env python3
"""Writes a bill of materials (CycloneDX 1.5, JSON) of what is in the program: from Cargo.lock and `cargo metadata`, nothing else.

usage: deploy/dist/sbom.py TARGET_TRIPLE > webhook-hub.cdx.json

It needs no network, and the same commit gives the same bytes: the time is SOURCE_DATE_EPOCH, the serial number is of the content.
Dependencies of tests are left out; those of the build (code that runs then, and is not in the program) have scope "excluded".
"""

import hashlib
import json
import os
import re
import subprocess
import sys
import tomllib
import uuid
from datetime import datetime, timezone
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CRATES_IO = "registry+https://github.com/rust-lang/crates.io-index"


def metadata(triple):
    command = ["cargo", "metadata", "--format-version", "1", "--locked", "--filter-platform", triple]
    return json.loads(subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout)


def checksums():
    """Of each package that comes from a registry: SHA-256 of its archive."""
    lock = tomllib.loads((ROOT / "Cargo.lock").read_text())
    return {(one["name"], one["version"]): one["checksum"] for one in lock["package"] if "checksum" in one}


def reachable(nodes, start, kinds):
    """Ids of packages that `start` needs by dependencies of these kinds; of proc macros and build scripts everything is of the build."""
    found, left = set(), [start]
    while left:
        one = left.pop()
        if one in found:
            continue
        found.add(one)
        for dependency in nodes[one]["deps"]:
            if any(kind["kind"] in kinds for kind in dependency["dep_kinds"]):
                left.append(dependency["pkg"])
    return found


def is_macro(package):
    return any("proc-macro" in target["kind"] for target in package["targets"])


def in_program(nodes, packages, start):
    """Packages whose code is in the program: by normal dependencies, without passing through a proc macro."""
    found, left = set(), [start]
    while left:
        one = left.pop()
        if one in found or is_macro(packages[one]):
            continue
        found.add(one)
        for dependency in nodes[one]["deps"]:
            if any(kind["kind"] is None for kind in dependency["dep_kinds"]):
                left.append(dependency["pkg"])
    return found


def purl(package):
    return f"pkg:cargo/{package['name']}@{package['version']}"


def licences(package):
    expression = package.get("license")
    if not expression:
        return [{"license": {"name": package.get("license_file") or "unknown"}}]
    # Before SPDX expressions a slash meant "or".
    return [{"expression": re.sub(r"\s*/\s*", " OR ", expression)}]


def component(package, hashes, is_in_program):
    if package["source"] != CRATES_IO:
        sys.exit(f"sbom.py: {package['name']} does not come from crates.io, but from {package['source']}")
    links = [("vcs", package.get("repository")), ("website", package.get("homepage"))]
    return {
        "type": "library",
        "bom-ref": purl(package),
        "name": package["name"],
        "version": package["version"],
        "scope": "required" if is_in_program else "excluded",
        "hashes": [{"alg": "SHA-256", "content": hashes[(package["name"], package["version"])]}],
        "licenses": licences(package),
        "purl": purl(package),
        "externalReferences": [{"type": kind, "url": url} for kind, url in links if url],
    }


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    triple = sys.argv[1]
    data = metadata(triple)
    packages = {one["id"]: one for one in data["packages"]}
    nodes = {one["id"]: one for one in data["resolve"]["nodes"]}
    root = data["resolve"]["root"]
    program = in_program(nodes, packages, root)
    everything = reachable(nodes, root, {None, "build"})
    hashes = checksums()
    others = sorted((packages[one] for one in everything if one != root), key=purl)
    own = packages[root]
    seconds = int(os.environ.get("SOURCE_DATE_EPOCH", "0"))
    known = {one: purl(packages[one]) for one in everything}
    dependencies = [
        {
            "ref": known[one],
            # Without the package itself, which its tests depend on with a feature more.
            "dependsOn": sorted({known[other["pkg"]] for other in nodes[one]["deps"] if other["pkg"] in known and other["pkg"] != one}),
        }
        for one in sorted(everything, key=known.get)
    ]
    bom = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "timestamp": datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "component": {
                "type": "application",
                "bom-ref": purl(own),
                "name": own["name"],
                "version": own["version"],
                "licenses": licences(own),
                "purl": purl(own),
            },
            "properties": [{"name": "cargo:target", "value": triple}],
        },
        "components": [component(one, hashes, one["id"] in program) for one in others],
        "dependencies": dependencies,
    }
    digest = hashlib.sha256(json.dumps(bom, sort_keys=True).encode()).digest()
    bom["serialNumber"] = f"urn:uuid:{uuid.UUID(bytes=digest[:16], version=5)}"
    print(json.dumps(bom, indent=1, sort_keys=True))


if __name__ == "__main__":
    main()
