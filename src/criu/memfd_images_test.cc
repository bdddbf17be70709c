#include "criu/memfd_images.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "criu/test_images.h"

namespace transship::criu {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr uint32_t kMemfd = 18;

ImageSpace object(uint64_t id) { return {true, id}; }

class MemfdImages : public ImagesTest {
 protected:
  void SetUp() override {
    ImagesTest::SetUp();
    files({});
  }
  static img::MemfdInode inode(uint32_t shmid, const std::string& name = "/dev/zero") {
    img::MemfdInode i;
    i.set_name(name);
    i.set_uid(26);
    i.set_gid(27);
    i.set_size(0x5000);
    i.set_shmid(shmid);
    i.set_seals(1);
    i.set_inode_id(shmid + 1000);
    i.set_mode(0100777);
    return i;
  }
  void inodes(const std::vector<img::MemfdInode>& list) {
    std::vector<std::string> records;
    for (const auto& i : list) records.push_back(i.SerializeAsString());
    put("memfd.img", serialize_image(ImageMagic::kMemfdInode, records));
  }
  // Files by their number, each of an inode.
  void files(const std::vector<std::pair<uint32_t, uint32_t>>& list) {
    std::vector<std::string> records;
    for (auto [id, inode_id] : list) {
      img::File f;
      f.set_type(kMemfd);
      f.set_id(id);
      f.mutable_memfd()->set_inode_id(inode_id);
      records.push_back(f.SerializeAsString());
    }
    put("files.img", serialize_image(ImageMagic::kFiles, records));
  }
  void descriptor(uint32_t id, uint32_t type = kMemfd) {
    img::Descriptor d;
    d.set_id(id);
    d.set_type(type);
    put("fdinfo-2.img", serialize_image(ImageMagic::kDescriptors, {d.SerializeAsString()}));
  }
  std::vector<std::string> names() {
    auto bytes = read_image(fd_.get(), "memfd.img");
    EXPECT_TRUE(bytes);
    auto records = parse_image(*bytes, ImageMagic::kMemfdInode, "memfd.img");
    EXPECT_TRUE(records);
    std::vector<std::string> list;
    for (auto r : *records) list.push_back(decode_record<img::MemfdInode>(r, "")->name());
    return list;
  }
  std::vector<InheritedMemory> expect(const std::set<uint64_t>& ids) {
    auto r = expect_inherited(dir_, ids);
    EXPECT_TRUE(r) << r.error().message();
    return r ? *r : std::vector<InheritedMemory>();
  }
};

TEST_F(MemfdImages, AnonymousSharedMemoryIsNamedAndItsPagesForgotten) {
  inodes({inode(5), inode(6)});
  files({{70, 1005}, {71, 1006}});
  pagemap(object(5), 3, {{0, 2, kPageInParent}, {0x4000, 1, kPageInParent}});
  pagemap(object(6), 4, {{0, 2, kPageInParent}});
  auto got = expect({5});
  ASSERT_EQ(got.size(), 1u);
  EXPECT_EQ(got[0].id, 5u);
  EXPECT_EQ(got[0].key, "/memfd:transship-5");
  EXPECT_EQ(got[0].size, 0x5000u);
  EXPECT_EQ(got[0].uid, 26u);
  EXPECT_EQ(got[0].gid, 27u);
  EXPECT_EQ(got[0].mode, 0777u);
  EXPECT_EQ(got[0].pages, (std::vector<ImageRange>{{0, 2}, {0x4000, 1}}));
  EXPECT_EQ(names(), (std::vector<std::string>{"transship-5", "/dev/zero"}));
  EXPECT_EQ(*list_shared_objects(fd_.get()), std::set<uint64_t>{6});
}

TEST_F(MemfdImages, WhatAProgramMadeItselfOrHasOpenIsNotInherited) {
  auto sealable = inode(7);
  sealable.set_seals(0);
  auto huge = inode(8);
  huge.set_hugetlb_flag(4);
  inodes({inode(5, "cache"), inode(6), sealable, huge});
  files({{70, 1006}});
  descriptor(70);
  for (uint32_t id : {5, 6, 7, 8}) pagemap(object(id), id, {{0, 1, kPageInParent}});
  EXPECT_THAT(expect({5, 6, 7, 8}), IsEmpty());
  EXPECT_EQ(list_shared_objects(fd_.get())->size(), 4u);
  // Another kind of file with the same number is not it.
  descriptor(70, 1);
  EXPECT_EQ(expect({5, 6, 7, 8}).size(), 1u);
}

TEST_F(MemfdImages, WhatCriuWrotePagesOfOrDidNotDumpStays) {
  inodes({inode(5), inode(6)});
  pagemap(object(5), 3, {{0, 2, kPageInParent}, {0x4000, 1, kPagePresent}});
  EXPECT_THAT(expect({5, 6, 99}), IsEmpty());
  EXPECT_EQ(names(), (std::vector<std::string>{"/dev/zero", "/dev/zero"}));
}

TEST_F(MemfdImages, ImagesOfNothingShared) {
  EXPECT_THAT(expect({}), IsEmpty());
  EXPECT_THAT(expect({5}), IsEmpty());
}

TEST_F(MemfdImages, BrokenImagesAreNamed) {
  inodes({inode(5), inode(5)});
  pagemap(object(5), 3, {{0, 2, kPageInParent}});
  auto twice = expect_inherited(dir_, {5});
  ASSERT_FALSE(twice);
  EXPECT_THAT(twice.error().message(), HasSubstr("memfd.img has shared memory 5 twice"));
  for (const char* name : {"memfd.img", "files.img", "fdinfo-2.img"}) {
    inodes({inode(5)});
    files({});
    descriptor(70);
    put(name, "nonsense");
    auto r = expect_inherited(dir_, {5});
    ASSERT_FALSE(r) << name;
    EXPECT_EQ(r.error().code(), Errc::kCorrupt);
    EXPECT_THAT(r.error().message(), HasSubstr(name));
  }
}

}  // namespace
}  // namespace transship::criu
