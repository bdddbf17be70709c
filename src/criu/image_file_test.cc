#include "criu/image_file.h"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <cstring>
#include <filesystem>
#include <random>

#include "criu/parent_images.h"
#include "sys/file.h"

namespace transship::criu {
namespace {

img::PagemapEntry entry(uint64_t address, uint64_t pages, uint32_t flags) {
  img::PagemapEntry e;
  e.set_vaddr(address);
  e.set_compat_nr_pages(0);
  e.set_nr_pages(pages);
  e.set_flags(flags);
  return e;
}

Pagemap small_pagemap() {
  Pagemap p;
  p.head.set_pages_id(7);
  p.entries = {entry(0x1000, 2, kPageInParent), entry(0x3000, 1, kPagePresent), entry(0x8000, 300, kPageLazy)};
  return p;
}

// In the form of CRIU 4.2: the head and a hole of 3 pages at 0x55cd566b4000.
constexpr unsigned char kRealPagemap[] = {0x19, 0x43, 0x56, 0x54, 0x25, 0x40, 0x08, 0x56, 0x02, 0x00, 0x00,
                                          0x00, 0x08, 0x01, 0x0e, 0x00, 0x00, 0x00, 0x08, 0x80, 0x80, 0xad,
                                          0xb3, 0xd5, 0xb9, 0x15, 0x10, 0x00, 0x20, 0x01, 0x28, 0x03};

std::string_view real_pagemap() { return {reinterpret_cast<const char*>(kRealPagemap), sizeof kRealPagemap}; }

TEST(ImageFile, ReadsAndWritesWhatCriuWrites) {
  auto pagemap = parse_pagemap(real_pagemap(), "pagemap-1.img");
  ASSERT_TRUE(pagemap) << pagemap.error().message();
  EXPECT_EQ(pagemap->head.pages_id(), 1u);
  ASSERT_EQ(pagemap->entries.size(), 1u);
  EXPECT_EQ(pagemap->entries[0].vaddr(), 0x55cd566b4000u);
  EXPECT_EQ(pagemap->entries[0].nr_pages(), 3u);
  EXPECT_EQ(pagemap->entries[0].flags(), kPageInParent);
  EXPECT_EQ(serialize_pagemap(*pagemap), real_pagemap());
}

TEST(ImageFile, OlderEntriesMeanTheSame) {
  img::PagemapHead head;
  head.set_pages_id(1);
  img::PagemapEntry hole;
  hole.set_vaddr(0x1000);
  hole.set_compat_nr_pages(2);
  hole.set_in_parent(true);
  img::PagemapEntry present;
  present.set_vaddr(0x4000);
  present.set_compat_nr_pages(5);
  auto bytes = serialize_image(ImageMagic::kPagemap,
                               {head.SerializeAsString(), hole.SerializeAsString(), present.SerializeAsString()});
  auto pagemap = parse_pagemap(bytes, "old");
  ASSERT_TRUE(pagemap);
  EXPECT_EQ(pagemap->entries[0].flags(), kPageInParent);
  EXPECT_EQ(pagemap->entries[0].nr_pages(), 2u);
  EXPECT_FALSE(pagemap->entries[0].has_in_parent());
  EXPECT_EQ(pagemap->entries[1].flags(), kPagePresent);
  EXPECT_EQ(pagemap->entries[1].nr_pages(), 5u);
}

TEST(ImageFile, UnknownFieldsSurvive) {
  // Field 9, a number; CRIU has none such today.
  std::string future("\x48\x2a", 2);
  img::PagemapHead head;
  head.set_pages_id(3);
  auto with_future = entry(0x1000, 1, kPagePresent).SerializeAsString() + future;
  auto bytes = serialize_image(ImageMagic::kPagemap, {head.SerializeAsString() + future, with_future});
  auto pagemap = parse_pagemap(bytes, "future");
  ASSERT_TRUE(pagemap);
  EXPECT_EQ(serialize_pagemap(*pagemap), bytes);
}

TEST(ImageFile, RefusesWhatIsOutOfOrderOrOutOfRange) {
  auto refused = [](auto change) {
    auto pagemap = small_pagemap();
    change(pagemap);
    auto parsed = parse_pagemap(serialize_pagemap(pagemap), "x");
    return !parsed && parsed.error().code() == Errc::kCorrupt;
  };
  EXPECT_TRUE(parse_pagemap(serialize_pagemap(small_pagemap()), "x"));
  EXPECT_TRUE(refused([](Pagemap& p) { p.head.set_pages_id(0); }));
  EXPECT_TRUE(refused([](Pagemap& p) { p.entries[1].set_vaddr(0x3001); }));
  EXPECT_TRUE(refused([](Pagemap& p) { p.entries[1].set_vaddr(0x2000); }));
  EXPECT_TRUE(refused([](Pagemap& p) { p.entries[1].set_nr_pages(0); }));
  EXPECT_TRUE(refused([](Pagemap& p) { p.entries[2].set_nr_pages(~0ULL); }));
  EXPECT_TRUE(refused([](Pagemap& p) { p.entries[2].set_nr_pages(1ULL << 52); }));
  EXPECT_TRUE(refused([](Pagemap& p) { p.entries[2].set_vaddr(kAddressLimit); }));
  EXPECT_TRUE(refused([](Pagemap& p) { p.entries[2].set_vaddr(~0xfffULL); }));
  EXPECT_FALSE(parse_pagemap("", "x"));
  EXPECT_FALSE(parse_image(real_pagemap(), ImageMagic::kMm, "x"));
}

TEST(ImageFile, AnyBytesAreSafe) {
  std::mt19937 random(20261122);
  auto good = serialize_pagemap(small_pagemap());
  for (size_t length = 0; length < good.size(); ++length) (void)parse_pagemap(good.substr(0, length), "cut");
  for (int round = 0; round < 20'000; ++round) {
    auto bytes = good;
    for (int i = 0; i < 3; ++i) bytes[random() % bytes.size()] = static_cast<char>(random());
    if (auto p = parse_pagemap(bytes, "damaged")) {
      uint64_t end = 0;
      for (const auto& e : p->entries) {
        ASSERT_GE(e.vaddr(), end);
        end = e.vaddr() + e.nr_pages() * kImagePage;
        ASSERT_LE(end, kAddressLimit);
      }
    }
    (void)parse_mappings(bytes, "damaged");
    (void)parse_process_tree(bytes, "damaged");
  }
}

TEST(ImageFile, WhatCanBeLazy) {
  img::Vma vma;
  vma.set_flags(MAP_PRIVATE | MAP_ANONYMOUS);
  vma.set_status(1U | 1U << 9);
  EXPECT_TRUE(can_be_lazy(vma));
  for (uint32_t flag : {MAP_LOCKED, MAP_HUGETLB}) {
    auto other = vma;
    other.set_flags(vma.flags() | flag);
    EXPECT_FALSE(can_be_lazy(other));
  }
  for (uint32_t bit : {2U, 3U, 12U}) {
    auto other = vma;
    other.set_status(vma.status() | 1U << bit);
    EXPECT_FALSE(can_be_lazy(other));
  }
  auto wiped = vma;
  wiped.set_madv(1U << MADV_WIPEONFORK | 1U << MADV_HUGEPAGE);
  EXPECT_FALSE(can_be_lazy(wiped));
  vma.set_madv(1U << MADV_HUGEPAGE);
  EXPECT_TRUE(can_be_lazy(vma));
  vma.set_flags(MAP_PRIVATE);
  EXPECT_FALSE(can_be_lazy(vma));
  vma.set_flags(MAP_SHARED | MAP_ANONYMOUS);
  EXPECT_FALSE(can_be_lazy(vma));
}

TEST(ImageFile, ProcessTree) {
  auto tree = [](std::vector<uint32_t> pids) {
    std::vector<std::string> records;
    for (uint32_t pid : pids) {
      img::Process p;
      p.set_pid(pid);
      records.push_back(p.SerializeAsString());
    }
    return parse_process_tree(serialize_image(ImageMagic::kProcessTree, records), "pstree.img");
  };
  auto good = tree({1, 17, 6});
  ASSERT_TRUE(good);
  EXPECT_EQ(*good, (std::vector<pid_t>{1, 17, 6}));
  EXPECT_FALSE(tree({}));
  EXPECT_FALSE(tree({1, 1}));
  EXPECT_FALSE(tree({0}));
  EXPECT_FALSE(tree({1U << 31}));
}

TEST(ImageFile, ThreadsOfTheLiving) {
  auto tree = [](std::vector<uint32_t> threads) {
    std::vector<std::string> records;
    for (uint32_t pid : {1U, 5U}) {
      img::Process p;
      p.set_pid(pid);
      for (uint32_t tid : pid == 1 ? std::vector<uint32_t>{1, 2} : threads) p.add_threads(tid);
      records.push_back(p.SerializeAsString());
    }
    return parse_threads(serialize_image(ImageMagic::kProcessTree, records), "pstree.img");
  };
  using Threads = std::map<pid_t, std::vector<pid_t>>;
  for (uint32_t anything : {0U, 7U, 750001616U}) {
    auto zombie = tree({anything});
    ASSERT_TRUE(zombie) << zombie.error().message();
    EXPECT_EQ(*zombie, (Threads{{1, {1, 2}}}));
  }
  auto living = tree({5, 6});
  ASSERT_TRUE(living);
  EXPECT_EQ(*living, (Threads{{1, {1, 2}}, {5, {5, 6}}}));
  EXPECT_FALSE(tree({5, 1U << 31}));
}

class TemporaryDirectory : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = testing::TempDir() + "criu-images-XXXXXX";
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    dir_ = name;
  }
  void TearDown() override { std::filesystem::remove_all(dir_); }
  std::string dir_;
};

using ImageFiles = TemporaryDirectory;

TEST_F(ImageFiles, LinksAndPipesAreNotRead) {
  auto directory = open_file(dir_, O_RDONLY | O_DIRECTORY);
  ASSERT_TRUE(directory);
  ASSERT_TRUE(write_image(directory->get(), "a.img", "content"));
  auto read = read_image(directory->get(), "a.img");
  ASSERT_TRUE(read);
  EXPECT_EQ(*read, "content");
  EXPECT_FALSE(read_image(directory->get(), "a.img", 6));
  std::filesystem::create_symlink("/etc/passwd", dir_ + "/b.img");
  EXPECT_FALSE(read_image(directory->get(), "b.img"));
  ASSERT_EQ(::mkfifo((dir_ + "/c.img").c_str(), 0600), 0);
  EXPECT_FALSE(read_image(directory->get(), "c.img"));
  EXPECT_EQ(read_image(directory->get(), "d.img").error().code(), Errc::kNotFound);
}

TEST_F(ImageFiles, ParentCoversEverythingAndGoesAway) {
  {
    auto parent = ParentImages::create(dir_ + "/parent");
    ASSERT_TRUE(parent) << parent.error().message();
    EXPECT_FALSE(ParentImages::create(dir_ + "/parent")) << "it was there already";
    ASSERT_TRUE(parent->cover_tasks({::getpid(), ::getpid()}));
    auto directory = open_file(dir_ + "/parent", O_RDONLY | O_DIRECTORY);
    auto inner = innermost_pid(::getpid());
    ASSERT_TRUE(inner);
    auto name = fmt::format("pagemap-{}.img", *inner);
    auto bytes = read_image(directory->get(), name);
    ASSERT_TRUE(bytes) << name;
    auto pagemap = parse_pagemap(*bytes, name);
    ASSERT_TRUE(pagemap) << pagemap.error().message();
    ASSERT_EQ(pagemap->entries.size(), 1u);
    EXPECT_EQ(pagemap->entries[0].nr_pages() * kImagePage, kAddressLimit);
    EXPECT_FALSE(parent->cover_tasks({1 << 30})) << "there is no such process";
  }
  EXPECT_FALSE(std::filesystem::exists(dir_ + "/parent"));
}

// The beginning of such a file, as CRIU 4.2.1 makes it on this kernel.
std::string kdat(uint32_t last_capability) {
  std::string bytes(912, '\1');
  std::memset(bytes.data(), 0x5a, 32);
  std::memcpy(bytes.data() + 16, &last_capability, sizeof last_capability);
  bytes[32] = 0;
  return bytes;
}

TEST_F(ImageFiles, KdatIsOnlyChangedWhereItIsKnown) {
  auto text = sys::read_file("/proc/sys/kernel/cap_last_cap", 64);
  ASSERT_TRUE(text);
  auto last = static_cast<uint32_t>(std::stoul(*text));
  auto file = dir_ + "/kdat", copy = dir_ + "/copy";
  ASSERT_TRUE(sys::write_file_atomic(file, kdat(last)));
  auto patch = locate_kdat_patch(40201, file);
  ASSERT_TRUE(patch) << patch.error().message();
  EXPECT_EQ(patch->offset, 32u);
  auto tracked = kdat_says_tracked(*patch, file);
  ASSERT_TRUE(tracked);
  EXPECT_FALSE(*tracked);
  ASSERT_TRUE(write_patched_kdat(*patch, copy, file));
  auto changed = kdat(last);
  changed[32] = 1;
  EXPECT_EQ(*sys::read_file(copy), changed);
  EXPECT_EQ(*sys::read_file(file), kdat(last)) << "everybody else's file is left alone";

  EXPECT_FALSE(locate_kdat_patch(40100, file)) << "a version that we do not know";
  EXPECT_FALSE(locate_kdat_patch(40300, file));
  ASSERT_TRUE(sys::write_file_atomic(file, kdat(last + 1)));
  EXPECT_FALSE(locate_kdat_patch(40201, file)) << "another layout";
  auto odd = kdat(last);
  odd[33] = 7;
  ASSERT_TRUE(sys::write_file_atomic(file, odd));
  EXPECT_FALSE(locate_kdat_patch(40201, file));
  auto newer = kdat(last);
  newer[0] = 1;
  ASSERT_TRUE(sys::write_file_atomic(file, newer));
  EXPECT_FALSE(write_patched_kdat(*patch, copy, file)) << "CRIU was replaced meanwhile";
  ASSERT_TRUE(sys::write_file_atomic(file, "short"));
  EXPECT_FALSE(locate_kdat_patch(40201, file));
}

}  // namespace
}  // namespace transship::criu
