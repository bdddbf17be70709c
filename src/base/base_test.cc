#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <spdlog/sinks/ostream_sink.h>
#include <spdlog/spdlog.h>

#include <sstream>

#include "base/cancel.h"
#include "base/fd.h"
#include "base/json_number.h"
#include "base/log_format.h"
#include "base/result.h"
#include "base/text.h"
#include "base/thread.h"

namespace transship {
namespace {

using testing::HasSubstr;

Result<Fd> open_missing() {
  TS_TRY_ASSIGN(Fd f, open_file("/no/such/file", O_RDONLY));
  return f;
}

TEST(Result, KeepsErrnoAndContext) {
  auto r = open_missing();
  ASSERT_FALSE(r);
  EXPECT_EQ(r.error().sys_errno(), ENOENT);
  EXPECT_EQ(r.error().code(), Errc::kNotFound);
  auto e = std::move(r).error().context("read config");
  EXPECT_THAT(e.message(), testing::StartsWith("read config: open /no/such/file: No such file"));
}

// Names and messages of other nodes get into the log.
TEST(Log, NothingInALineBeginsAnotherOne) {
  std::ostringstream out;
  auto sink = std::make_shared<spdlog::sinks::ostream_sink_st>(out);
  sink->set_formatter(log_formatter());
  spdlog::logger logger("test", sink);
  logger.info("who={} ends", "a\nb\x1b[2Jg\xc3\xbc\x7f");
  EXPECT_THAT(out.str(), testing::EndsWith(" info who=a\\x0ab\\x1b[2Jg\xc3\xbc\\x7f ends\n"));
}

TEST(Fd, MoveClosesTheOldOne) {
  auto p = make_pipe();
  ASSERT_TRUE(p);
  int old = p->read.get();
  p->read = std::move(p->write);
  EXPECT_EQ(::fcntl(old, F_GETFD), -1);
  EXPECT_FALSE(p->write.valid());  // NOLINT(bugprone-use-after-move): that is what is tested
}

TEST(Fd, ReadExactSaysHowMuchIsMissing) {
  auto p = make_pipe();
  ASSERT_TRUE(write_all(p->write.get(), "abc"));
  p->write.reset();
  std::byte buffer[5];
  auto r = read_exact(p->read.get(), buffer);
  ASSERT_FALSE(r);
  EXPECT_THAT(r.error().message(), HasSubstr("2 bytes still expected"));
}

TEST(Cancel, EndsAWait) {
  auto c = Cancel::create();
  auto p = make_pipe();
  Thread t("canceller", [&] { c->cancel("operator said so"); });
  auto r = wait_readable(p->read.get(), *c, Deadline::in(milliseconds(20'000)), "test");
  ASSERT_FALSE(r);
  EXPECT_EQ(r.error().code(), Errc::kCancelled);
  EXPECT_THAT(r.error().message(), HasSubstr("operator said so"));
}

TEST(Cancel, DeadlinePasses) {
  auto c = Cancel::create();
  auto p = make_pipe();
  auto r = wait_readable(p->read.get(), *c, Deadline::in(milliseconds(1)), "peer's answer");
  ASSERT_FALSE(r);
  EXPECT_EQ(r.error().code(), Errc::kTimeout);
  EXPECT_THAT(r.error().message(), HasSubstr("peer's answer"));
}

TEST(Text, Formats) {
  EXPECT_EQ(format_bytes(1536), "1.5 KiB");
  EXPECT_EQ(format_bytes(12), "12 B");
  EXPECT_EQ(format_bit_rate(940e6), "940 Mbit/s");
  EXPECT_EQ(format_duration(milliseconds(245'000)), "4 min 05 s");
  EXPECT_EQ(hex("\x01\xff"), "01ff");
  EXPECT_EQ(random_hex(8).size(), 16U);
}

TEST(Text, PlainNamesAreSafeInPaths) {
  EXPECT_TRUE(is_plain_name("redis-1.a_b"));
  for (const char* bad : {"", ".", "..", "a/b", "-x", "a b", "a\n"}) EXPECT_FALSE(is_plain_name(bad)) << bad;
  EXPECT_FALSE(is_plain_name(std::string(129, 'a')));
}

TEST(Text, ParseRefusesTrailingText) {
  EXPECT_EQ(*parse_u64("42", "n"), 42U);
  for (const char* bad : {"", "4x", "-1", "99999999999999999999999"}) EXPECT_FALSE(parse_u64(bad, "n")) << bad;
}

TEST(JsonNumber, OnlyWholeNumbersThatFit) {
  using nlohmann::json;
  EXPECT_EQ(whole<uint16_t>(json(65535)), 65535);
  EXPECT_EQ(whole<int64_t>(json(-1)), -1);
  EXPECT_EQ(whole_or<int64_t>(json{{"a", 7}}, "a", 1), 7);
  EXPECT_EQ(whole_or<int64_t>(json{{"a", 7}}, "b", 1), 1);
  for (const auto& wrong : {json(65536), json(-1), json(1.5), json(1e300), json("1"), json(), json(true)})
    EXPECT_THROW((void)whole<uint16_t>(wrong), json::exception) << wrong.dump();
}

}  // namespace
}  // namespace transship
