# SPDX-License-Identifier: Apache-2.0
"""Objects of Kubernetes, as tests of manifests write them."""

from __future__ import annotations

from typing import Any

NODE = "node-a"
Made = dict[str, Any]


def kube(ports: list[Made] | None = None, *, name: str = "web", status: Made | None = None, **spec: Any) -> Made:
    """A Service; one port 80 named http unless PORTS."""
    ports = [{"name": "http", "port": 80, "targetPort": "http"}] if ports is None else ports
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"clusterIP": "10.96.0.1", "ports": ports, **spec},
        **({"status": status} if status else {}),
    }


def ending(*endpoints: Made, name: str = "web", number: int = 1, ports: Any = None, family: str = "IPv4") -> Made:
    """An EndpointSlice of a Service."""
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": f"{name}-{number}", "namespace": "default", "labels": {"kubernetes.io/service-name": name}
        },
        "addressType": family,
        "ports": [{"name": "http", "port": 8080}] if ports is None else ports,
        "endpoints": list(endpoints),
    }  # fmt: skip


def end(address: str, node: str = "node-b", **conditions: bool | str | None) -> Made:
    return {"addresses": [address], "nodeName": node, "conditions": conditions}


def old(*ready: str, not_ready: tuple[str, ...] = ()) -> Made:
    return {
        "apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "web", "namespace": "default"},
        "subsets": [{
            "addresses": [{"ip": each, "nodeName": NODE} for each in ready],
            "notReadyAddresses": [{"ip": each} for each in not_ready],
            "ports": [{"name": "http", "port": 8080}],
        }],
    }  # fmt: skip


def ranges(text: str) -> Made:
    """A Service with the annotation that was there before the key."""
    key = "service.beta.kubernetes.io/load-balancer-source-ranges"
    return kube() | {"metadata": {"name": "web", "annotations": {key: text}}}


INGRESS = {"loadBalancer": {"ingress": [
    {"ip": "198.51.100.7"}, {"ip": "198.51.100.8", "ipMode": "Proxy"}, {"hostname": "lb.example"},
    {"ip": "198.51.100.9", "ipMode": "VIP"},
]}}  # fmt: skip
NODEPORT = [{"name": "http", "port": 80, "nodePort": 30080}]
