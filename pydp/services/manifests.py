# SPDX-License-Identifier: Apache-2.0
"""Services from Kubernetes manifests: v1 Service with its EndpointSlices (or Endpoints), in several documents of a file
or in a List, as `kubectl get services,endpointslices --all-namespaces --output yaml` gives them.

What kube-proxy would program on a node becomes services named NAMESPACE/NAME:PORT, one for each port. What has nothing
to program is left out with a note: headless services, ExternalName, other kinds. What would be something else than was
meant is an error that names file, document and key.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from pydp.errors import UsageError
from pydp.services import documents
from pydp.services.manifest_endpoints import Slice, from_endpoints, from_slice, owner
from pydp.services.manifest_service import Taken, from_service
from pydp.services.model import Service
from pydp.services.tables import Table

Note = Callable[[str], None]
Key = tuple[str, str]  # namespace and name

_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
_VERSIONS = {"Service": "v1", "Endpoints": "v1", "EndpointSlice": "discovery.k8s.io/v1"}


def read(path: str, *, node: str = "", note: Note = lambda _text: None) -> list[Service]:
    """The services of a file (YAML or JSON) as NODE sees them, by default the node of this host's name; NOTE is told
    what was left out. Raises UsageError, and then gives nothing.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not UTF-8") from error
    return parse(text, path, node=node, note=note)


@documents.much_made()
def parse(text: str, file: str, *, node: str = "", note: Note = lambda _text: None) -> list[Service]:
    """Like `read`, of a text; FILE is for errors and for `Service.source`."""
    found: dict[str, dict[Key, Table]] = {kind: {} for kind in _VERSIONS}
    for kind, table in _objects(documents.read(text, file), note):
        other = found[kind].setdefault(_key(table), table)
        if other is not table:
            raise table.wrong(("metadata", "name"), f"it is in document {other.document.number}, too")
    slices = _slices(found["EndpointSlice"].values(), found["Endpoints"], node or platform.node().lower(), note)
    services: list[Service] = []
    taken: Taken = {}
    for key, table in found["Service"].items():
        services += from_service(table, "/".join(key), slices.pop(key, []), taken, note)
    for key in slices:
        note(f"endpoints of Service {'/'.join(key)}, which is not there: skipped")
    return services


def _slices(tables: Iterable[Table], endpoints: dict[Key, Table], node: str, note: Note) -> dict[Key, list[Slice]]:
    """Who answers, by Service. Endpoints count only where there are no slices: clusters make those from them."""
    found: dict[Key, list[Slice]] = {}
    for table in tables:
        name = owner(table)
        if name:
            found.setdefault((_key(table)[0], name), []).append(from_slice(table, node, note))
        else:
            note(f"{table.title}: no label says whose it is: skipped")
    for key, table in endpoints.items():
        subsets = list(from_endpoints(table, node))
        found.setdefault(key, subsets)
    return found


def _objects(found: Iterable[documents.Document], note: Note) -> Iterator[tuple[str, Table]]:
    """The objects that matter with their kind, those in lists as well."""
    for document in found:
        if document.value is None:
            continue
        root = Table(document, document.value)
        kind = root.text("kind")
        if kind.endswith("List"):  # items of a ServiceList, say, have no kind of their own
            items = [(one, one.text("kind", kind.removesuffix("List"))) for one in root.tables("items")]
        else:
            items = [(root, kind)]
        for table, each in items:
            yield from _object(table, each, table.text("apiVersion", root.text("apiVersion")), note)


def _object(table: Table, kind: str, version: str, note: Note) -> Iterator[tuple[str, Table]]:
    if not kind:
        raise table.wrong(("kind",), "is missing")
    metadata = table.table("metadata")
    titled = table.named(f"{kind} {metadata.text('namespace', 'default')}/{metadata.text('name', '?')}")
    if kind not in _VERSIONS:
        note(f"{titled.title}: says nothing of services: skipped")
    elif version != _VERSIONS[kind]:
        raise titled.wrong(("apiVersion",), f"{version!r} is not {_VERSIONS[kind]}")
    else:
        yield kind, titled


def _key(table: Table) -> Key:
    metadata = table.table("metadata")
    key = metadata.text("namespace", "default"), metadata.text("name")
    for what, name in zip(("namespace", "name"), key, strict=True):
        if not _NAME.fullmatch(name):
            raise metadata.wrong((what,), f"{name!r} is not a name of Kubernetes" if name else "is missing")
    return key
