"""What the bundle is made of, as a software bill of materials: CycloneDX 1.6 in JSON, the part of it that is needed."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any
from urllib.parse import quote

Bom = dict[str, Any]
#: A package URL: its type, a namespace where it has one, name, version, qualifiers.
PURL = re.compile(r"pkg:[a-z]+(/[^/@?#\s]+){1,2}@[^/@?#\s]+(\?[^@#\s]+)?")


@dataclass(frozen=True, order=True)
class Part:
    """One package: *kind* is a package URL's type, with its namespace (``pypi``, ``deb/debian``, ``generic``)."""

    kind: str
    name: str
    version: str
    qualifiers: str = ""

    @property
    def purl(self) -> str:
        return f"pkg:{self.kind}/{quote(self.name, safe='')}@{quote(self.version, safe='')}{self.qualifiers}"

    def component(self, kind: str = "library") -> Bom:
        return {"type": kind, "bom-ref": self.purl, "name": self.name, "version": self.version, "purl": self.purl}


def bom(product: Part, parts: Sequence[Part], epoch: int) -> Bom:
    """The same document for the same parts: its serial number is made of them."""
    parts = sorted(set(parts))
    refs = [part.purl for part in parts]
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": uuid.uuid5(uuid.NAMESPACE_URL, json.dumps([product.purl, *refs])).urn,
        "version": 1,
        "metadata": {
            "timestamp": datetime.fromtimestamp(epoch, timezone.utc).isoformat(),
            "component": product.component("application"),
        },
        "components": [part.component() for part in parts],
        "dependencies": [{"ref": product.purl, "dependsOn": refs}],
    }


def faults(document: Bom) -> list[str]:
    """What of the shape that readers rely on is not so."""
    found = []
    for key, right in (("bomFormat", "CycloneDX"), ("specVersion", "1.6"), ("version", 1)):
        if document.get(key) != right:
            found.append(f"{key} is {document.get(key)!r}, not {right!r}")
    if not re.fullmatch(r"urn:uuid:[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", str(document.get("serialNumber"))):
        found.append(f"serialNumber is {document.get('serialNumber')!r}, not urn:uuid:...")
    product = document.get("metadata", {}).get("component", {})
    components = [product, *document.get("components", [])]
    if len(components) == 1:
        found.append("there are no components")
    for component in components:
        missing = [key for key in ("type", "bom-ref", "name", "version", "purl") if not component.get(key)]
        if missing:
            found.append(f"component {component.get('name')!r} lacks {', '.join(missing)}")
        elif not PURL.fullmatch(component["purl"]):
            found.append(f"component {component['name']!r} has the purl {component['purl']!r}")
    refs = [component.get("bom-ref") for component in components]
    found += [f"bom-ref {ref!r} is there twice" for ref in sorted({str(ref) for ref in refs if refs.count(ref) > 1})]
    for dependency in document.get("dependencies", []):
        named = [dependency.get("ref"), *dependency.get("dependsOn", [])]
        found += [f"dependencies name {ref!r}, which is no component" for ref in named if ref not in refs]
    return found
