#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sqlite3.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <thread>

#include "state/store.h"

namespace transship::state {
namespace {

using testing::HasSubstr;

class StoreTest : public testing::Test {
 protected:
  StoreTest() {
    std::string pattern = testing::TempDir() + "/stateXXXXXX";
    dir_ = ::mkdtemp(pattern.data());
    path_ = dir_ + "/state.db";
    open();
  }
  ~StoreTest() override {
    store_.reset();
    std::filesystem::remove_all(dir_);
  }
  void open() {
    store_.reset();
    auto r = open_sqlite_store(path_);
    ASSERT_TRUE(r) << r.error().message();
    store_ = std::move(*r);
  }
  static Move a_move(std::string id, int64_t started = 1) {
    return {.id = std::move(id),
            .container = "redis",
            .engine = "podman",
            .from = "aws",
            .to = "azure",
            .role = "source",
            .state = "running",
            .phase = "copy",
            .started_ms = started,
            .ended_ms = 0,
            .error = "",
            .summary = std::string("\0\1\2", 3)};
  }
  std::string dir_;
  std::string path_;
  std::unique_ptr<Store> store_;
};

TEST_F(StoreTest, IsPrivate) {
  for (const auto& f : std::filesystem::directory_iterator(dir_)) {
    struct stat s{};
    ASSERT_EQ(::stat(f.path().c_str(), &s), 0);
    EXPECT_EQ(s.st_mode & 077, 0U) << f.path();
  }
}

TEST_F(StoreTest, KeepsPeers) {
  ASSERT_TRUE(store_->add_peer({"azure", "192.0.2.1:7440", "SHA256:a", 0}));
  ASSERT_TRUE(store_->add_peer({"aws", "192.0.2.2:7440", "SHA256:b", 0}));
  open();
  auto peers = store_->peers();
  ASSERT_TRUE(peers);
  ASSERT_EQ(peers->size(), 2U);
  EXPECT_EQ((*peers)[0].name, "aws");
  EXPECT_GT((*peers)[0].added_ms, 1'600'000'000'000);
  EXPECT_EQ(store_->peer("azure")->fingerprint, "SHA256:a");
  ASSERT_TRUE(store_->set_peer_address("azure", "other:1"));
  EXPECT_EQ(store_->peer("azure")->address, "other:1");
  ASSERT_TRUE(store_->remove_peer("azure"));
  auto gone = store_->peer("azure");
  ASSERT_FALSE(gone);
  EXPECT_EQ(gone.error().code(), Errc::kNotFound);
  EXPECT_THAT(gone.error().message(), HasSubstr("there are: aws"));
  EXPECT_EQ(store_->remove_peer("azure").error().code(), Errc::kNotFound);
  EXPECT_EQ(store_->set_peer_address("azure", "x").error().code(), Errc::kNotFound);
}

TEST_F(StoreTest, NameAndKeyOfAPeerAreUnique) {
  ASSERT_TRUE(store_->add_peer({"azure", "a:1", "SHA256:a", 0}));
  EXPECT_EQ(store_->add_peer({"azure", "b:1", "SHA256:b", 0}).error().code(), Errc::kAlreadyExists);
  auto r = store_->add_peer({"other", "b:1", "SHA256:a", 0});
  ASSERT_FALSE(r);
  EXPECT_EQ(r.error().code(), Errc::kAlreadyExists);
  EXPECT_THAT(r.error().message(), HasSubstr("azure"));
}

TEST_F(StoreTest, KeepsMoves) {
  ASSERT_TRUE(store_->put_move(a_move("m1", 1), true));
  ASSERT_TRUE(store_->put_move(a_move("m2", 2), false));
  Move done = a_move("m1", 1);
  done.state = "done";
  done.ended_ms = 5;
  done.error = "it's \"fine\"";
  ASSERT_TRUE(store_->put_move(done, false));
  open();
  auto m = store_->move("m1");
  ASSERT_TRUE(m);
  EXPECT_EQ(m->state, "done");
  EXPECT_EQ(m->from, "aws");
  EXPECT_EQ(m->to, "azure");
  EXPECT_EQ(m->error, done.error);
  EXPECT_EQ(m->summary, done.summary);
  auto all = store_->moves(10);
  ASSERT_TRUE(all);
  ASSERT_EQ(all->size(), 2U);
  EXPECT_EQ((*all)[0].id, "m2");
  EXPECT_EQ(store_->moves(1)->size(), 1U);
  auto open_ones = store_->unfinished_moves();
  ASSERT_TRUE(open_ones);
  ASSERT_EQ(open_ones->size(), 1U);
  EXPECT_EQ((*open_ones)[0].id, "m2");
  EXPECT_EQ(store_->move("m3").error().code(), Errc::kNotFound);
}

TEST_F(StoreTest, HugeSummaryIsRefused) {
  Move m = a_move("m1");
  m.summary.assign(kMaxSummaryBytes + 1, 'x');
  EXPECT_EQ(store_->put_move(m, false).error().code(), Errc::kInvalidArgument);
}

TEST_F(StoreTest, TheFirstDecisionStands) {
  EXPECT_FALSE(store_->decision("m1").value().has_value());
  ASSERT_TRUE(store_->decide("m1", Decision::kCommit));
  ASSERT_TRUE(store_->decide("m1", Decision::kCommit));
  auto r = store_->decide("m1", Decision::kAbort);
  ASSERT_FALSE(r);
  EXPECT_EQ(r.error().code(), Errc::kAlreadyExists);
  EXPECT_THAT(r.error().message(), HasSubstr("commit, not abort"));
  open();
  EXPECT_EQ(store_->decision("m1").value(), Decision::kCommit);
  EXPECT_FALSE(store_->decide("m1", Decision::kAbort));
}

TEST_F(StoreTest, AnAbortByTheOtherSidesWordStandsOverACommit) {
  ASSERT_TRUE(store_->abort_after_all("m0"));
  EXPECT_EQ(store_->decision("m0").value(), Decision::kAbort);
  ASSERT_TRUE(store_->decide("m1", Decision::kCommit));
  ASSERT_TRUE(store_->abort_after_all("m1"));
  open();
  EXPECT_EQ(store_->decision("m1").value(), Decision::kAbort);
  EXPECT_FALSE(store_->decide("m1", Decision::kCommit));
}

TEST_F(StoreTest, OneOfManyThreadsDecides) {
  std::atomic<int> commits = 0;
  std::atomic<int> aborts = 0;
  std::vector<std::thread> threads;
  for (int i = 0; i < 8; ++i)
    threads.emplace_back([&, i] {
      auto wanted = i % 2 == 0 ? Decision::kCommit : Decision::kAbort;
      if (store_->decide("m1", wanted)) ++(i % 2 == 0 ? commits : aborts);
      EXPECT_TRUE(store_->add_event("m1", "x"));
    });
  for (auto& t : threads) t.join();
  EXPECT_EQ(commits + aborts, 4);
  EXPECT_TRUE(commits == 0 || aborts == 0);
  EXPECT_EQ(store_->events("m1", 0)->size(), 8U);
}

TEST_F(StoreTest, EventsAreNumberedAndCapped) {
  for (size_t i = 0; i < kMaxEvents + 10; ++i) ASSERT_TRUE(store_->add_event("m1", std::to_string(i)));
  ASSERT_EQ(store_->add_event("m2", "other").value(), 1U);
  auto all = store_->events("m1", 0);
  ASSERT_TRUE(all);
  EXPECT_EQ(all->size(), kMaxEvents);
  EXPECT_EQ(all->front().n, 11U);
  EXPECT_EQ(all->back().bytes, std::to_string(kMaxEvents + 9));
  EXPECT_EQ(store_->events("m1", kMaxEvents + 9)->size(), 1U);
  EXPECT_EQ(store_->events("m1", UINT64_MAX)->size(), 0U);
  EXPECT_EQ(store_->add_event("m1", std::string(kMaxEventBytes + 1, 'x')).error().code(), Errc::kInvalidArgument);
}

TEST_F(StoreTest, PruneKeepsTheNewestAndTheUnfinished) {
  for (int i = 1; i <= 5; ++i) {
    Move m = a_move("m" + std::to_string(i), i);
    m.ended_ms = i == 1 ? 0 : 9;
    ASSERT_TRUE(store_->put_move(m, false));
    ASSERT_TRUE(store_->add_event(m.id, "e"));
    ASSERT_TRUE(store_->decide(m.id, Decision::kAbort));
  }
  ASSERT_TRUE(store_->prune_moves(2));
  auto left = store_->moves(10);
  ASSERT_TRUE(left);
  ASSERT_EQ(left->size(), 3U);
  EXPECT_EQ((*left)[2].id, "m1");
  EXPECT_EQ(store_->events("m2", 0)->size(), 0U);
  EXPECT_EQ(store_->events("m5", 0)->size(), 1U);
  EXPECT_EQ(store_->decision("m2").value(), Decision::kAbort);
}

TEST_F(StoreTest, SecondProcessIsRefused) {
  auto second = open_sqlite_store(path_);
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code(), Errc::kUnavailable);
  EXPECT_THAT(second.error().message(), HasSubstr("another process"));
  EXPECT_THAT(second.error().remedy(), HasSubstr("transshipd"));
}

TEST_F(StoreTest, FileThatIsNoDatabaseIsNamed) {
  store_.reset();
  std::filesystem::remove_all(dir_);
  std::filesystem::create_directory(dir_);
  std::ofstream(path_) << std::string(8192, 'x');
  auto r = open_sqlite_store(path_);
  ASSERT_FALSE(r);
  EXPECT_EQ(r.error().code(), Errc::kCorrupt) << r.error().message();
  EXPECT_THAT(r.error().message(), HasSubstr(path_));
  EXPECT_FALSE(r.error().remedy().empty());
}

TEST_F(StoreTest, DamagedPagesAreFoundWhenOpening) {
  for (int i = 0; i < 200; ++i) ASSERT_TRUE(store_->add_event("m1", std::string(500, 'e')));
  store_.reset();
  {
    std::fstream f(path_, std::ios::in | std::ios::out | std::ios::binary);
    f.seekp(4096);
    f << std::string(40'000, '\x5a');
  }
  auto r = open_sqlite_store(path_);
  ASSERT_FALSE(r);
  EXPECT_EQ(r.error().code(), Errc::kCorrupt) << r.error().message();
}

TEST_F(StoreTest, TunnelKeysBelongToOnePeerEachAndGoWithIt) {
  Peer aws{.name = "aws", .address = "", .fingerprint = "a"};
  Peer azure{.name = "azure", .address = "", .fingerprint = "b"};
  ASSERT_TRUE(store_->add_peer(aws));
  ASSERT_TRUE(store_->add_peer(azure));
  TunnelEnd end{"aws", std::string("\0k", 2), "192.0.2.1", 7441};
  ASSERT_TRUE(store_->put_tunnel_end(end));
  end.host = "192.0.2.2";
  ASSERT_TRUE(store_->put_tunnel_end(end));
  open();
  EXPECT_EQ(*store_->tunnel_ends(), std::vector{end});
  EXPECT_EQ(store_->put_tunnel_end({"nobody", "x", "", 1}).error().code(), Errc::kNotFound);
  auto stolen = store_->put_tunnel_end({"azure", end.public_key, "", 1});
  ASSERT_FALSE(stolen);
  EXPECT_EQ(stolen.error().code(), Errc::kAlreadyExists);
  EXPECT_THAT(stolen.error().message(), HasSubstr("aws"));
  ASSERT_TRUE(store_->set_peer_address("aws", "192.0.2.9:7440"));
  EXPECT_EQ(store_->tunnel_ends()->size(), 1U);
  ASSERT_TRUE(store_->remove_peer("aws"));
  EXPECT_TRUE(store_->tunnel_ends()->empty());
}

TEST_F(StoreTest, TunnelsHaveTheLowestFreeNumberForAsLongAsTheirPeers) {
  for (const char* name : {"a", "b", "c"})
    ASSERT_TRUE(store_->add_peer({.name = name, .address = "", .fingerprint = name}));
  EXPECT_EQ(store_->tunnel_number("b"), 0U);
  EXPECT_EQ(store_->tunnel_number("a"), 1U);
  EXPECT_EQ(store_->tunnel_number("b"), 0U);
  ASSERT_TRUE(store_->remove_peer("b"));
  EXPECT_EQ(store_->tunnel_number("b").error().code(), Errc::kNotFound);
  open();
  EXPECT_EQ(store_->tunnel_number("a"), 1U);
  EXPECT_EQ(store_->tunnel_number("c"), 0U);
}

TEST_F(StoreTest, WhatIsPlacedStaysUntilItIsRemoved) {
  ASSERT_TRUE(store_->put_placed({"k/2", "{}"}));
  ASSERT_TRUE(store_->put_placed({"k/1", "{1}"}));
  ASSERT_TRUE(store_->put_placed({"k/2", "{2}"}));
  open();
  EXPECT_EQ(*store_->placed(), (std::vector<Placed>{{"k/1", "{1}"}, {"k/2", "{2}"}}));
  ASSERT_TRUE(store_->remove_placed("k/1"));
  ASSERT_TRUE(store_->remove_placed("k/1"));
  EXPECT_EQ(store_->placed()->size(), 1U);
}

TEST_F(StoreTest, WhatIsExposedStaysUntilItIsRemoved) {
  ASSERT_TRUE(store_->put_exposed({"a/tcp/2", "{}"}));
  ASSERT_TRUE(store_->put_exposed({"a/tcp/1", "{1}"}));
  ASSERT_TRUE(store_->put_exposed({"a/tcp/2", "{2}"}));
  open();
  EXPECT_EQ(*store_->exposed(), (std::vector<Exposed>{{"a/tcp/1", "{1}"}, {"a/tcp/2", "{2}"}}));
  ASSERT_TRUE(store_->remove_exposed("a/tcp/1"));
  ASSERT_TRUE(store_->remove_exposed("a/tcp/1"));
  EXPECT_EQ(store_->exposed()->size(), 1U);
}

TEST_F(StoreTest, CopiesOfVolumesStayUntilTheyAreForgotten) {
  ASSERT_TRUE(store_->put_copy({"/b", "{}"}));
  ASSERT_TRUE(store_->put_copy({"/a", "{1}"}));
  ASSERT_TRUE(store_->put_copy({"/b", "{2}"}));
  open();
  EXPECT_EQ(*store_->copies(), (std::vector<Copy>{{"/a", "{1}"}, {"/b", "{2}"}}));
  ASSERT_TRUE(store_->remove_copy("/a"));
  ASSERT_TRUE(store_->remove_copy("/a"));
  EXPECT_EQ(store_->copies()->size(), 1U);
}

TEST_F(StoreTest, TheFirstSchemaIsBroughtUpToDate) {
  ASSERT_TRUE(store_->add_peer({.name = "aws", .address = "", .fingerprint = "a"}));
  store_.reset();
  sqlite3* db = nullptr;
  ASSERT_EQ(sqlite3_open(path_.c_str(), &db), SQLITE_OK);
  ASSERT_EQ(sqlite3_exec(db,
                         "DROP TABLE tunnel_ends; DROP TABLE tunnel_numbers; DROP TABLE placed; DROP TABLE exposed; "
                         "DROP TABLE copies; "
                         "PRAGMA user_version=1",
                         nullptr, nullptr, nullptr),
            SQLITE_OK);
  sqlite3_close(db);
  open();
  ASSERT_TRUE(store_->put_tunnel_end({"aws", "k", "", 1}));
  EXPECT_EQ(store_->peers()->size(), 1U);
}

TEST_F(StoreTest, NewerSchemaIsRefused) {
  store_.reset();
  sqlite3* db = nullptr;
  ASSERT_EQ(sqlite3_open(path_.c_str(), &db), SQLITE_OK);
  ASSERT_EQ(sqlite3_exec(db, "PRAGMA user_version=99", nullptr, nullptr, nullptr), SQLITE_OK);
  sqlite3_close(db);
  auto r = open_sqlite_store(path_);
  ASSERT_FALSE(r);
  EXPECT_EQ(r.error().code(), Errc::kRefused);
  EXPECT_THAT(r.error().message(), HasSubstr("newer"));
}

TEST_F(StoreTest, DirectoryThatIsMissingIsNamed) {
  auto r = open_sqlite_store(dir_ + "/none/state.db");
  ASSERT_FALSE(r);
  EXPECT_EQ(r.error().code(), Errc::kNotFound);
}

}  // namespace
}  // namespace transship::state
