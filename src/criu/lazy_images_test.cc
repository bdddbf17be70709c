#include "criu/lazy_images.h"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <filesystem>

#include "criu/test_images.h"
#include "sys/file.h"

namespace transship::criu {
namespace {

constexpr uint64_t kPage = kImagePage;
constexpr uint64_t kLimit = 1U << 30;
constexpr uint32_t kAnonymous = MAP_PRIVATE | MAP_ANONYMOUS;

struct V {
  uint64_t start, pages;
  uint32_t flags = kAnonymous;
};
using E = TestEntry;

class LazyImages : public ImagesTest {
 protected:
  void mappings(uint32_t pid, const std::vector<V>& list) {
    img::Mm mm;
    for (const auto& v : list) {
      auto* vma = mm.add_vmas();
      vma->set_start(v.start);
      vma->set_end(v.start + v.pages * kPage);
      vma->set_flags(v.flags);
      vma->set_status(1);
    }
    put(fmt::format("mm-{}.img", pid), serialize_image(ImageMagic::kMm, {mm.SerializeAsString()}));
  }
  // What CRIU would find afterwards: the flags of every entry, and the content of all that is present.
  std::vector<E> entries_after(ImageSpace space) {
    auto p = read_pagemap(space);
    std::string expected;
    for (const auto& e : p.entries) {
      for (uint64_t i = 0; (e.flags() & kPagePresent) != 0 && i < e.nr_pages(); ++i)
        expected += page_of(space, e.vaddr() + i * kPage);
    }
    EXPECT_EQ(content(p.head.pages_id()), expected.empty() ? "none" : expected);
    return entries(space);
  }
  bool refused() {
    TestPages source;
    auto planned = plan_lazy_restore(dir_, kLimit);
    auto prepared = prepare_lazy_restore(dir_, source, kLimit);
    return !planned && planned.error().code() == Errc::kCorrupt && !prepared && source.pages == 0;
  }
};

TEST_F(LazyImages, RestartableSequencesOfLazyPagesAreEarly) {
  img::Process process;
  process.set_pid(1);
  for (uint32_t tid : {1U, 5U, 6U, 7U}) process.add_threads(tid);
  put("pstree.img", serialize_image(ImageMagic::kProcessTree, {process.SerializeAsString()}));
  mappings(1, {{0x10000, 4}, {0x14000, 4, kAnonymous | MAP_LOCKED}});
  pagemap({false, 1}, 1, {{0x10000, 8, kPageInParent}});
  auto core = [&](uint32_t tid, uint64_t area) {
    img::Core c;
    if (area != 0) c.mutable_thread_core()->mutable_rseq_entry()->set_rseq_abi_pointer(area);
    put(fmt::format("core-{}.img", tid), serialize_image(ImageMagic::kCore, {c.SerializeAsString()}));
  };
  core(1, 0x12fe0);
  core(5, 0);
  core(6, 0x12020);  // of the same page
  core(7, 0x15020);  // in the images in any case
  auto plan = plan_lazy_restore(dir_, kLimit);
  ASSERT_TRUE(plan) << plan.error().message();
  ASSERT_EQ(plan->spaces.size(), 1u);
  EXPECT_EQ(plan->spaces[0].early, (std::vector<ImageRange>{{0x12000, 1}}));
  std::filesystem::remove(dir_ + "/core-6.img");
  EXPECT_FALSE(plan_lazy_restore(dir_, kLimit));
}

TEST_F(LazyImages, SplitsAtMappingsAndMergesContent) {
  const ImageSpace one{false, 1};
  mappings(1, {{0x10000, 4}, {0x14000, 4, kAnonymous | MAP_LOCKED}, {0x18000, 8}, {0x40000, 4, MAP_PRIVATE}});
  // One hole over three mappings, something that CRIU wrote, and a hole in changed pages of a file.
  pagemap(one, 1,
          {{0x12000, 8, kPageInParent},
           {0x1a000, 2, kPagePresent | kPageLazy},
           {0x1c000, 1, kPageLazy},
           {0x40000, 1, kPagePresent},
           {0x41000, 2, kPageInParent}});
  TestPages source;
  auto plan = prepare_lazy_restore(dir_, source, kLimit);
  ASSERT_TRUE(plan) << plan.error().message();
  ASSERT_EQ(plan->spaces.size(), 1u);
  EXPECT_EQ(plan->spaces[0].space, one);
  EXPECT_EQ(plan->spaces[0].lazy, (std::vector<ImageRange>{{0x12000, 2}, {0x18000, 2}, {0x1c000, 1}}));
  EXPECT_EQ(plan->spaces[0].eager, (std::vector<ImageRange>{{0x14000, 4}, {0x41000, 2}}));
  EXPECT_EQ(plan->lazy_pages, 5u);
  EXPECT_EQ(plan->eager_pages, 6u);
  EXPECT_EQ(plan->present_pages, 3u);
  EXPECT_EQ(source.pages, 6u);
  EXPECT_EQ(entries_after(one), (std::vector<E>{{0x12000, 2, kPageLazy},
                                                {0x14000, 4, kPagePresent},
                                                {0x18000, 2, kPageLazy},
                                                {0x1a000, 2, kPagePresent},
                                                {0x1c000, 1, kPageLazy},
                                                {0x40000, 1, kPagePresent},
                                                {0x41000, 2, kPagePresent}}));
  // Done twice it is the same.
  auto again = prepare_lazy_restore(dir_, source, kLimit);
  ASSERT_TRUE(again);
  EXPECT_EQ(again->spaces[0].lazy, plan->spaces[0].lazy);
  EXPECT_EQ(again->eager_pages, 0u);
  EXPECT_EQ(again->present_pages, 9u);
}

TEST_F(LazyImages, PlanningChangesNothing) {
  mappings(1, {{0x10000, 4, MAP_PRIVATE}});
  pagemap({false, 1}, 1, {{0x10000, 4, kPageInParent}});
  auto before = *read_image(fd_.get(), "pagemap-1.img");
  auto plan = plan_lazy_restore(dir_, kLimit);
  ASSERT_TRUE(plan);
  EXPECT_EQ(plan->eager_pages, 4u);
  EXPECT_EQ(*read_image(fd_.get(), "pagemap-1.img"), before);
  EXPECT_FALSE(std::filesystem::exists(dir_ + "/pages-1.img"));
}

TEST_F(LazyImages, ZombiesAndSharedObjects) {
  tree({1, 5, 9});
  mappings(1, {{0x10000, 4}});
  pagemap({false, 1}, 1, {{0x10000, 1, kPageInParent}});
  mappings(9, {{0x10000, 4}});
  pagemap({false, 9}, 2, {});
  const ImageSpace shared{true, 4711};
  pagemap(shared, 3, {{0, 600, kPageInParent}, {600 * kPage, 1, kPagePresent}});
  std::filesystem::create_symlink("/somewhere", dir_ + "/parent");
  TestPages source;
  auto plan = prepare_lazy_restore(dir_, source, kLimit);
  ASSERT_TRUE(plan) << plan.error().message();
  ASSERT_EQ(plan->spaces.size(), 4u);
  EXPECT_EQ(plan->spaces[1].space, (ImageSpace{false, 5}));
  EXPECT_TRUE(plan->spaces[1].lazy.empty() && plan->spaces[2].lazy.empty());
  EXPECT_EQ(plan->spaces[3].eager, (std::vector<ImageRange>{{0, 600}}));
  EXPECT_EQ(entries_after(shared), (std::vector<E>{{0, 600, kPagePresent}, {600 * kPage, 1, kPagePresent}}));
  EXPECT_FALSE(std::filesystem::is_symlink(dir_ + "/parent"));
}

TEST_F(LazyImages, RefusesWhatCriuWouldNotWrite) {
  auto good = [&] {
    tree({1});
    mappings(1, {{0x10000, 4, MAP_PRIVATE}, {0x20000, 4, MAP_PRIVATE}});
    pagemap({false, 1}, 1, {{0x10000, 4, kPageInParent}});
  };
  good();
  ASSERT_TRUE(plan_lazy_restore(dir_, kLimit));
  pagemap({false, 1}, 1, {{0x10000, 5, kPageInParent}});
  EXPECT_TRUE(refused()) << "a hole beyond its mapping";
  good();
  pagemap({false, 1}, 1, {{0x1000, 1, kPageInParent}});
  EXPECT_TRUE(refused()) << "a hole without a mapping";
  good();
  mappings(1, {{0x10000, 1ULL << 40, MAP_PRIVATE}});
  pagemap({false, 1}, 1, {{0x10000, 1ULL << 40, kPageInParent}});
  EXPECT_TRUE(refused()) << "more than there may be";
  good();
  pagemap({true, 2}, 1, {{0, 1, kPageInParent}});
  EXPECT_TRUE(refused()) << "two pagemaps with one pages file";
  std::filesystem::remove(dir_ + "/pagemap-shmem-2.img");
  good();
  std::filesystem::remove(dir_ + "/pagemap-1.img");
  EXPECT_FALSE(plan_lazy_restore(dir_, kLimit)) << "a process without a pagemap";
  good();
  put("pagemap-shmem-x.img", "");
  EXPECT_FALSE(plan_lazy_restore(dir_, kLimit));
}

TEST_F(LazyImages, NothingOutsideIsTouched) {
  auto outside = dir_ + "/../" + std::filesystem::path(dir_).filename().string() + ".outside";
  ASSERT_TRUE(sys::write_file_atomic(outside, std::string(kPage, 'x')));
  mappings(1, {{0x10000, 4, MAP_PRIVATE}});
  pagemap({false, 1}, 1, {{0x10000, 1, kPagePresent}, {0x11000, 1, kPageInParent}});
  std::filesystem::remove(dir_ + "/pages-1.img");
  TestPages source;
  EXPECT_FALSE(prepare_lazy_restore(dir_, source, kLimit)) << "a pages file is missing";
  std::filesystem::create_symlink(outside, dir_ + "/pages-1.img");
  EXPECT_FALSE(prepare_lazy_restore(dir_, source, kLimit));
  std::filesystem::remove(dir_ + "/pages-1.img");
  put("pages-1.img", "too short");
  EXPECT_FALSE(prepare_lazy_restore(dir_, source, kLimit));
  put("pages-1.img", std::string(kPage, 'p'));
  std::filesystem::create_symlink(outside, dir_ + "/pages-1.img.new");
  EXPECT_TRUE(prepare_lazy_restore(dir_, source, kLimit));
  EXPECT_EQ(*sys::read_file(outside), std::string(kPage, 'x'));
  std::filesystem::remove(outside);
}

TEST_F(LazyImages, AMissingPageIsAFailure) {
  mappings(1, {{0x10000, 4, MAP_PRIVATE}});
  pagemap({false, 1}, 1, {{0x10000, 1, kPageInParent}});
  TestPages source;
  source.failing = true;
  auto plan = prepare_lazy_restore(dir_, source, kLimit);
  ASSERT_FALSE(plan);
  EXPECT_EQ(plan.error().code(), Errc::kNotFound);
}

}  // namespace
}  // namespace transship::criu
