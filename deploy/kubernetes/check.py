"""Check the manifests of this folder against the schemas of Kubernetes and of the Dask operator.

Usage: python deploy/kubernetes/check.py DASK_KUBERNETES.whl

kubernetes-validate knows plain manifests and passes any custom resource; that of the operator is checked against the
definition in its wheel: types, required keys, and keys that the API server would drop.
"""

from __future__ import annotations

import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import yaml

VERSION = "1.31"
CRD = "dask_kubernetes/operator/deployment/helm/dask-kubernetes-operator/crds/daskjob.yaml"


def unknown(value: Any, schema: dict[str, Any], where: str = "") -> Iterator[str]:
    """Yield the keys of a value that its schema does not have."""
    if schema.get("x-kubernetes-preserve-unknown-fields"):
        return
    if isinstance(value, dict):
        known, rest = schema.get("properties", {}), schema.get("additionalProperties")
        for key, inside in value.items():
            if key in known:
                yield from unknown(inside, known[key], f"{where}.{key}")
            elif isinstance(rest, dict):
                yield from unknown(inside, rest, f"{where}.{key}")
            elif not rest and schema.get("type") == "object" and (known or where):
                yield f"{where}.{key}"
    elif isinstance(value, list):
        for k, inside in enumerate(value):
            yield from unknown(inside, schema.get("items", {}), f"{where}[{k}]")


def main(wheel: str) -> int:
    """Check all manifests; return the exit code."""
    definition = yaml.safe_load(zipfile.ZipFile(wheel).read(CRD))
    schema = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    wrong = 0
    for path in sorted(Path(__file__).parent.glob("*.yaml")):
        for manifest in yaml.safe_load_all(path.read_text()):
            if manifest["kind"] == "DaskJob":
                body = {key: value for key, value in manifest.items() if key not in ("apiVersion", "kind", "metadata")}
                faults = [e.message[:200] for e in jsonschema.Draft7Validator(schema).iter_errors(body)]
                faults += [f"unknown key {key}" for key in unknown(body["spec"], schema["properties"]["spec"], "spec")]
            else:
                try:
                    kubernetes_validate.validate(manifest, VERSION, strict=True)
                    faults = []
                except kubernetes_validate.ValidationError as error:
                    faults = [str(error)[:200]]
            print(f"{path.name}: {manifest['kind']} {'; '.join(faults) or 'as its schema has it'}")
            wrong += len(faults)
    return min(wrong, 1)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
