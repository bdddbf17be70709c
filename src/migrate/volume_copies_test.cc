#include "migrate/volume_copies.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "base/text.h"

namespace transship::migrate {
namespace {

namespace fs = std::filesystem;

class VolumeCopiesTest : public testing::Test {
 protected:
  void SetUp() override {
    top_ = fs::current_path().string() + "/copies-" + random_hex(6);
    volume_ = top_ + "/volume";
    fs::create_directories(volume_);
    put("a");
    auto store = state::open_sqlite_store(top_ + "/store");
    ASSERT_TRUE(store) << store.error().message();
    store_ = std::move(*store);
    copies_.emplace(*store_, top_ + "/trees");
  }
  void TearDown() override {
    store_.reset();
    fs::remove_all(top_);
  }
  void put(const std::string& name) const { std::ofstream(volume_ + "/" + name) << name; }
  storage::Scan look() const {
    auto root = open_file(volume_, O_RDONLY | O_DIRECTORY);
    return storage::scan_tree(root->get(), *Cancel::create()).value();
  }
  VolumeCopy copy(CopyStanding standing, const std::string& generation = "m1") const {
    return {.path = volume_,
            .id = kId,
            .generation = generation,
            .standing = standing,
            .engine = "podman",
            .volume = "data",
            .container = "db",
            .peer = "azure",
            .since_ms = 17};
  }
  engine::Container wanted(const std::string& generation, const std::string& id = kId) const {
    engine::Container c;
    c.engine = "podman";
    engine::Mount m{.type = "volume", .source = "/there", .destination = "/data", .volume = "data"};
    m.copy_id = id;
    m.copy_generation = generation;
    c.mounts.push_back(m);
    return c;
  }
  // What is found of the only mount, and the row if there is one.
  std::pair<engine::CopyHere, std::string> found(engine::Container c) {
    auto rows = copies_->find(c, *Cancel::create());
    EXPECT_TRUE(rows) << rows.error().message();
    return {c.mounts[0].copy_here, rows->empty() ? "" : (*rows)[0].found};
  }

  static constexpr const char* kId = "0123456789abcdef0123456789abcdef";
  std::string top_, volume_;
  std::unique_ptr<state::Store> store_;
  std::optional<VolumeCopies> copies_;
};

TEST_F(VolumeCopiesTest, AreKeptAndForgotten) {
  auto seen = look();
  ASSERT_TRUE(copies_->keep(copy(CopyStanding::kLeft), &seen));
  auto read = copies_->at(volume_);
  ASSERT_TRUE(read && *read);
  EXPECT_EQ(**read, copy(CopyStanding::kLeft));
  EXPECT_EQ(copies_->tree(**read)->entries(), 2U);
  ASSERT_TRUE(copies_->keep(copy(CopyStanding::kInUse, "m2"), nullptr));
  EXPECT_TRUE(fs::is_empty(top_ + "/trees")) << "the tree of a generation that is gone";
  EXPECT_EQ(copies_->tree(**copies_->at(volume_)).error().code(), Errc::kNotFound);
  ASSERT_TRUE(copies_->forget(volume_));
  ASSERT_TRUE(copies_->forget(volume_));
  EXPECT_FALSE(*copies_->at(volume_));
}

TEST_F(VolumeCopiesTest, WhatTheStoreHasMayBeBroken) {
  for (auto text : {"", "{}", "[1]",
                    R"({"id":"../../etc","generation":"m","standing":"left","engine":"","volume":"",)"
                    R"("container":"","peer":"","since_ms":1})"})
    EXPECT_EQ(parse_copy("/v", text).error().code(), Errc::kCorrupt) << text;
  auto text = to_text(copy(CopyStanding::kLeft));
  ASSERT_TRUE(parse_copy("/v", text));
  for (auto number : {"1e300", "1.5", "18446744073709551615", "\"17\""}) {
    auto changed = text;
    changed.replace(text.find(":17") + 1, 2, number);
    EXPECT_EQ(parse_copy("/v", changed).error().code(), Errc::kCorrupt) << changed;
  }
  ASSERT_TRUE(store_->put_copy({"/broken", "{}"}));
  EXPECT_TRUE(copies_->all()->empty());
}

TEST_F(VolumeCopiesTest, WhatWasLeftAndIsUnchangedIsFilledAgain) {
  auto seen = look();
  ASSERT_TRUE(copies_->keep(copy(CopyStanding::kLeft), &seen));
  EXPECT_EQ(found(wanted("m1")).first, engine::CopyHere::kSame);
  EXPECT_EQ(found(wanted("m2")).first, engine::CopyHere::kStale) << "it has been elsewhere since";
  EXPECT_EQ(found(wanted("")).first, engine::CopyHere::kStale) << "the other side does not know what it was";
  EXPECT_EQ(found(wanted("m1", "ffffffffffffffffffffffffffffffff")).first, engine::CopyHere::kNone)
      << "another volume of that name";
  auto elsewhere = wanted("m1");
  elsewhere.mounts[0].volume = "other";
  EXPECT_EQ(found(elsewhere).first, engine::CopyHere::kNone);
}

TEST_F(VolumeCopiesTest, WhatWasChangedIsNot) {
  auto seen = look();
  ASSERT_TRUE(copies_->keep(copy(CopyStanding::kLeft), &seen));
  put("theirs");
  auto [here, row] = found(wanted("m1"));
  EXPECT_EQ(here, engine::CopyHere::kChanged);
  EXPECT_THAT(row, testing::HasSubstr("the volume data was changed here since it moved to azure (theirs)"));
}

TEST_F(VolumeCopiesTest, WhatIsNotKnownIsNot) {
  ASSERT_TRUE(copies_->keep(copy(CopyStanding::kLeft), nullptr));
  auto [here, row] = found(wanted("m1"));
  EXPECT_EQ(here, engine::CopyHere::kChanged);
  EXPECT_THAT(row, testing::HasSubstr("may have been changed here"));
  ASSERT_TRUE(copies_->keep(copy(CopyStanding::kInUse), nullptr));
  EXPECT_EQ(found(wanted("m1")).first, engine::CopyHere::kNone) << "then the engine has it, and says so";
}

// Writes through mappings need not show in their times.
TEST_F(VolumeCopiesTest, OfWhatIsInMemoryNothingIsTold) {
  auto seen = look();
  auto memory = copy(CopyStanding::kLeft);
  memory.path = "/dev/shm/copies-" + random_hex(6);
  if (!fs::create_directory(memory.path)) GTEST_SKIP() << "there is no /dev/shm";
  ASSERT_TRUE(copies_->keep(memory, &seen));
  fs::remove(memory.path);
  EXPECT_EQ(copies_->tree(memory).error().code(), Errc::kNotFound);
}

TEST_F(VolumeCopiesTest, ARestIsReplacedUnlessItWasChanged) {
  auto seen = look();
  ASSERT_TRUE(copies_->keep(copy(CopyStanding::kFilling), &seen));
  EXPECT_EQ(found(wanted("m1")).first, engine::CopyHere::kStale);
  EXPECT_EQ(found(wanted("", "ffffffffffffffffffffffffffffffff")).first, engine::CopyHere::kStale);
  put("theirs");
  EXPECT_EQ(found(wanted("m1")).first, engine::CopyHere::kChanged);
}

TEST_F(VolumeCopiesTest, OnlyWhatCanBeToldIsOffered) {
  engine::Container c;
  c.mounts.push_back({.type = "volume", .source = volume_, .destination = "/data", .volume = "data"});
  c.mounts.push_back({.type = "tmpfs", .source = "", .destination = "/t", .volume = ""});
  copies_->offer(c);
  EXPECT_TRUE(is_copy_id(c.mounts[0].copy_id)) << "a new one";
  EXPECT_EQ(c.mounts[0].copy_generation, "");
  EXPECT_EQ(c.mounts[1].copy_id, "");
  auto seen = look();
  ASSERT_TRUE(copies_->keep(copy(CopyStanding::kInUse), &seen));
  copies_->offer(c);
  EXPECT_EQ(c.mounts[0].copy_id, kId);
  EXPECT_EQ(c.mounts[0].copy_generation, "m1");
  fs::rename(volume_, volume_ + ".old");
  fs::create_directory(volume_);
  copies_->offer(c);
  EXPECT_NE(c.mounts[0].copy_id, kId) << "another directory under the same path";
  EXPECT_EQ(c.mounts[0].copy_generation, "");
}

}  // namespace
}  // namespace transship::migrate
