"""The rate of a link, by iperf3: what times are compared with is measured on the same link, in the same run."""

import json
import subprocess
import time

from labkit.api import Host
from labkit.errors import LabError


def measure_link(source: Host, destination: Host) -> float:
    """Bits per second that one TCP flow gets."""
    server = destination.popen(["iperf3", "-s", "-1", "-B", destination.address], stdout=subprocess.DEVNULL)
    try:
        for _ in range(50):
            time.sleep(0.1)
            done = source.run(["iperf3", "-c", destination.address, "-t", "2", "-O", "1", "-J"], timeout=20, check=False)
            if done.returncode == 0:
                return json.loads(done.stdout)["end"]["sum_received"]["bits_per_second"]
        raise LabError(f"iperf3 from {source.name} to {destination.name}: {done.stdout[-500:]}")
    finally:
        server.terminate()
        server.wait(10)
