#include "storage/image_layout.h"

#include <gtest/gtest.h>

namespace transship::storage {
namespace {

const std::string kId(64, 'a');

TEST(SkopeoName, IsThatOfTheImage) {
  EXPECT_EQ(skopeo_name({}, "docker.io/library/redis:7.2", kId), "containers-storage:docker.io/library/redis:7.2");
  EXPECT_EQ(skopeo_name({}, "localhost:5000/a_b/c-d", kId), "containers-storage:localhost:5000/a_b/c-d");
  EXPECT_EQ(skopeo_name({.location = "[overlay@/s+/r]"}, "redis", kId), "containers-storage:[overlay@/s+/r]redis");
  EXPECT_EQ(skopeo_name({}, "", kId), "containers-storage:@" + kId);
  EXPECT_EQ(skopeo_name({}, "redis@sha256:" + kId, kId), "containers-storage:@" + kId);
}

// Before the name skopeo takes the place of another storage.
TEST(SkopeoName, NoOtherStorageThanThisHosts) {
  for (const char* reference :
       {"[overlay@/elsewhere+/run]redis", "[/elsewhere]redis", "[vfs]x", " redis", "re\ndis", "-x"})
    EXPECT_EQ(skopeo_name({}, reference, kId), "containers-storage:@" + kId) << reference;
}

TEST(BareImageId, IsHexAndNothingElse) {
  EXPECT_EQ(*bare_image_id(kId), kId);
  EXPECT_EQ(*bare_image_id("sha256:" + kId), kId);
  for (const auto& bad : {std::string(), kId.substr(1), "../" + kId.substr(3), "sha512:" + kId})
    EXPECT_FALSE(bare_image_id(bad)) << bad;
}

}  // namespace
}  // namespace transship::storage
