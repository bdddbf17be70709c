"""./dev matrix: applications as Debian packages them, moved there and back while clients of theirs check what they get."""
