// Would these images make something outside of a container? CRIU does what images say, as root of the host: which
// namespaces the tasks get, what is mounted, which files are opened are all in there, and a peer wrote them.
#pragma once
#include <string>

#include "base/result.h"

namespace transship::criu {

// Namespaces that the container is to have for itself, or by a file of its own: never the host's.
struct OwnNamespaces {
  bool pid = true;
  bool network = true;
  bool ipc = true;
  bool uts = true;
};

// kPeerProtocol names what is wrong: tasks in namespaces of the host, or not all in the same ones, file systems that no
// container gets, names that lead out of the root. Before CRIU reads them; nothing may change them afterwards.
Result<> check_confined(const std::string& images_dir, const OwnNamespaces& own);

}  // namespace transship::criu
