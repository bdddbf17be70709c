from ..app import App
from ..client import Client


class Mail(App):
    name = "mail"
    what = "Postfix and Dovecot, an SMTP session and an IMAP session in IDLE"
    packages = ("postfix", "dovecot-core")
    promises = ("mails handed in", "told of mail while idle", "mails read", "all have come")
    needs = ("mail below /var/spool: IDLE watches it by inotify, and CRIU looks for what is watched in a few places only; "
             "`mail_index_path = MEMORY`: inode numbers are others after a move")
    checks = "both sessions stay; every mail that was taken arrives once, whole, and the idle session is told of it"

    def ready(self, host):
        return self.port_open(host, 25, b"220") and self.port_open(host, 143, b"* OK")

    def start_load(self, host):
        self.clients = [Client(self.client_host, "mail_client.py", self.address)]
