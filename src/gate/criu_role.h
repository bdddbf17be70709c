// transship-runtime in the role of `criu`: runc finds it first in PATH and starts it as `criu swrk 3`.
#pragma once

namespace transship::gate {

// Set by the runtime for runc's child.
constexpr const char* kRealCriuVariable = "TRANSSHIP_CRIU";
constexpr const char* kCriuSocketVariable = "TRANSSHIP_CRIU_SOCKET";
constexpr const char* kImagesVariable = "TRANSSHIP_IMAGES";
constexpr const char* kWorkVariable = "TRANSSHIP_WORK";
constexpr const char* kCgroupNamespaceVariable = "TRANSSHIP_CGROUP_NAMESPACE";

// What comes with the first packet of the runtime: files that CRIU may inherit.
constexpr const char* kFilesFollow = "files";

// For a RESTORE request: waits until runc has sent it (by then runc has put this process into the container's cgroup),
// makes the cgroup namespace if there is to be one, puts the runtime between runc and CRIU, and becomes the real CRIU.
// For everything else it becomes the real CRIU at once. Returns only on failure, with the exit code.
int run_as_criu(int argc, char** argv);

}  // namespace transship::gate
