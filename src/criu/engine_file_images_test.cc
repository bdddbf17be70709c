#include "criu/engine_file_images.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "criu/test_images.h"

namespace transship::criu {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr uint32_t kRegularFile = 1;

class EngineFileImages : public ImagesTest {
 protected:
  static std::string file(uint32_t id, const std::string& name) {
    img::File f;
    f.set_type(kRegularFile);
    f.set_id(id);
    f.mutable_reg()->set_name(name);
    f.mutable_reg()->set_size(445);
    // A field that we do not know, as CRIU has many.
    f.mutable_reg()->mutable_unknown_fields()->append("\x10\x02", 2);
    return f.SerializeAsString();
  }
  void files(const std::vector<std::string>& records) {
    put("files.img", serialize_image(ImageMagic::kFiles, records));
  }
  // The names of those whose size CRIU will look at.
  std::vector<std::string> sized() {
    std::vector<std::string> names;
    auto bytes = read_image(fd_.get(), "files.img").value();
    auto records = parse_image(bytes, ImageMagic::kFiles, "files.img").value();
    for (auto record : records) {
      auto f = decode_record<img::File>(record, "files.img").value();
      EXPECT_EQ(f.reg().unknown_fields(), std::string("\x10\x02", 2)) << "what CRIU has beside it stays";
      if (f.reg().has_size()) names.push_back(f.reg().name());
    }
    return names;
  }
};

TEST_F(EngineFileImages, OnlyThoseOfTheEngineMayHaveAnotherSize) {
  files({file(1, "etc/hosts"), file(2, "etc/passwd"), file(3, "/etc/resolv.conf"), file(4, "./etc/hostname"),
         file(5, "run/.containerenv"), file(6, "srv/etc/hosts"), file(7, "etc/hosts.allow")});
  auto changed = accept_engine_files(dir_);
  ASSERT_TRUE(changed) << changed.error().message();
  EXPECT_EQ(*changed, 4U);
  EXPECT_THAT(sized(), ElementsAre("etc/passwd", "srv/etc/hosts", "etc/hosts.allow"));
}

TEST_F(EngineFileImages, WithoutAnyNothingIsWritten) {
  files({file(1, "etc/passwd")});
  auto before = read_image(fd_.get(), "files.img").value();
  EXPECT_EQ(accept_engine_files(dir_).value(), 0U);
  EXPECT_EQ(read_image(fd_.get(), "files.img").value(), before);
}

TEST_F(EngineFileImages, WhatIsNoImageIsRefused) {
  put("files.img", "nonsense");
  auto changed = accept_engine_files(dir_);
  ASSERT_FALSE(changed);
  EXPECT_THAT(changed.error().message(), HasSubstr("files.img"));
}

}  // namespace
}  // namespace transship::criu
