from demokit.web import PodmanWeb

from ..app import App
from ..client import Client

MIB = 48


class Nginx(App):
    name = "nginx"
    what = f"nginx, downloads of {MIB} MiB and small requests"
    image = "web"
    packages = ("nginx",)
    promises = ("downloads", "kept-alive answers")
    checks = "every download's SHA-256, on one connection kept alive; every answer on another"

    def before_start(self, host):
        self.web = PodmanWeb(self.lab, self.name, self.address)
        self.web.put_sink(host)

    def ready(self, host):
        return host.run(["curl", "-sS", "-m", "2", f"http://{self.address}/"], check=False, timeout=10).stdout == "ready\n"

    def start_load(self, host):
        size = MIB << 20
        digest = self.web.make_file(host, size)
        # Slow enough that a download lasts longer than a move, which is then somewhere in its middle.
        self.clients = [Client(self.client_host, "http_client.py", self.address, 80, "/file", size, digest, 12 << 20),
                        Client(self.client_host, "http_client.py", self.address, 80, "/", 0, "", 0)]
