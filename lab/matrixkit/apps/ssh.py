from ..app import App
from ..client import Client

KEY = "/root/matrix-key"


class Ssh(App):
    name = "ssh"
    what = "OpenSSH with open shells"
    packages = ("openssh-server",)
    promises = ("lines", "lines by a terminal", "ends as it was told")
    checks = "a login with a terminal and one without: same shell, its variables, its child; every line comes back"

    def before_start(self, host):
        self.client_host.run(f"rm -f {KEY} {KEY}.pub; ssh-keygen -q -t ed25519 -N '' -f {KEY}")
        host.put("/tmp/authorized_keys", self.client_host.get(f"{KEY}.pub"), 0o600)
        host.run("mkdir -p /tmp/dot-ssh && mv /tmp/authorized_keys /tmp/dot-ssh/")
        host.run(["podman", "cp", "/tmp/dot-ssh", f"{self.name}:/root/.ssh"], timeout=30)

    def ready(self, host):
        return self.port_open(host, 22, b"SSH-2.0")

    def start_load(self, host):
        self.clients = [Client(self.client_host, "ssh_client.py", self.address, KEY)]
