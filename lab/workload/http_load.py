"""Requests over connections that stay, until a line comes on standard input: ADDRESS PORT CONNECTIONS. And five times a second a new
connection with one request, whatever becomes of the others.

Says `ready` when each connection has had an answer. At the end one line of JSON: `requests`, `failures` (the first ones, with the
time of the monotonic clock), `statuses`, `names` (which container has answered how often), `closed` (connections that the other end
closed after an answer), `longest_ms`.
"""

import collections
import http.client
import json
import select
import sys
import threading
import time


class Connection:
    def __init__(self, address, port, stop, once=False):
        self.address, self.port, self.stop, self.once = address, port, stop, once
        self.failures, self.statuses, self.names = [], collections.Counter(), collections.Counter()
        self.closed, self.longest, self.answered = 0, 0.0, threading.Event()

    def run(self):
        connection = None
        while not self.stop.is_set():
            if self.once and self.answered.is_set():
                connection.close() if connection else None
                return
            begin = time.monotonic()
            try:
                if connection is None:
                    connection = http.client.HTTPConnection(self.address, self.port, timeout=30)
                connection.request("GET", "/")
                answer = connection.getresponse()
                body = answer.read()
                self.statuses[str(answer.status)] += 1
                if answer.status == 200:
                    self.names[json.loads(body)["name"]] += 1
                else:
                    self.failures.append(f"{time.monotonic():.3f} {answer.status}")
                if answer.will_close:
                    self.closed += 1
                    connection = None
            except (OSError, http.client.HTTPException, ValueError) as e:
                self.failures.append(f"{time.monotonic():.3f} {e!r}")
                connection = None
            self.longest = max(self.longest, time.monotonic() - begin)
            self.answered.set()
            time.sleep(0.01)


def main():
    address, port, number = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    stop = threading.Event()
    all_of_them = [Connection(address, port, stop) for _ in range(number)]
    threads = [threading.Thread(target=c.run) for c in all_of_them]
    for t in threads:
        t.start()
    for c in all_of_them:
        c.answered.wait(30)
    print("ready", flush=True)
    while not select.select([sys.stdin], [], [], 0.2)[0]:
        all_of_them.append(Connection(address, port, stop, once=True))
        threads.append(threading.Thread(target=all_of_them[-1].run))
        threads[-1].start()
    stop.set()
    for t in threads:
        t.join()
    total = {"statuses": collections.Counter(), "names": collections.Counter(), "failures": []}
    for c in all_of_them:
        total["statuses"] += c.statuses
        total["names"] += c.names
        total["failures"] += c.failures[:10]
    total["requests"] = sum(total["statuses"].values())
    total["closed"] = sum(c.closed for c in all_of_them)
    total["longest_ms"] = round(1000 * max(c.longest for c in all_of_them))
    print(json.dumps(total), flush=True)


main()
