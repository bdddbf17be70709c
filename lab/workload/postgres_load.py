"""One client of a PostgreSQL that checks every answer. Runs on the lab's client host until it is told to stop (SIGTERM).

It makes its tables first: `big` of --mib MiB, read only, all of it in the server's shared buffers; `accounts` and `history`,
which every transaction changes. The one connection is never opened again. What a transaction returns must be what this
program expects from its own record, and at the end all rows of all tables must be. Silences of more than 20 ms are recorded
with the time they ended (CLOCK_MONOTONIC, which all lab hosts share). One JSON object goes to the file named by --out.
"""

import argparse
import hashlib
import io
import json
import os
import random
import signal
import time

import psycopg2

SILENCE = 0.020
ACCOUNTS = 5000
ROW = 1500


def body(number: int) -> bytes:
    return random.Random(number).randbytes(ROW)


class Client:
    def __init__(self, host: str, mib: int):
        self.rows = mib * (1 << 20) // (ROW + 60)  # and what PostgreSQL adds
        self.balance = [0] * ACCOUNTS
        self.transactions, self.wrong, self.silences = 0, [], []
        self.random = random.Random(1)
        self.connection = psycopg2.connect(host=host, user="postgres", dbname="postgres", connect_timeout=10)
        self.connection.autocommit = True
        self.cursor = self.connection.cursor()
        self.backend = self.ask("SELECT pg_backend_pid()")[0][0]

    def ask(self, query: str, *values):
        self.cursor.execute(query, values)
        return self.cursor.fetchall() if self.cursor.description else []

    def expect(self, what: str, have, want) -> None:
        if have != want:
            self.wrong.append(f"{what}: {have!r} instead of {want!r}"[:300])

    def make_tables(self) -> None:
        self.ask("CREATE UNLOGGED TABLE big (id int PRIMARY KEY, body bytea STORAGE PLAIN)")
        text = io.StringIO("".join(f"{i}\t\\\\x{body(i).hex()}\n" for i in range(self.rows)))
        self.cursor.copy_expert("COPY big FROM STDIN", text)
        self.ask("CREATE TABLE accounts (id int PRIMARY KEY, balance bigint NOT NULL)")
        self.ask("CREATE TABLE history (number bigint PRIMARY KEY, account int, change int)")
        self.ask("INSERT INTO accounts SELECT i, 0 FROM generate_series(0, %s) i", ACCOUNTS - 1)
        for table in ("big", "accounts"):
            self.ask(f"VACUUM (FREEZE, ANALYZE) {table}")
        self.ask("CHECKPOINT")
        self.ask("CREATE EXTENSION pg_prewarm")
        self.ask("SELECT pg_prewarm('big'), pg_prewarm('big_pkey')")

    def transaction(self) -> None:
        account, change, row = self.random.randrange(ACCOUNTS), self.random.randint(-1000, 1000), self.random.randrange(self.rows)
        begin = time.monotonic()
        self.ask("BEGIN")
        new = self.ask("UPDATE accounts SET balance = balance + %s WHERE id = %s RETURNING balance", change, account)
        self.ask("INSERT INTO history VALUES (%s, %s, %s)", self.transactions, account, change)
        found = self.ask("SELECT body FROM big WHERE id = %s", row)
        self.ask("COMMIT")
        end = time.monotonic()
        if end - begin > SILENCE:
            self.silences.append((end, end - begin))
        self.balance[account] += change
        self.transactions += 1
        self.expect(f"balance of {account}", new, [(self.balance[account],)])
        self.expect(f"row {row}", [bytes(b) for (b,) in found], [body(row)])

    def check_all(self) -> None:
        self.expect("the server's process", self.ask("SELECT pg_backend_pid()"), [(self.backend,)])
        self.expect("accounts", self.ask("SELECT id, balance FROM accounts ORDER BY id"), list(enumerate(self.balance)))
        self.expect("history", self.ask("SELECT count(*), max(number) FROM history"), [(self.transactions, self.transactions - 1)])
        sums = self.ask("SELECT account, sum(change) FROM history GROUP BY account HAVING sum(change) <> 0")
        self.expect("sums of history", dict(sums), {i: b for i, b in enumerate(self.balance) if b})
        digests = dict(self.ask("SELECT id, md5(body) FROM big"))
        self.expect("number of big rows", len(digests), self.rows)
        for row in range(self.rows):
            self.expect(f"digest of row {row}", digests.get(row), hashlib.md5(body(row)).hexdigest())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", required=True)
    parser.add_argument("--mib", type=int, default=100)
    parser.add_argument("--pause", type=float, default=0.005)
    parser.add_argument("--out", required=True)
    options = parser.parse_args()
    client = Client(options.host, options.mib)
    client.make_tables()
    ended = []
    signal.signal(signal.SIGTERM, lambda *_: ended.append(True))
    with open(options.out + ".pid", "w", encoding="utf-8") as f:
        f.write(str(os.getpid()))
    print("ready", flush=True)
    error = ""
    try:
        while not ended:
            client.transaction()
            time.sleep(options.pause)
        client.check_all()
    except psycopg2.Error as e:
        error = f"{type(e).__name__}: {e}"
    report = {"transactions": client.transactions, "wrong": client.wrong[:20], "wrong_count": len(client.wrong), "error": error,
              "silences": client.silences}
    with open(options.out + ".tmp", "w", encoding="utf-8") as f:
        json.dump(report, f)
    os.rename(options.out + ".tmp", options.out)


main()
