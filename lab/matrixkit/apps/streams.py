from ..app import App
from ..client import Client


class Icecast(App):
    name = "icecast"
    what = "Icecast with a source and three listeners"
    packages = ("icecast2",)
    promises = ("blocks sent", "blocks heard")
    checks = "each listener gets every numbered block once, whole and in order; nobody connects again"

    def ready(self, host):
        return self.port_open(host, 8000)

    def start_load(self, host):
        self.clients = [Client(self.client_host, "icecast_client.py", self.address, 8000)]


class Video(App):
    name = "video"
    what = "ffmpeg that makes a video, sent by HTTP while it is made"
    packages = ("ffmpeg",)
    promises = ("packets", "pictures and sounds")
    checks = "one connection: counters of the transport stream without a gap, times of pictures and sounds go on"
    PORT = 8080

    def ready(self, host):
        # Without connecting: it sends to the first that does.
        return f":{self.PORT:04X} 00000000:0000 0A" in self.inside(host, "cat", "/proc/net/tcp", check=False).stdout

    def start_load(self, host):
        self.clients = [Client(self.client_host, "video_client.py", self.address, self.PORT)]
