// For unit tests: a store that goes with the test, and a node with peers whose Redis is away.
#pragma once
#include <gtest/gtest.h>

#include <filesystem>
#include <initializer_list>
#include <memory>
#include <string>

#include "base/text.h"
#include "migrate/placements.h"
#include "migrate/services.h"

namespace transship::migrate::testing {

// Outlives every store that it opens: declare it before them.
class StoreFile {
 public:
  StoreFile() = default;
  ~StoreFile() {
    for (const char* suffix : {"", "-wal", "-shm"}) std::filesystem::remove(path_ + suffix);
  }
  StoreFile(const StoreFile&) = delete;
  StoreFile& operator=(const StoreFile&) = delete;
  // One at a time.
  std::unique_ptr<state::Store> open() const { return *state::open_sqlite_store(path_); }

 private:
  const std::string path_ = ::testing::TempDir() + "/store-" + random_hex(6);
};

// aws. Nothing of it gets as far as the kernel.
struct AwsNode {
  explicit AwsNode(std::initializer_list<const char*> peers)
      : services{.settings = {},
                 .identity = *wire::Identity::make_ephemeral(),
                 .store = file.open(),
                 .engines = {},
                 .cutover = {}} {
    services.settings.node = "aws";
    for (const char* peer : peers)
      EXPECT_TRUE(services.store->add_peer({.name = peer, .address = "", .fingerprint = key(peer)}));
  }
  std::string own() const { return services.identity.fingerprint().text(); }
  static std::string key(const std::string& peer) { return "SHA256:" + peer; }
  PlacedContainer redis_on_azure() const {
    return {.role = PlacedRole::kAway,
            .home = own(),
            .home_id = "3f2a",
            .name = "redis",
            .addresses = {*network::IpAddress::parse("10.88.0.3")},
            .bridge = "podman0",
            .peer = "azure"};
  }
  StoreFile file;
  Services services;
};

}  // namespace transship::migrate::testing
