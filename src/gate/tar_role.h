// transship-runtime in the role of `tar`: CRIU finds it first in PATH and starts it once for each tmpfs mount, to save
// and to restore what is in it, while the container stands still. With gzip that is two programs, some 12 ms, for
// directories that are nearly always empty or hold a few device files. What is small and simple is written and read
// here in under 2 ms, in the same format (a gzip stream, not compressed, of a ustar archive); anything else goes to the
// real tar. Only the two command lines that CRIU uses are known.
#pragma once

namespace transship::gate {

// Returns the exit code; or does not return, having become the real tar.
int run_as_tar(int argc, char** argv);

}  // namespace transship::gate
