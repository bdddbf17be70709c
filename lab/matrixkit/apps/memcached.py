from ..app import App
from ..client import Client


class Memcached(App):
    name = "memcached"
    what = "memcached, counters and values"
    packages = ("memcached",)
    promises = ("counter values", "values", "check-and-sets", "values at the end")
    checks = "3 connections: counters without a gap, values as written, check-and-set; at the end all values"

    def ready(self, host):
        return self.port_open(host, 11211)

    def start_load(self, host):
        self.clients = [Client(self.client_host, "memcached_client.py", self.address, 11211)]
