"""The rate of a link, by iperf3: what times are compared with is measured on the same link, in the same run."""

import json
import subprocess
import time

from labkit.api import Host
from labkit.errors import LabError


def measure_link(source: Host, destination: Host, address="", enter=(), seconds=2) -> float:
    """Bits per second that one TCP flow gets to `address` (else the host's own), where `enter` is what leads into a container's
    network for the server."""
    address = address or destination.address
    server = destination.popen([*enter, "iperf3", "-s", "-1", "-B", address], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(50):
            time.sleep(0.1)
            done = source.run(["iperf3", "-c", address, "-t", seconds, "-O", "1", "-J"], timeout=seconds + 30, check=False)
            if done.returncode == 0:
                return json.loads(done.stdout)["end"]["sum_received"]["bits_per_second"]
        raise LabError(f"iperf3 from {source.name} to {destination.name} ({address}): {done.stdout[-500:]}")
    finally:
        server.terminate()
        server.wait(10)
