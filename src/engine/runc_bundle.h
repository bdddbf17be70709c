// The bundle of a plain runc container: what of it travels, and where it goes. Files of the bundle directory only.
#pragma once
#include <string>
#include <vector>

#include "base/result.h"
#include "engine/engine.h"
#include "engine/json.h"

namespace transship::engine {

struct BundleFile {
  std::string path;  // below the bundle directory
  unsigned mode = 0;
  std::string content;
};

// What travels: config.json and the small files beside it. The root directory goes another way (storage).
struct Bundle {
  std::string directory;  // on the source
  Json config;
  std::vector<BundleFile> files;
  std::vector<Conflict> blocks;
};

// `rootfs` is left out. More than 64 files, 256 KiB each or 1 MiB in total become a row of `blocks`.
Result<Bundle> read_bundle(const std::string& directory, const std::string& rootfs);
// Makes `directory` with config.json, the files and an empty `rootfs`. kAlreadyExists when it is there. Paths that
// named the source's bundle directory name the new one. Removes what it made when it fails.
// `arrival`: written into it before anything else, unless it is empty.
Result<> write_bundle(const Bundle& bundle, const std::string& directory, const std::string& arrival = {});
// In the bundle: the move that made it here. Stays behind when the bundle moves on.
constexpr const char* kArrivalFile = "transship.arrival";

std::string write_bundle_spec(const Bundle& bundle);
// A peer wrote it: kPeerProtocol for anything too long, not of this form, or with a path that leaves the bundle.
Result<Bundle> read_bundle_spec(const std::string& text);

// The path of the network namespace to join; "host" without one, "private" with a new one.
std::string bundle_network(const Json& config);
// Its bind mounts, but for those of files that travel with it.
std::vector<Mount> bundle_volumes(const Bundle& bundle);

}  // namespace transship::engine
