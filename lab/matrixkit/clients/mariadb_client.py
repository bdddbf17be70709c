"""mariadb_client.py ADDRESS PORT: transfers between accounts in transactions, on four connections that each have accounts of their
own; what a transaction reads must be what this program expects. At the end all rows, the sum of all and CHECK TABLE."""

import random
import sys
import time

from mysql import Connection
from steady import Watch, run

watch = Watch()
CONNECTIONS, ACCOUNTS, FILL = 4, 200, 20_000
balances, transfers = {}, [0] * CONNECTIONS


def new_connection():
    return Connection(sys.argv[1], int(sys.argv[2]), "lab", "lab")


def make_tables():
    c = new_connection()
    c.ask("CREATE TABLE accounts (id INT PRIMARY KEY, balance BIGINT NOT NULL) ENGINE=InnoDB")
    c.ask("CREATE TABLE history (client INT, number INT, a INT, b INT, amount INT, PRIMARY KEY (client, number)) ENGINE=InnoDB")
    c.ask("CREATE TABLE filled (id INT PRIMARY KEY, body VARBINARY(1000), digest CHAR(32)) ENGINE=InnoDB")
    c.ask("INSERT INTO accounts VALUES " + ",".join(f"({i},1000)" for i in range(CONNECTIONS * ACCOUNTS)))
    for begin in range(0, FILL, 1000):
        rows = ((i, random.Random(i).randbytes(500).hex()) for i in range(begin, begin + 1000))
        c.ask("INSERT INTO filled VALUES " + ",".join(f"({i},x'{body}',MD5(x'{body}'))" for i, body in rows))
    balances.update({i: 1000 for i in range(CONNECTIONS * ACCOUNTS)})


def transfer(c, client, rng):
    a, b = rng.sample(range(client * ACCOUNTS, (client + 1) * ACCOUNTS), 2)
    amount = rng.randrange(100)
    since = time.monotonic()
    c.ask("BEGIN")
    c.ask(f"UPDATE accounts SET balance = balance - {amount} WHERE id = {a}")
    c.ask(f"UPDATE accounts SET balance = balance + {amount} WHERE id = {b}")
    c.ask(f"INSERT INTO history VALUES ({client}, {transfers[client]}, {a}, {b}, {amount})")
    found = c.ask(f"SELECT id, balance FROM accounts WHERE id IN ({a}, {b}) ORDER BY id")
    c.ask("COMMIT")
    watch.silence(since)
    balances[a] -= amount
    balances[b] += amount
    transfers[client] += 1
    watch.expect("transactions", found, [[str(i), str(balances[i])] for i in sorted((a, b))])


def loop(client):
    c, rng = new_connection(), random.Random(client)
    itself = c.ask("SELECT CONNECTION_ID()")
    while not watch.stopping.is_set():
        transfer(c, client, rng)
        watch.sleep(0.005)
    watch.expect("same connections", c.ask("SELECT CONNECTION_ID()"), itself)


def at_end():
    c = new_connection()
    watch.expect("accounts at the end", c.ask("SELECT id, balance FROM accounts ORDER BY id"),
                 [[str(i), str(b)] for i, b in sorted(balances.items())])
    watch.expect("histories at the end", c.ask("SELECT client, COUNT(*), MAX(number) FROM history GROUP BY client ORDER BY client"),
                 [[str(i), str(n), str(n - 1)] for i, n in enumerate(transfers)])
    watch.expect("fillings at the end", c.ask("SELECT COUNT(*), SUM(MD5(body) = digest) FROM filled"), [[str(FILL), str(FILL)]])
    for table in ("accounts", "history", "filled"):
        watch.expect("CHECK TABLE", [row[2:] for row in c.ask(f"CHECK TABLE {table} EXTENDED")], [["status", "OK"]])


make_tables()
run(watch, *((lambda i=i: loop(i)) for i in range(CONNECTIONS)), steady=("transactions",), at_end=at_end)
