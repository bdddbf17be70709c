#include "criu/shared_images.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cstring>
#include <filesystem>
#include <map>

#include "criu/image_file.h"

namespace transship::criu {
namespace {

constexpr uint64_t kPage = kImagePage;
constexpr uint64_t kLimit = 1U << 30;

struct E {
  uint64_t address, pages;
  uint32_t flags;
  bool operator==(const E&) const = default;
};

std::string page_of(uint64_t id, uint64_t address) {
  auto text = fmt::format("{} {:#x};", id, address);
  text.resize(kPage, '.');
  return text;
}

class Store : public PageSource {
 public:
  Result<> read(ImageSpace space, uint64_t address, std::span<std::byte> out) override {
    EXPECT_TRUE(space.shared);
    for (size_t at = 0; at < out.size(); at += kPage, ++pages)
      std::memcpy(out.data() + at, page_of(space.id, address + at).data(), kPage);
    return {};
  }
  uint64_t pages = 0;
};

class SharedImages : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = testing::TempDir() + "shared-images-XXXXXX";
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    root_ = name;
    std::filesystem::create_directories(dir());
    std::filesystem::create_directories(spare());
    fd_ = *open_file(dir(), O_RDONLY | O_DIRECTORY);
  }
  void TearDown() override { std::filesystem::remove_all(root_); }
  std::string dir() const { return root_ + "/images"; }
  std::string spare() const { return root_ + "/spare"; }

  void object(uint64_t id, uint32_t pages_id, const std::vector<E>& entries) {
    Pagemap p;
    p.head.set_pages_id(pages_id);
    std::string content;
    for (const auto& e : entries) {
      auto& entry = p.entries.emplace_back();
      entry.set_vaddr(e.address);
      entry.set_compat_nr_pages(0);
      entry.set_nr_pages(e.pages);
      entry.set_flags(e.flags);
      for (uint64_t i = 0; i < e.pages; ++i) content += page_of(id, e.address + i * kPage);
    }
    ASSERT_TRUE(write_image(fd_.get(), shared_pagemap_name(id), serialize_pagemap(p)));
    ASSERT_TRUE(write_image(fd_.get(), pages_name(pages_id), content));
  }
  std::vector<E> entries(uint64_t id) {
    auto p = parse_pagemap(*read_image(fd_.get(), shared_pagemap_name(id)), "pagemap");
    std::vector<E> out;
    for (const auto& e : p->entries) out.push_back({e.vaddr(), e.nr_pages(), e.flags()});
    return out;
  }
  std::string content(uint32_t pages_id) {
    auto bytes = read_image(fd_.get(), pages_name(pages_id));
    return bytes ? *bytes : "none";
  }
  // As on the destination, from what is left and a store that has every page.
  uint64_t put_back() {
    img::Process p;
    p.set_pid(1);
    EXPECT_TRUE(
        write_image(fd_.get(), "pstree.img", serialize_image(ImageMagic::kProcessTree, {p.SerializeAsString()})));
    Store store;
    auto plan = prepare_lazy_restore(dir(), store, kLimit);
    EXPECT_TRUE(plan) << plan.error().message();
    return store.pages;
  }
  Result<uint64_t> leave_out() {
    return leave_out_shared(dir(), spare(), [this](uint64_t id, ImageRange range) {
      std::vector<ImageRange> parts;
      for (const auto& r : held_[id]) {
        uint64_t from = std::max(r.address, range.address);
        uint64_t end = std::min(r.address + r.pages * kPage, range.address + range.pages * kPage);
        if (from < end) parts.push_back({from, (end - from) / kPage});
      }
      return parts;
    });
  }

  std::string root_;
  Fd fd_;
  std::map<uint64_t, std::vector<ImageRange>> held_;
};

TEST_F(SharedImages, WholeObjectLeavesNoFile) {
  object(7, 3, {{0, 4, kPagePresent}, {0x10000, 2, kPagePresent}});
  auto before = content(3);
  held_[7] = {{0, 100}};
  auto pages = leave_out();
  ASSERT_TRUE(pages) << pages.error().message();
  EXPECT_EQ(*pages, 6u);
  EXPECT_EQ(entries(7), (std::vector<E>{{0, 4, kPageInParent}, {0x10000, 2, kPageInParent}}));
  EXPECT_EQ(content(3), "none");
  EXPECT_EQ(put_back(), 6u);
  EXPECT_EQ(content(3), before);
  for (const auto& e : entries(7)) EXPECT_EQ(e.flags, kPagePresent);
}

TEST_F(SharedImages, PartsKeepTheirContent) {
  object(7, 3, {{0, 8, kPagePresent}, {0x10000, 4, kPagePresent}});
  auto before = content(3);
  held_[7] = {{0x2000, 3}, {0x6000, 1}, {0x12000, 2}};
  auto pages = leave_out();
  ASSERT_TRUE(pages) << pages.error().message();
  EXPECT_EQ(*pages, 6u);
  EXPECT_EQ(entries(7), (std::vector<E>{{0, 2, kPagePresent},
                                        {0x2000, 3, kPageInParent},
                                        {0x5000, 1, kPagePresent},
                                        {0x6000, 1, kPageInParent},
                                        {0x7000, 1, kPagePresent},
                                        {0x10000, 2, kPagePresent},
                                        {0x12000, 2, kPageInParent}}));
  EXPECT_EQ(content(3), page_of(7, 0) + page_of(7, 0x1000) + page_of(7, 0x5000) + page_of(7, 0x7000) +
                            page_of(7, 0x10000) + page_of(7, 0x11000));
  EXPECT_EQ(put_back(), 6u);
  EXPECT_EQ(content(3), before);
}

TEST_F(SharedImages, OthersStayAsTheyAre) {
  object(7, 3, {{0, 2, kPagePresent}});
  object(0, 4, {{0, 2, kPagePresent}});
  object(9, 5, {{0, 2, kPagePresent}});
  held_[7] = {{0x2000, 1}};  // not in the images
  held_[9] = {{0, 2}};
  auto map = *read_image(fd_.get(), shared_pagemap_name(7));
  auto pages = leave_out();
  ASSERT_TRUE(pages) << pages.error().message();
  EXPECT_EQ(*pages, 2u);
  EXPECT_EQ(*read_image(fd_.get(), shared_pagemap_name(7)), map);
  EXPECT_EQ(content(3), page_of(7, 0) + page_of(7, 0x1000));
  EXPECT_EQ(content(4), page_of(0, 0) + page_of(0, 0x1000));
  EXPECT_EQ(content(5), "none");
}

TEST_F(SharedImages, ReservedMemoryIsUsedAndCutToSize) {
  for (uint64_t reserved : {1U, 6U, 40U}) {
    object(7, 3, {{0, 4, kPagePresent}, {0x10000, 2, kPagePresent}});
    auto before = content(3);
    held_[7] = {{0, 100}};
    ASSERT_TRUE(leave_out());
    ASSERT_TRUE(reserve_shared_pages(dir(), 7, reserved * kPage));
    auto file = std::filesystem::path(dir()) / "reserved-shmem-7";
    struct stat was{}, is{};
    ASSERT_EQ(::stat(file.c_str(), &was), 0);
    EXPECT_EQ(put_back(), 6u);
    EXPECT_EQ(content(3), before);
    ASSERT_EQ(::stat((dir() + "/pages-3.img").c_str(), &is), 0);
    EXPECT_EQ(is.st_ino, was.st_ino);
    EXPECT_FALSE(std::filesystem::exists(file));
  }
}

TEST_F(SharedImages, BrokenImagesAreRefused) {
  object(7, 3, {{0, 2, kPagePresent}});
  held_[7] = {{0, 2}};
  std::filesystem::remove(dir() + "/pages-3.img");
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
