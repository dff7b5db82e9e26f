# SPDX-License-Identifier: Apache-2.0
"""Kubernetes manifests that are refused: the error names file, line, document and key."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from pydp.errors import UsageError
from pydp.services import manifests
from pydp.services.model import check_all
from tests.unit.kubernetes import INGRESS, NODE, NODEPORT, Made, end, ending, kube, old, ranges

FILTERED = "clients are not filtered by their address here"


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (kube([{"port": 70000}]), "spec.ports[0].port: 70000 is not between 1 and 65535"),
        (kube([{"port": "80"}]), "spec.ports[0].port: '80' is not a whole number"),
        (kube([{"name": "a", "port": 80}, {"port": 81}]), "spec.ports[1].name: is missing: there are several ports"),
        (kube([{"port": 80, "protocol": "ICMP"}]), "spec.ports[0].protocol: 'ICMP' is not one of TCP, UDP, SCTP"),
        (kube([{"name": "a", "port": 80}, {"name": "b", "port": 80}]),
         "spec.ports[1]: tcp:10.96.0.1:80 belongs to default/web:a, too"),
        (kube([{"name": "a", "port": 80}, {"name": "a", "port": 81}]),
         "spec.ports[1].name: 'a' is the name of two ports"),
        (kube([]), "spec.ports: a Service has one at least"),
        (kube(clusterIP="10.96.0"), "spec.clusterIP: '10.96.0' is not an IP address"),
        (kube(clusterIPs=["10.96.0.1", "fd00::1%lo"]),
         "spec.clusterIPs[1]: 'fd00::1%lo' is not an IP address"),
        (kube(externalIPs=["224.0.0.1"]), "spec.externalIPs[0]: 224.0.0.1 is a multicast address"),
        (kube(type="Cluster"),
         "spec.type: 'Cluster' is not one of ClusterIP, NodePort, LoadBalancer, ExternalName"),
        (kube(internalTrafficPolicy="local"), "spec.internalTrafficPolicy: 'local' is not one of Cluster, Local"),
        (kube(externalTrafficPolicy=True), "spec.externalTrafficPolicy: true is not a text"),
        (kube(sessionAffinity="Cookie"), "spec.sessionAffinity: 'Cookie' is not one of None, ClientIP"),
        (kube(sessionAffinityConfig={"clientIP": {"timeoutSeconds": 0}}),
         "spec.sessionAffinityConfig.clientIP.timeoutSeconds: 0 is not between 1 and 86400"),
        (kube(loadBalancerSourceRanges=["10.0.0.0/8"]), f"spec.loadBalancerSourceRanges: {FILTERED}"),
        (kube(loadBalancerSourceRanges=["10.0.0.0/40"]),
         "spec.loadBalancerSourceRanges: '10.0.0.0/40' is not a prefix"),
        (ranges("10.0.0.0/8,10.1.0.0/16"),
         f'metadata.annotations["service.beta.kubernetes.io/load-balancer-source-ranges"]: {FILTERED}'),
        (kube() | {"apiVersion": "v2"}, "apiVersion: 'v2' is not v1"),
        (kube(name="Web"), "metadata.name: 'Web' is not a name of Kubernetes"),
        (kube(status={"loadBalancer": {"ingress": [{"ip": "1"}]}}),
         "status.loadBalancer.ingress[0].ip: '1' is not an IP address"),
        (kube(status={"loadBalancer": {"ingress": [{"ip": "198.51.100.1", "ipMode": "vip"}]}}),
         "status.loadBalancer.ingress[0].ipMode: 'vip' is not one of VIP, Proxy"),
    ],
)  # fmt: skip
def test_services_that_are_wrong(document: Made, message: str) -> None:
    assert said(document, kind="Service", name=document["metadata"]["name"]) == message


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (ending(end("10.0.1")), "endpoints[0].addresses[0]: '10.0.1' is not an IP address"),
        (ending(end("10.0.1.2"), end("fd00::1")),
         "endpoints[1].addresses[0]: fd00::1 is not an IPv4 address, as addressType says"),
        (ending({"addresses": []}), "endpoints[0].addresses: an endpoint has one at least"),
        (ending(end("0.0.0.0")),
         "endpoints[0].addresses[0]: 0.0.0.0 is no address; `any` is every address of this host"),
        (ending(family="ipv4"), "addressType: 'ipv4' is not one of IPv4, IPv6, FQDN"),
        (ending(ports=[{"port": 0}]), "ports[0].port: 0 is not between 1 and 65535"),
        (ending(end("10.0.1.2", ready="yes")),
         "endpoints[0].conditions.ready: 'yes' is neither true nor false"),
        (ending() | {"apiVersion": "discovery.k8s.io/v1beta1"},
         "apiVersion: 'discovery.k8s.io/v1beta1' is not discovery.k8s.io/v1"),
    ],
)  # fmt: skip
def test_slices_that_are_wrong(document: Made, message: str) -> None:
    assert said(document, kind="EndpointSlice", name="web-1") == message


def said(document: Made, *, kind: str, name: str) -> str:
    """What is wrong with a document between two others, without the place, which is looked at."""
    text = yaml.safe_dump_all([kube(name="a", clusterIP="10.96.0.8"), document, kube(name="b", clusterIP="10.96.0.9")])
    with pytest.raises(UsageError) as caught:
        manifests.parse(text, "f.yaml", node=NODE)
    place, _, message = str(caught.value).partition(f": document 2 ({kind} default/{name}): ")
    file, _, line = place.partition(":")
    first, last = (at for at, one in enumerate(text.split("\n"), 1) if one == "---")
    assert (file, first < int(line) < last) == ("f.yaml", True)
    return message


@pytest.mark.parametrize(
    ("documents", "message"),
    [
        ([kube(), kube()], "f.yaml: document 2 (Service default/web): metadata.name: it is in document 1, too"),
        ([kube(), kube(name="api")],
         "f.yaml: document 2 (Service default/api): spec.ports[0]: tcp:10.96.0.1:80 belongs to default/web:http, too"),
        ([kube(NODEPORT, type="NodePort"),
          kube([{"port": 1, "nodePort": 30080}], type="NodePort", name="api", clusterIP="fd00::1"),
          kube([{"port": 1, "nodePort": 30080}], type="NodePort", name="two", clusterIPs=["10.1.1.1", "fd00::2"])],
         "f.yaml: document 3 (Service default/two): spec.ports[0]: tcp:any:30080 belongs to default/web:http, too"),
        ([{"apiVersion": "v1", "metadata": {}}], "f.yaml: document 1: kind: is missing"),
        ([{"kind": "Service", "metadata": {"name": "x"}}],
         "f.yaml: document 1 (Service default/x): apiVersion: '' is not v1"),
        ([{"kind": "Service", "apiVersion": "v1"}],
         "f.yaml: document 1 (Service default/?): metadata.name: is missing"),
        ([{"kind": "List", "apiVersion": "v1", "items": [kube(), kube([{"port": 0}], name="api")]}],
         "f.yaml: document 1 (Service default/api): items[1].spec.ports[0].port: 0 is not between 1 and 65535"),
    ],
)  # fmt: skip
def test_documents_that_do_not_go_together(documents: list[Made], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        manifests.parse(yaml.safe_dump_all(documents), "f.yaml", node=NODE)
    file, _, rest = str(caught.value).partition(": ")
    assert f"{file.split(':')[0]}: {rest}" == message


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"\xff\xfe", "{}: not UTF-8"), (None, "{}: No such file or directory"), (b"a: [", "{}:2: not YAML: ")],
)
def test_files_that_cannot_be_read(content: bytes | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "services.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError) as caught:
        manifests.read(str(path))
    assert str(caught.value).startswith(message.format(path))


WHOLE = (
    kube(
        NODEPORT, type="LoadBalancer", clusterIPs=["10.96.0.1", "fd00::1"], externalIPs=["203.0.113.1"], status=INGRESS,
        sessionAffinity="ClientIP", sessionAffinityConfig={"clientIP": {"timeoutSeconds": 5}}, ipFamilies=["IPv4"],
        loadBalancerSourceRanges=["0.0.0.0/0"],
    ),
    ending(end("10.0.1.2", ready=True, terminating=False)),
    old("10.0.1.3", not_ready=("10.0.1.4",)),
    {"apiVersion": "v1", "kind": "List", "items": [kube(name="api", clusterIP="10.96.0.7")]},
)  # fmt: skip


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) in a document."""
    found = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, below in list(found):
        yield value, key
        yield from places(below)


@pytest.mark.parametrize(
    "wrong", [None, 0, -1, 70000, True, "", "x y", "::1", [], {}, [None], {"a": 1}, [[]], [{}]], ids=repr
)
def test_whatever_stands_anywhere_is_read_or_refused(wrong: object) -> None:
    """And what is refused is so by a line that names the file and a document that was changed."""
    documents = copy.deepcopy(WHOLE)
    refused: list[tuple[int, str]] = []
    for number, document in enumerate(documents, 1):
        for container, key in places(document):
            before, container[key] = container[key], wrong
            try:
                check_all(manifests.parse(json.dumps({"kind": "List", "items": documents[:3]}), "f.yaml", node=NODE))
                check_all(manifests.parse(yaml.safe_dump_all(documents), "f.yaml", node=NODE))
            except UsageError as error:
                refused.append((number, str(error)))
            container[key] = before
    assert len(refused) > 5
    for number, message in refused:
        assert re.match(rf"f\.yaml:[0-9]+: document (1|{number})\b.*: .", message)
        assert message.isprintable()
