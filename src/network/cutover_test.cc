#include "network/cutover.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "base/text.h"
#include "sys/file.h"

namespace transship::network {
namespace {

using ::testing::HasSubstr;

const CutoverFacts kFacts = {.move_id = "m-17",
                             .container = "redis",
                             .addresses = {"10.88.0.3", "2001:db8::3"},
                             .source = "aws",
                             .source_address = "192.0.2.1",
                             .destination = "azure",
                             .destination_address = "198.51.100.1"};

TEST(CutoverHook, GetsTheFactsInItsEnvironment) {
  auto file = (std::filesystem::temp_directory_path() / ("transship-hook-" + random_hex(6))).string();
  auto driver =
      make_cutover_driver({"/bin/sh", "-c", "env | grep -v ^TRANSSHIP_ROOT_ID= | grep ^TRANSSHIP_ | sort > " + file});
  ASSERT_TRUE(driver) << driver.error().message();
  EXPECT_EQ((*driver)->name(), "hook");
  auto r = (*driver)->commit(kFacts);
  ASSERT_TRUE(r) << r.error().message();
  EXPECT_EQ(*sys::read_file(file),
            "TRANSSHIP_ADDRESSES=10.88.0.3 2001:db8::3\nTRANSSHIP_CONTAINER=redis\nTRANSSHIP_DESTINATION=azure\n"
            "TRANSSHIP_DESTINATION_ADDRESS=198.51.100.1\nTRANSSHIP_EVENT=commit\nTRANSSHIP_MOVE_ID=m-17\n"
            "TRANSSHIP_SOURCE=aws\nTRANSSHIP_SOURCE_ADDRESS=192.0.2.1\n");
  ASSERT_TRUE((*driver)->rollback(kFacts));
  EXPECT_THAT(*sys::read_file(file), HasSubstr("TRANSSHIP_EVENT=rollback\n"));
  std::filesystem::remove(file);
}

TEST(CutoverHook, HearsOfNewAddresses) {
  auto file = (std::filesystem::temp_directory_path() / ("transship-hook-" + random_hex(6))).string();
  auto driver = make_cutover_driver({"/bin/sh", "-c", "env | grep ADDRESSES= | sort > " + file});
  ASSERT_TRUE(driver) << driver.error().message();
  auto facts = kFacts;
  facts.new_address = true;
  facts.new_addresses = {"10.90.0.7", "2001:db8:9::7"};
  ASSERT_TRUE((*driver)->commit(facts));
  EXPECT_EQ(*sys::read_file(file),
            "TRANSSHIP_ADDRESSES=10.88.0.3 2001:db8::3\nTRANSSHIP_NEW_ADDRESSES=10.90.0.7 2001:db8:9::7\n");
  std::filesystem::remove(file);
}

TEST(CutoverHook, FailureQuotesWhatItSaid) {
  auto driver = make_cutover_driver({"/bin/sh", "-c", "echo no such route table >&2; exit 3"});
  auto r = (*driver)->commit(kFacts);
  ASSERT_FALSE(r);
  EXPECT_THAT(r.error().message(), HasSubstr("no such route table"));
  EXPECT_THAT(r.error().message(), HasSubstr("event commit"));
}

TEST(CutoverHook, OneThatHangsIsEnded) {
  auto driver = make_cutover_driver({"/bin/sh", "-c", "sleep 60"}, milliseconds(100));
  auto begin = Clock::now();
  auto r = (*driver)->commit(kFacts);
  ASSERT_FALSE(r);
  EXPECT_EQ(r.error().code(), Errc::kTimeout);
  EXPECT_LT(Clock::now() - begin, milliseconds(10'000));
}

TEST(CutoverHook, AMissingProgramIsFoundAtStart) {
  auto driver = make_cutover_driver({"/no/such/hook"});
  ASSERT_FALSE(driver);
  EXPECT_EQ(driver.error().code(), Errc::kInvalidArgument);
  EXPECT_FALSE(make_cutover_driver({"no-such-program-anywhere"}));
}

TEST(CutoverHook, NoCommandIsTheDriverNone) {
  auto driver = make_cutover_driver({});
  ASSERT_TRUE(driver);
  EXPECT_EQ((*driver)->name(), "none");
  EXPECT_TRUE((*driver)->commit(kFacts));
}

}  // namespace
}  // namespace transship::network
