"""`./dev bench move`: Transship and other tools move the same Redis over the same link. See docs/bench.md."""
