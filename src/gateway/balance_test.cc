#include "gateway/balance.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace transship::gateway {
namespace {

using network::IpAddress;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// As HAProxy 3.0 says it.
constexpr const char* kStates =
    "1\n"
    "# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight srv_iweight "
    "srv_time_since_last_change srv_check_status srv_check_result srv_check_health srv_check_state srv_agent_state "
    "bk_f_forced_id srv_f_forced_id srv_fqdn srv_port srvrecord srv_use_ssl srv_check_port srv_check_addr "
    "srv_agent_addr srv_agent_port\n"
    "3 b 1 a-1 169.254.185.80 2 8 1 1 3 15 3 2 2 0 0 0 - 1 - 0 0 - - 0\n"
    "3 b 2 b-2 169.254.185.80 0 0 1 1 2 15 3 2 6 0 0 0 - 2 - 0 0 - - 0\n"
    "3 b 3 c-3 fd80::80 2 1 1 1 2 15 3 2 7 0 0 0 - 3 - 0 0 - - 0\n\n";
constexpr const char* kStatistics =
    "# pxname,svname,qcur,qmax,scur,smax\n"
    "b,a-1,1,0,2,5,\n"
    "b,b-2,0,0,0,0,\n\n";

TEST(Balance, ReadsWhatHaproxySays) {
  auto all = parse_servers(kStates, kStatistics);
  ASSERT_TRUE(all) << all.error().message();
  EXPECT_THAT(
      *all,
      ElementsAre(
          ServerStatus{
              .name = "a-1", .address = "169.254.185.80", .port = 1, .runs = true, .drain = true, .requests = 3},
          ServerStatus{.name = "b-2", .address = "169.254.185.80", .port = 2, .checked = true},
          ServerStatus{
              .name = "c-3", .address = "fd80::80", .port = 3, .runs = true, .maintenance = true, .checked = true}));
  EXPECT_THAT(*parse_servers("1\n# be_id srv_name\n\n", ""), IsEmpty());
  EXPECT_EQ(parse_servers("# srv_id srv_name\n1 a\n", "").error().code(), Errc::kCorrupt);
  EXPECT_EQ(parse_servers("", "# svname,scur,qcur\na,x,0\n").error().code(), Errc::kCorrupt);
  EXPECT_EQ(*parse_pid("Name: HAProxy\nPid: 6063\nUptime: 1\n"), 6063U);
  EXPECT_FALSE(parse_pid("Name: HAProxy\n"));
  EXPECT_TRUE(is_success("\n"));
  EXPECT_TRUE(is_success("New server registered.\n"));
  EXPECT_FALSE(is_success("No such server.\n"));
}

Backend wanted(const char* name, uint16_t port, bool paused = false, bool draining = false) {
  return {.name = name,
          .address = *IpAddress::parse("169.254.185.80"),
          .port = port,
          .draining = draining,
          .paused = paused};
}
ServerStatus there(const char* name, uint16_t port) {
  return {.name = name, .address = "169.254.185.80", .port = port, .runs = true, .checked = true};
}

TEST(Balance, ComesAndGoes) {
  EXPECT_THAT(changes({wanted("a", 1)}, {there("a", 1)}), IsEmpty());
  EXPECT_THAT(changes({wanted("a", 1)}, {}), Contains(HasSubstr("add server containers/a 169.254.185.80:1 ")));
  EXPECT_THAT(changes({}, {there("a", 1)}), Contains("del server containers/a"));
  // Who goes elsewhere is taken out and put in again.
  auto moved = changes({wanted("a", 2)}, {there("a", 1)});
  ASSERT_EQ(moved.size(), 6U);
  EXPECT_EQ(moved[2], "del server containers/a");
  EXPECT_THAT(moved[3], HasSubstr("169.254.185.80:2"));
  // One that was added and then not switched on.
  auto off = there("a", 1);
  off.maintenance = true;
  EXPECT_THAT(changes({wanted("a", 1)}, {off}), ElementsAre("set server containers/a state ready"));
}

TEST(Balance, DrainsWhatEnds) {
  EXPECT_THAT(changes({wanted("a", 1, false, true)}, {there("a", 1)}),
              ElementsAre("set server containers/a state drain"));
  EXPECT_THAT(changes({wanted("a", 1, false, true)}, {}), IsEmpty());
  auto drained = there("a", 1);
  drained.drain = true;
  EXPECT_THAT(changes({wanted("a", 1)}, {drained}), ElementsAre("set server containers/a state ready"));
}

TEST(Balance, APausedOneGetsRequestsOnlyWhenItIsAlone) {
  auto a = wanted("a", 1, true);
  auto resting = there("a", 1);
  resting.checked = false;
  EXPECT_THAT(changes({a}, {there("a", 1)}), ElementsAre("disable health containers/a"));
  EXPECT_THAT(changes({a}, {resting}), IsEmpty());
  EXPECT_THAT(changes({a, wanted("b", 2)}, {resting, there("b", 2)}),
              ElementsAre("set server containers/a state drain"));
  // The other one fails, or moves as well, or ends.
  auto drained = resting;
  drained.drain = true;
  auto down = there("b", 2);
  down.runs = false;
  EXPECT_THAT(changes({a, wanted("b", 2)}, {drained, down}), ElementsAre("set server containers/a state ready"));
  EXPECT_THAT(changes({a, wanted("b", 2, true)}, {drained, there("b", 2)}),
              ElementsAre("set server containers/a state ready", "disable health containers/b"));
  EXPECT_THAT(changes({a, wanted("b", 2, false, true)}, {drained, there("b", 2)}),
              ElementsAre("set server containers/a state ready", "set server containers/b state drain"));
  // And after the pause.
  EXPECT_THAT(changes({wanted("a", 1)}, {drained}),
              ElementsAre("enable health containers/a", "set server containers/a state ready"));
}

TEST(Balance, OneWordForEach) {
  EXPECT_EQ(state_word(wanted("a", 1), there("a", 1)), "up");
  auto down = there("a", 1);
  down.runs = false;
  EXPECT_EQ(state_word(wanted("a", 1), down), "down");
  EXPECT_EQ(state_word(wanted("a", 1), std::nullopt), "down");
  EXPECT_EQ(state_word(wanted("a", 1, true), down), "paused");
  EXPECT_EQ(state_word(wanted("a", 1, true, true), down), "draining");
}

}  // namespace
}  // namespace transship::gateway
