// Image directories for tests, with pages that tell where they belong. Tests only.
#pragma once
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include "base/fd.h"
#include "criu/image_file.h"
#include "criu/lazy_images.h"

namespace transship::criu {

struct TestEntry {
  uint64_t address, pages;
  uint32_t flags;
  bool operator==(const TestEntry&) const = default;
};

inline std::string page_of(ImageSpace space, uint64_t address) {
  auto text = fmt::format("{}{} {:#x};", space.shared ? "s" : "t", space.id, address);
  text.resize(kImagePage, '.');
  return text;
}

// Has every page, and counts what it is asked for.
class TestPages : public PageSource {
 public:
  Result<> read(ImageSpace space, uint64_t address, std::span<std::byte> out) override {
    if (failing) return fail(Errc::kNotFound, "no page at {:#x}", address);
    for (size_t at = 0; at < out.size(); at += kImagePage, ++pages)
      std::memcpy(out.data() + at, page_of(space, address + at).data(), kImagePage);
    return {};
  }
  bool failing = false;
  uint64_t pages = 0;
};

// A directory of images, dir_, with space for other things beside it.
class ImagesTest : public testing::Test {
 protected:
  void SetUp() override {
    root_ = testing::TempDir() + "images-XXXXXX";
    ASSERT_NE(::mkdtemp(root_.data()), nullptr);
    dir_ = root_ + "/images";
    std::filesystem::create_directory(dir_);
    fd_ = *open_file(dir_, O_RDONLY | O_DIRECTORY);
    tree({1});
  }
  void TearDown() override { std::filesystem::remove_all(root_); }

  void put(const std::string& name, const std::string& bytes) { ASSERT_TRUE(write_image(fd_.get(), name, bytes)); }
  // "none" when there is no such file.
  std::string content(uint32_t pages_id) {
    auto bytes = read_image(fd_.get(), pages_name(pages_id));
    return bytes ? *bytes : "none";
  }
  void tree(const std::vector<uint32_t>& pids) {
    std::vector<std::string> records;
    for (uint32_t pid : pids) {
      img::Process p;
      p.set_pid(pid);
      records.push_back(p.SerializeAsString());
    }
    put("pstree.img", serialize_image(ImageMagic::kProcessTree, records));
  }
  static std::string pagemap_name(ImageSpace space) {
    return space.shared ? shared_pagemap_name(space.id) : fmt::format("pagemap-{}.img", space.id);
  }
  // Its pages file too, of what is present.
  void pagemap(ImageSpace space, uint32_t pages_id, const std::vector<TestEntry>& entries) {
    Pagemap p;
    p.head.set_pages_id(pages_id);
    std::string pages;
    for (const auto& e : entries) {
      auto& entry = p.entries.emplace_back();
      entry.set_vaddr(e.address);
      entry.set_compat_nr_pages(0);
      entry.set_nr_pages(e.pages);
      entry.set_flags(e.flags);
      for (uint64_t i = 0; (e.flags & kPagePresent) != 0 && i < e.pages; ++i)
        pages += page_of(space, e.address + i * kImagePage);
    }
    put(pagemap_name(space), serialize_pagemap(p));
    if (!pages.empty()) put(pages_name(pages_id), pages);
  }
  std::vector<TestEntry> entries(ImageSpace space) {
    std::vector<TestEntry> out;
    for (const auto& e : read_pagemap(space).entries) out.push_back({e.vaddr(), e.nr_pages(), e.flags()});
    return out;
  }
  Pagemap read_pagemap(ImageSpace space) {
    auto bytes = read_image(fd_.get(), pagemap_name(space));
    EXPECT_TRUE(bytes);
    auto p = parse_pagemap(*bytes, pagemap_name(space));
    EXPECT_TRUE(p);
    return *p;
  }

  std::string root_;
  std::string dir_;
  Fd fd_;
};

}  // namespace transship::criu
