"""What volumes cost: `python3 bench/volumes` (see __main__.py)."""
