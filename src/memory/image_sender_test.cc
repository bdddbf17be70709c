#include "memory/image_sender.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "sys/file.h"

namespace transship::memory {
namespace {

class ImageSenderTest : public testing::Test {
 protected:
  ImageSenderTest() : cancel_(*Cancel::create()) {
    std::string pattern = testing::TempDir() + "/imgXXXXXX";
    dir_ = ::mkdtemp(pattern.data());
  }
  ~ImageSenderTest() override { (void)sys::remove_tree(dir_); }

  void append(const std::string& name, const std::string& data) {
    std::ofstream(dir_ + "/" + name, std::ios::app | std::ios::binary) << data;
  }
  ImageSender::Send collector() {
    return [this](const std::string& name, uint64_t offset, std::span<const std::byte> data) -> Result<> {
      auto& file = received_[name];
      EXPECT_EQ(file.size(), offset) << name;
      file.append(reinterpret_cast<const char*>(data.data()), data.size());
      return {};
    };
  }

  Cancel cancel_;
  std::string dir_;
  std::map<std::string, std::string> received_;
};

TEST_F(ImageSenderTest, SendsPagesThatAreStillBeingWritten) {
  ImageSender sender(dir_, collector(), cancel_);
  std::string half(600 << 10, 'a');
  append("pages-1.img", half);
  append("inventory.img", "old");
  sender.start();
  for (int i = 0; i < 2000 && sender.sent() == 0; ++i) (void)sleep_for(milliseconds(1), cancel_);
  EXPECT_EQ(sender.sent(), 512U << 10);  // a whole chunk; the rest waits for more
  append("pages-1.img", std::string(600 << 10, 'b'));
  std::filesystem::remove(dir_ + "/inventory.img");
  append("inventory.img", "newer");
  ASSERT_TRUE(sender.dump_done());
  EXPECT_EQ(sender.total(), (1200U << 10) + 5);
  auto files = sender.finish();
  ASSERT_TRUE(files);
  EXPECT_EQ(files->size(), 2U);
  EXPECT_EQ(received_["pages-1.img"], half + std::string(600 << 10, 'b'));
  EXPECT_EQ(received_["inventory.img"], "newer");
  EXPECT_EQ(sender.sent(), sender.total());
}

TEST_F(ImageSenderTest, AnErrorOfTheLaneComesOut) {
  ImageSender sender(
      dir_, [](const auto&, auto, auto) -> Result<> { return fail(Errc::kUnavailable, "lane 0: cut"); }, cancel_);
  append("core-1.img", "x");
  sender.start();
  ASSERT_TRUE(sender.dump_done());
  auto files = sender.finish();
  ASSERT_FALSE(files);
  EXPECT_THAT(files.error().message(), testing::HasSubstr("lane 0: cut"));
}

TEST_F(ImageSenderTest, StopsWhenCancelled) {
  ImageSender sender(dir_, collector(), cancel_);
  sender.start();
  cancel_.cancel("operator");
  ASSERT_TRUE(sender.dump_done());
  EXPECT_FALSE(sender.finish());
}

}  // namespace
}  // namespace transship::memory
