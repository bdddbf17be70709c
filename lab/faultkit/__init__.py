"""Moves under random faults, and what must be true after each of them (./dev faults)."""
