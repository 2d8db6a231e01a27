"""Checks Kubernetes manifests: each against the schema of its kind, and each workload for what production needs.

manifests.py FILE, a stream of YAML documents. Says what is wrong with which object, and ends with 1.
"""

import sys

import kubernetes_validate
import yaml

# The schemas of this version are in the pinned package.
KUBERNETES = "1.33"


def pods(document):
    """The pod's specification of a workload, or none."""
    if document["kind"] in ("Deployment", "StatefulSet", "Job"):
        return document["spec"]["template"]["spec"]
    return None


def faults_of_workload(document):
    spec = pods(document)
    if spec is None:
        return
    if spec.get("automountServiceAccountToken") is not False:
        yield "mounts a service account's token that nothing needs"
    if spec.get("securityContext", {}).get("runAsNonRoot") is not True:
        yield "may run as root"
    for container in spec["containers"]:
        context = container.get("securityContext", {})
        if context.get("readOnlyRootFilesystem") is not True:
            yield f"container {container['name']} may write to its root file system"
        if context.get("capabilities", {}).get("drop") != ["ALL"]:
            yield f"container {container['name']} keeps capabilities"
        if "memory" not in container.get("resources", {}).get("limits", {}):
            yield f"container {container['name']} has no memory limit"
        if document["kind"] == "Job":
            continue
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            if probe not in container:
                yield f"container {container['name']} has no {probe}"
        if "preStop" not in container.get("lifecycle", {}):
            yield f"container {container['name']} has no preStop"


def main(path):
    with open(path, encoding="utf-8") as file:
        documents = [document for document in yaml.safe_load_all(file) if document]
    faults = []
    for document in documents:
        name = f"{document['kind']} {document['metadata']['name']}"
        try:
            kubernetes_validate.validate(document, KUBERNETES, strict=True)
        except kubernetes_validate.ValidationError as error:
            faults.append(f"{name}: {'/'.join(map(str, error.path))}: {error.message}")
        faults.extend(f"{name}: {fault}" for fault in faults_of_workload(document))
    kinds = {document["kind"] for document in documents}
    for kind in ("Deployment", "StatefulSet", "PodDisruptionBudget", "NetworkPolicy"):
        if kind not in kinds:
            faults.append(f"there is no {kind}")
    for fault in faults:
        print(fault, file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
