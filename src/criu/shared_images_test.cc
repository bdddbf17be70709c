#include "criu/shared_images.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <map>

#include "criu/test_images.h"

namespace transship::criu {
namespace {

constexpr uint64_t kPage = kImagePage;
constexpr uint64_t kLimit = 1U << 30;

using E = TestEntry;

ImageSpace object(uint64_t id) { return {true, id}; }

class SharedImages : public ImagesTest {
 protected:
  void SetUp() override {
    ImagesTest::SetUp();
    std::filesystem::create_directory(spare());
  }
  std::string spare() const { return root_ + "/spare"; }
  // As on the destination, from what is left and a store that has every page.
  uint64_t put_back() {
    TestPages store;
    auto plan = prepare_lazy_restore(dir_, store, kLimit);
    EXPECT_TRUE(plan) << plan.error().message();
    return store.pages;
  }
  Result<uint64_t> leave_out() {
    return leave_out_shared(dir_, spare(), [this](uint64_t id, ImageRange range) {
      std::vector<ImageRange> parts;
      for (const auto& r : held_[id]) {
        uint64_t from = std::max(r.address, range.address);
        uint64_t end = std::min(r.address + r.pages * kPage, range.address + range.pages * kPage);
        if (from < end) parts.push_back({from, (end - from) / kPage});
      }
      return parts;
    });
  }

  std::map<uint64_t, std::vector<ImageRange>> held_;
};

TEST_F(SharedImages, WholeObjectLeavesNoFile) {
  pagemap(object(7), 3, {{0, 4, kPagePresent}, {0x10000, 2, kPagePresent}});
  auto before = content(3);
  held_[7] = {{0, 100}};
  auto pages = leave_out();
  ASSERT_TRUE(pages) << pages.error().message();
  EXPECT_EQ(*pages, 6u);
  EXPECT_EQ(entries(object(7)), (std::vector<E>{{0, 4, kPageInParent}, {0x10000, 2, kPageInParent}}));
  EXPECT_EQ(content(3), "none");
  EXPECT_EQ(put_back(), 6u);
  EXPECT_EQ(content(3), before);
  for (const auto& e : entries(object(7))) EXPECT_EQ(e.flags, kPagePresent);
}

TEST_F(SharedImages, PartsKeepTheirContent) {
  pagemap(object(7), 3, {{0, 8, kPagePresent}, {0x10000, 4, kPagePresent}});
  auto before = content(3);
  held_[7] = {{0x2000, 3}, {0x6000, 1}, {0x12000, 2}};
  auto pages = leave_out();
  ASSERT_TRUE(pages) << pages.error().message();
  EXPECT_EQ(*pages, 6u);
  EXPECT_EQ(entries(object(7)), (std::vector<E>{{0, 2, kPagePresent},
                                                {0x2000, 3, kPageInParent},
                                                {0x5000, 1, kPagePresent},
                                                {0x6000, 1, kPageInParent},
                                                {0x7000, 1, kPagePresent},
                                                {0x10000, 2, kPagePresent},
                                                {0x12000, 2, kPageInParent}}));
  EXPECT_EQ(content(3), page_of(object(7), 0) + page_of(object(7), 0x1000) + page_of(object(7), 0x5000) +
                            page_of(object(7), 0x7000) + page_of(object(7), 0x10000) + page_of(object(7), 0x11000));
  EXPECT_EQ(put_back(), 6u);
  EXPECT_EQ(content(3), before);
}

TEST_F(SharedImages, OthersStayAsTheyAre) {
  pagemap(object(7), 3, {{0, 2, kPagePresent}});
  pagemap(object(0), 4, {{0, 2, kPagePresent}});
  pagemap(object(9), 5, {{0, 2, kPagePresent}});
  held_[7] = {{0x2000, 1}};  // not in the images
  held_[9] = {{0, 2}};
  auto map = *read_image(fd_.get(), shared_pagemap_name(7));
  auto pages = leave_out();
  ASSERT_TRUE(pages) << pages.error().message();
  EXPECT_EQ(*pages, 2u);
  EXPECT_EQ(*read_image(fd_.get(), shared_pagemap_name(7)), map);
  EXPECT_EQ(content(3), page_of(object(7), 0) + page_of(object(7), 0x1000));
  EXPECT_EQ(content(4), page_of(object(0), 0) + page_of(object(0), 0x1000));
  EXPECT_EQ(content(5), "none");
}

TEST_F(SharedImages, ReservedMemoryIsUsedAndCutToSize) {
  for (uint64_t reserved : {1U, 6U, 40U}) {
    pagemap(object(7), 3, {{0, 4, kPagePresent}, {0x10000, 2, kPagePresent}});
    auto before = content(3);
    held_[7] = {{0, 100}};
    ASSERT_TRUE(leave_out());
    ASSERT_TRUE(reserve_shared_pages(dir_, 7, reserved * kPage));
    auto file = std::filesystem::path(dir_) / "reserved-shmem-7";
    struct stat was{}, is{};
    ASSERT_EQ(::stat(file.c_str(), &was), 0);
    EXPECT_EQ(put_back(), 6u);
    EXPECT_EQ(content(3), before);
    ASSERT_EQ(::stat((dir_ + "/pages-3.img").c_str(), &is), 0);
    EXPECT_EQ(is.st_ino, was.st_ino);
    EXPECT_FALSE(std::filesystem::exists(file));
  }
}

TEST_F(SharedImages, BrokenImagesAreRefused) {
  pagemap(object(7), 3, {{0, 2, kPagePresent}});
  held_[7] = {{0, 2}};
  std::filesystem::remove(dir_ + "/pages-3.img");
  auto pages = leave_out();
  ASSERT_FALSE(pages);
  EXPECT_EQ(pages.error().code(), Errc::kNotFound);
  ASSERT_TRUE(write_image(fd_.get(), shared_pagemap_name(7), "nonsense"));
  pages = leave_out();
  ASSERT_FALSE(pages);
  EXPECT_EQ(pages.error().code(), Errc::kCorrupt);
}

}  // namespace
}  // namespace transship::criu
