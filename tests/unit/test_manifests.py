# SPDX-License-Identifier: Apache-2.0
"""Kubernetes manifests in, services out, as kube-proxy would have them on node-a."""

from __future__ import annotations

import json
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path

import pytest
import yaml

from pydp.services import manifests
from pydp.services.model import Backend, BackendState, Frontend, Service, check_all, eligible
from tests.unit.kubernetes import INGRESS, NODE, NODEPORT, Made, end, ending, kube, old, ranges


def parse(*documents: Made, notes: list[str] | None = None) -> list[Service]:
    text = yaml.safe_dump_all(documents)
    found = manifests.parse(text, "f.yaml", node=NODE, note=(notes if notes is not None else []).append)
    check_all(found)
    assert found == manifests.parse(json.dumps({"apiVersion": "v1", "kind": "List", "items": documents}), "f.yaml",
                                    node=NODE)  # fmt: skip
    return found


def one(*documents: Made) -> Service:
    (found,) = parse(*documents)
    return found


def fronts(service: Service) -> list[str]:
    """Each with what is special about it."""
    marks = {"masquerade": "m", "local_only": "l", "host_exempt": "h"}
    return [
        " ".join([str(each), *(mark for key, mark in marks.items() if getattr(each, key))])
        for each in service.frontends
    ]


def backs(service: Service) -> list[str]:
    return [
        " ".join([str(each), each.state, *(["serving"] if each.serving else []), *(["local"] if each.local else [])])
        for each in service.backends
    ]


def test_a_cluster_ip_and_its_slice() -> None:
    found = one(kube(), ending(end("10.0.1.2", ready=True), end("10.0.2.2", NODE, ready=True)))
    assert found == Service(
        "default/web:http",
        (Frontend("tcp", ip_address("10.96.0.1"), 80),),
        (Backend(ip_address("10.0.1.2"), 8080), Backend(ip_address("10.0.2.2"), 8080, local=True)),
        source="f.yaml",
    )


def test_a_port_without_a_name() -> None:
    found = one(
        kube([{"port": 53, "protocol": "UDP"}]), ending(end("10.0.1.2"), ports=[{"port": 53, "protocol": "UDP"}])
    )
    assert (found.name, fronts(found), [str(each) for each in found.backends]) == (
        "default/web", ["udp:10.96.0.1:53"], ["10.0.1.2:53"]
    )  # fmt: skip


def test_each_port_is_a_service_and_finds_its_number_by_name_and_protocol() -> None:
    ports = [
        {"name": "dns", "port": 53, "protocol": "UDP", "targetPort": 1},
        {"name": "dns-tcp", "port": 53},
        {"name": "sig", "port": 90, "protocol": "SCTP"},
    ]
    slices = [{"name": "dns-tcp", "port": 5353}, {"name": "dns", "port": 5300, "protocol": "UDP"},
              {"name": "sig", "port": 1}]  # fmt: skip
    found = parse(kube(ports), ending(end("10.0.1.2"), ports=slices))
    assert [(each.name, fronts(each), [str(back) for back in each.backends]) for each in found] == [
        ("default/web:dns", ["udp:10.96.0.1:53"], ["10.0.1.2:5300"]),
        ("default/web:dns-tcp", ["tcp:10.96.0.1:53"], ["10.0.1.2:5353"]),
        ("default/web:sig", ["sctp:10.96.0.1:90"], []),
    ]


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        (kube(NODEPORT, type="NodePort"), ["tcp:10.96.0.1:80", "tcp:any4:30080 m"]),
        (kube(NODEPORT, type="NodePort", externalTrafficPolicy="Local"), ["tcp:10.96.0.1:80", "tcp:any4:30080 l h"]),
        (kube(NODEPORT, type="NodePort", internalTrafficPolicy="Local"), ["tcp:10.96.0.1:80 l", "tcp:any4:30080 m"]),
        (kube(NODEPORT), ["tcp:10.96.0.1:80"]),
        (kube(type="NodePort"), ["tcp:10.96.0.1:80"]),
        (kube(NODEPORT, type="NodePort", clusterIP=None), ["tcp:any:30080 m"]),
        (kube(NODEPORT, type="NodePort", clusterIP="", ipFamilies=["IPv6"]), ["tcp:any6:30080 m"]),
        (kube(externalIPs=["203.0.113.1", "203.0.113.2"]),
         ["tcp:10.96.0.1:80", "tcp:203.0.113.1:80 m", "tcp:203.0.113.2:80 m"]),
        (kube(externalIPs=["10.96.0.1"]), ["tcp:10.96.0.1:80"]),
        (kube(NODEPORT, type="LoadBalancer", status=INGRESS, loadBalancerClass="x"),
         ["tcp:10.96.0.1:80", "tcp:198.51.100.7:80 m", "tcp:198.51.100.9:80 m", "tcp:any4:30080 m"]),
        (kube(type="LoadBalancer", status=INGRESS, externalTrafficPolicy="Local", allocateLoadBalancerNodePorts=False),
         ["tcp:10.96.0.1:80", "tcp:198.51.100.7:80 l h", "tcp:198.51.100.9:80 l h"]),
        (kube(clusterIPs=["10.96.0.1", "fd00::1"]), ["tcp:10.96.0.1:80", "tcp:[fd00::1]:80"]),
        (kube(NODEPORT, type="NodePort", clusterIP="fd00::1"), ["tcp:[fd00::1]:80", "tcp:any6:30080 m"]),
        (kube(NODEPORT, type="NodePort", clusterIPs=["fd00::1", "10.96.0.1"], externalIPs=["2001:db8::1"]),
         ["tcp:[fd00::1]:80", "tcp:10.96.0.1:80", "tcp:[2001:db8::1]:80 m", "tcp:any:30080 m"]),
        (kube(externalIPs=["2001:db8::1"]), ["tcp:10.96.0.1:80"]),
    ],
)  # fmt: skip
def test_frontends(document: Made, expected: list[str]) -> None:
    assert fronts(one(document)) == expected


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        ({}, "ready serving"),
        ({"ready": True}, "ready serving"),
        ({"ready": True, "serving": True, "terminating": False}, "ready serving"),
        ({"ready": False}, "down serving"),
        ({"ready": False, "serving": False, "terminating": False}, "down"),
        ({"ready": False, "serving": True, "terminating": True}, "draining serving"),
        ({"ready": False, "terminating": True}, "draining serving"),
        ({"ready": False, "serving": False, "terminating": True}, "draining"),
        ({"ready": None, "serving": None, "terminating": None}, "ready serving"),
    ],
)
def test_conditions(conditions: Made, expected: str) -> None:
    assert backs(one(kube(), ending(end("10.0.1.2", **conditions)))) == [f"10.0.1.2:8080 {expected}"]


def test_without_conditions_or_node() -> None:
    assert backs(one(kube(), ending({"addresses": ["10.0.1.2"]}))) == ["10.0.1.2:8080 ready serving"]


def test_who_gets_connections_by_the_rules_of_kube_proxy() -> None:
    """KEP-1669: terminating endpoints only where nobody is ready, and for clients from outside on this node alone."""
    going = {"ready": False, "serving": True, "terminating": True}
    found = one(
        kube(NODEPORT, type="NodePort", externalTrafficPolicy="Local"),
        ending(end("10.0.1.1", NODE, ready=False), end("10.0.1.2", NODE, **going), end("10.0.2.2", ready=True)),
    )
    inner, outer = found.frontends
    assert [str(each.address) for each in eligible(inner, 4, found.backends)] == ["10.0.2.2"]
    assert [str(each.address) for each in eligible(outer, 4, found.backends)] == ["10.0.1.2"]


def test_not_ready_addresses_are_published() -> None:
    found = one(kube(publishNotReadyAddresses=True), ending(end("10.0.1.2", NODE, ready=False, serving=False)))
    assert found.backends == (Backend(ip_address("10.0.1.2"), 8080, local=True),)


def test_both_families() -> None:
    found = one(
        kube(clusterIPs=["10.96.0.1", "fd00::1"], ipFamilyPolicy="RequireDualStack"),
        ending(end("10.0.1.2")),
        ending(end("fd00::2"), family="IPv6", number=2),
        ending({"addresses": ["pod.example"]}, family="FQDN", number=3),
    )
    assert [str(each) for each in found.backends] == ["10.0.1.2:8080", "[fd00::2]:8080"]


def test_endpoints_of_a_family_that_the_service_has_not() -> None:
    assert one(kube(), ending(end("fd00::2"), family="IPv6")).backends == ()


def test_an_endpoint_in_two_slices_is_one_backend() -> None:
    found = one(kube(), ending(end("10.0.1.2"), end("10.0.1.3")), ending(end("10.0.1.2", NODE), number=2))
    assert [(str(each), each.local) for each in found.backends] == [("10.0.1.2:8080", True), ("10.0.1.3:8080", False)]


def test_slices_with_different_ports() -> None:
    """A rolling update that changes the number behind a named port."""
    found = one(
        kube(), ending(end("10.0.1.2")), ending(end("10.0.1.3"), number=2, ports=[{"name": "http", "port": 81}])
    )
    assert [str(each) for each in found.backends] == ["10.0.1.2:8080", "10.0.1.3:81"]


def test_ports_without_number_are_none() -> None:
    assert one(kube(), ending(end("10.0.1.2"), ports=[{"name": "http"}])).backends == ()


def test_endpoints_of_old() -> None:
    assert backs(one(kube(), old("10.0.1.2", not_ready=("10.0.1.3",)))) == [
        "10.0.1.2:8080 ready serving local", "10.0.1.3:8080 down serving"
    ]  # fmt: skip


def test_slices_count_where_there_are_both() -> None:
    assert backs(one(old("10.0.1.9"), kube(), ending(end("10.0.1.2")))) == ["10.0.1.2:8080 ready serving"]


@pytest.mark.parametrize(
    ("spec", "seconds"),
    [
        ({}, 0),
        ({"sessionAffinity": "None"}, 0),
        ({"sessionAffinity": "ClientIP"}, 10800),
        ({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}}}, 60),
    ],
)
def test_affinity(spec: Made, seconds: float) -> None:
    assert one(kube(**spec)).affinity == seconds


@pytest.mark.parametrize(
    ("document", "note"),
    [
        (kube(clusterIP="None"), "Service default/web: headless (clusterIP None), which is for DNS: skipped"),
        (kube(clusterIPs=["None"]), "Service default/web: headless (clusterIP None), which is for DNS: skipped"),
        (kube(type="ExternalName", externalName="x.example"),
         "Service default/web: of type ExternalName, which is for DNS: skipped"),
        (kube(clusterIP=""), "default/web:http: no address or port that clients could speak to: skipped"),
        (kube() | {"metadata": {"name": "web", "labels": {"service.kubernetes.io/service-proxy-name": "other"}}},
         "Service default/web: label service.kubernetes.io/service-proxy-name leaves it to other: skipped"),
        ({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "x", "namespace": "n"}},
         "Deployment n/x: says nothing of services: skipped"),
        (ending(end("10.0.1.2")), "endpoints of Service default/web, which is not there: skipped"),
        ({**ending(), "metadata": {"name": "x"}}, "EndpointSlice default/x: no label says whose it is: skipped"),
    ],
)  # fmt: skip
def test_what_is_left_out_with_a_note(document: Made, note: str) -> None:
    notes: list[str] = []
    assert parse(document, notes=notes) == []
    assert notes == [note]


def test_notes_beside_services() -> None:
    notes: list[str] = []
    parse(
        kube(externalIPs=["2001:db8::1"]),
        ending(end("10.0.1.2"), ports=[{"name": "https", "port": 1}]),
        ending({"addresses": ["pod.example"]}, family="FQDN", number=2),
        notes=notes,
    )
    assert notes == [
        "EndpointSlice default/web-2: host names are not looked up: skipped",
        "Service default/web: 2001:db8::1 is not of its IP family: skipped",
        "default/web:http: its endpoints have no TCP port named 'http'",
    ]


@pytest.mark.parametrize("document", [kube(loadBalancerSourceRanges=["10.0.0.0/8", "0.0.0.0/0"]), ranges("0.0.0.0/0")])
def test_ranges_that_hold_everybody(document: Made) -> None:
    assert fronts(one(document)) == ["tcp:10.96.0.1:80"]


def test_lists_as_the_api_gives_them() -> None:
    """Items of a ServiceList have neither kind nor apiVersion."""
    bare = {key: value for key, value in kube().items() if key not in ("apiVersion", "kind")}
    found = manifests.parse(yaml.safe_dump({"apiVersion": "v1", "kind": "ServiceList", "items": [bare]}), "f")
    assert [each.name for each in found] == ["default/web:http"]


def test_one_name_in_two_namespaces() -> None:
    other = kube(clusterIP="10.96.0.2") | {"metadata": {"name": "web", "namespace": "prod"}}
    found = parse(kube(), other, ending(end("10.0.1.2")))
    assert [(each.name, len(each.backends)) for each in found] == [("default/web:http", 1), ("prod/web:http", 0)]


def test_the_node_is_this_host_unless_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.node", lambda: "Node-B")
    (found,) = manifests.parse(yaml.safe_dump_all([kube(), ending(end("10.0.1.2"), end("10.0.1.3", NODE))]), "f")
    assert [each.local for each in found.backends] == [True, False]


def test_twenty_thousand_services_are_found_their_endpoints(tmp_path: Path) -> None:
    """Each by its name: nothing is looked for twice."""
    make: Callable[[int], Made] = lambda n: kube(name=f"s{n}", clusterIP=f"10.{n >> 8}.{n & 255}.1")  # noqa: E731
    items = [part for n in range(20000) for part in (make(n), ending(end("10.0.1.2"), name=f"s{n}"))]
    path = tmp_path / "all.json"
    path.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": items}))
    found = manifests.read(str(path))
    assert len(found) == 20000
    assert {len(each.backends) for each in found} == {1}


def test_every_state_of_ours_is_met() -> None:
    states = [end("10.0.1.1"), end("10.0.1.2", ready=False), end("10.0.1.3", ready=False, terminating=True)]
    assert {each.state for each in one(kube(), ending(*states)).backends} == set(BackendState)
