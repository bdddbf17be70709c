"""sieve.py NUMBERS: how many primes there are below it, and their sum, by sieving. What the container `openmp` finds by division."""

import sys
from itertools import compress

numbers = int(sys.argv[1])
sieve = bytearray([1]) * numbers
sieve[0:2] = b"\0\0"
for i in range(2, int(numbers ** 0.5) + 1):
    if sieve[i]:
        sieve[i * i::i] = bytes(len(range(i * i, numbers, i)))
print(sieve.count(1), sum(compress(range(numbers), sieve)))
