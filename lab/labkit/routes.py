"""Asking the router's route service, from outside the lab: the request is made in the router's network."""

import http.client
import json
import os
import socket
import threading

from . import config
from .errors import LabError
from .namespace import host_of


def request(lab_state: dict, method: str, path: str, body: dict | None = None):
    wan = host_of(lab_state, config.WAN)
    connection = http.client.HTTPConnection("127.0.0.1", config.ROUTE_PORT, timeout=5)
    connection.sock = connect_inside(wan, ("127.0.0.1", config.ROUTE_PORT))
    try:
        connection.request(method, path, None if body is None else json.dumps(body))
        answer = connection.getresponse()
        data = json.loads(answer.read())
    except (OSError, ValueError) as e:
        raise LabError(f"the route service does not answer to {method} {path}: {e}") from e
    finally:
        connection.close()
    if answer.status != 200:
        raise LabError(f"the route service refused {method} {path}: {data.get('error', answer.reason)}")
    return data


def connect_inside(host: dict, address: tuple[str, int]) -> socket.socket:
    """A TCP connection made in the host's network. A thread goes there and ends: this one stays where it is."""
    result: list = []

    def work():
        try:
            with open(f"/proc/{host['pid']}/ns/net") as namespace:
                os.setns(namespace.fileno(), os.CLONE_NEWNET)
            result.append(socket.create_connection(address, timeout=5))
        except OSError as e:
            result.append(e)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    if isinstance(result[0], OSError):
        raise LabError(f"cannot reach {address[0]}:{address[1]} in {host['name']}: {result[0]}") from result[0]
    return result[0]


def put(lab_state: dict, address: str, host: str) -> None:
    """The container address is reached through this host from now on."""
    via = config.host_spec(host)
    request(lab_state, "PUT", f"/routes/{address}", {"via": via.address6 if ":" in address else via.address})


def delete(lab_state: dict, address: str) -> None:
    request(lab_state, "DELETE", f"/routes/{address}")


def listed(lab_state: dict) -> list[dict]:
    return request(lab_state, "GET", "/routes")
