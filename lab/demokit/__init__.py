"""What the demo and the tests of moves share: a Redis in use on one host, its clients, and what must be true afterwards."""
