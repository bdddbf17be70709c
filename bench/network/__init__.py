"""What a move costs those who talk to the container, when the tunnel leads to it: `./dev bench network`."""
