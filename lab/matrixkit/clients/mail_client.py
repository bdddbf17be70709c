"""mail_client.py ADDRESS: one SMTP session that stays open and hands in a mail again and again; one IMAP session that stays in IDLE
until it is told of mail, and then reads it. Every mail that was taken arrives once, whole."""

import hashlib
import random
import re
import sys
import threading
import time

from steady import Watch, connect, read_line, run

watch = Watch()
address = sys.argv[1]
EVERY, ARRIVES_WITHIN = 0.1, 60.0
sent, came, lock = set(), {}, threading.Lock()
all_sent = threading.Event()


def text_of(number):
    words = random.Random(number).randbytes(1500).hex()
    return "\r\n".join(words[i:i + 70] for i in range(0, len(words), 70))


class Smtp:
    def __init__(self):
        self.socket = connect(address, 25)
        self.reader = self.socket.makefile("rb")
        self.expect(b"220")
        self.say("EHLO client.lab", b"250")

    def expect(self, code):
        while (line := read_line(self.reader))[3:4] == b"-":
            pass
        if not line.startswith(code):
            raise ConnectionError(f"SMTP said {line!r} instead of {code.decode()}")

    def say(self, words, code):
        since = time.monotonic()
        self.socket.sendall(words.encode() + b"\r\n")
        self.expect(code)
        watch.silence(since)


def hand_in():
    smtp, number = Smtp(), 0
    try:
        while not watch.stopping.is_set():
            smtp.say("MAIL FROM:<sender@lab>", b"250")
            smtp.say("RCPT TO:<reader@lab>", b"250")
            smtp.say("DATA", b"354")
            with lock:
                sent.add(number)  # before the answer: it may arrive sooner
            smtp.say(f"Subject: number {number}\r\n\r\n{text_of(number)}\r\n.", b"250")
            watch.right("mails handed in")
            number += 1
            watch.sleep(EVERY)
        smtp.say("QUIT", b"221")
    finally:
        all_sent.set()


class Imap:
    def __init__(self):
        self.socket = connect(address, 143, 30)
        self.reader = self.socket.makefile("rb")
        read_line(self.reader)
        self.exists, self.number, self.words, self.last = 0, 0, "", b""
        self.ask("LOGIN reader@lab lab")
        self.ask("SELECT INBOX")

    def line(self):
        """One answer, with what it holds of a literal."""
        try:
            line = read_line(self.reader)
        except TimeoutError:
            raise TimeoutError(f"IMAP says nothing to {self.words}, with {self.exists} mails, after {self.last!r}") from None
        self.last, literal = line, b""
        if found := re.search(rb"\{(\d+)\}$", line):
            literal = self.reader.read(int(found[1]))
            line += read_line(self.reader)
        if found := re.match(rb"\* (\d+) EXISTS", line):
            self.exists = int(found[1])
        if line.startswith(b"* BYE"):
            raise ConnectionError(f"IMAP said {line!r}")
        return line, literal

    def ask(self, words):
        """All answers of it."""
        self.number, self.words = self.number + 1, words
        self.socket.sendall(f"a{self.number} {words}\r\n".encode())
        return self.rest(words)

    def rest(self, words):
        answers, tag = [], b"a%d " % self.number
        while not (answer := self.line())[0].startswith(tag):
            answers.append(answer)
        if not answer[0].startswith(tag + b"OK"):
            raise ConnectionError(f"IMAP said {answer[0]!r} to {words}")
        return answers

    def idle(self, seen):
        """Until there is more than that."""
        self.number, self.words = self.number + 1, "IDLE"
        self.socket.sendall(f"a{self.number} IDLE\r\n".encode())
        self.line()  # "+ idling"
        while self.exists <= seen:
            self.line()
        watch.right("told of mail while idle")
        self.words = "DONE"
        self.socket.sendall(b"DONE\r\n")
        self.rest("DONE")


def read_mail():
    imap, seen, end = Imap(), 0, None
    while True:
        if all_sent.is_set():
            end = end or time.monotonic() + ARRIVES_WITHIN
            with lock:
                if len(came) >= len(sent) or time.monotonic() > end:
                    break
        if imap.exists <= seen:
            imap.idle(seen)
        last = imap.exists
        for _, literal in imap.ask(f"FETCH {seen + 1}:{last} BODY.PEEK[]"):
            if literal:
                take(literal)
        seen = last
    imap.socket.close()


def take(mail):
    head, _, body = mail.partition(b"\r\n\r\n")
    number = int(re.search(rb"^Subject: number (\d+)", head, re.M)[1])
    watch.expect("mails read", hashlib.sha256(body.strip()).hexdigest(), hashlib.sha256(text_of(number).encode()).hexdigest())
    with lock:
        came[number] = came.get(number, 0) + 1
        if came[number] > 1:
            watch.fault(f"mail {number} has come {came[number]} times")


def at_end():
    missing = sorted(sent - set(came))
    watch.expect("all have come", missing[:20], [])


run(watch, hand_in, read_mail, steady=("mails handed in", "mails read"), at_end=at_end)
