#include "arbiter/etcd_messages.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "arbiter/etcd.h"

namespace transship::arbiter::etcd {
namespace {

using std::string_literals::operator""s;
using testing::ElementsAre;

TEST(EtcdMessages, Base64ThereAndBack) {
  for (const auto& [bytes, text] : std::vector<std::pair<std::string, std::string>>{
           {"", ""}, {"f", "Zg=="}, {"fo", "Zm8="}, {"foo", "Zm9v"}, {"foob", "Zm9vYg=="}, {"\xff\x00\xfe"s, "/wD+"}}) {
    EXPECT_EQ(base64(bytes), text);
    auto back = from_base64(text);
    ASSERT_TRUE(back);
    EXPECT_EQ(*back, bytes);
  }
  EXPECT_FALSE(from_base64("a b"));
}

TEST(EtcdMessages, WhoComesSecondGetsWhatStands) {
  auto json = put_if_absent("/t/d", "commit aws", {"/t/d", "/t/s"});
  EXPECT_EQ(json["compare"].size(), 2U);
  EXPECT_EQ(json["compare"][1]["key"], base64("/t/s"));
  EXPECT_EQ(json["compare"][1]["version"], "0");
  EXPECT_EQ(json["success"][0]["request_put"]["value"], base64("commit aws"));
  EXPECT_EQ(json["failure"][0]["request_range"]["key"], base64("/t/d"));
}

TEST(EtcdMessages, ReadsOutcomes) {
  auto written = parse_txn(Json::parse(R"({"header":{"revision":"7"},"succeeded":true,"responses":[{}]})"));
  ASSERT_TRUE(written);
  EXPECT_TRUE(written->succeeded);
  auto stands = parse_txn(Json::parse(
      R"({"header":{},"responses":[{"response_range":{"kvs":[{"value":"YWJvcnQgYXdz"}]}},{"response_range":{}}]})"));
  ASSERT_TRUE(stands);
  EXPECT_FALSE(stands->succeeded);
  EXPECT_THAT(stands->values, ElementsAre(std::optional<std::string>("abort aws"), std::nullopt));
}

TEST(EtcdMessages, WhatIsNoAnswerIsAnError) {
  for (const char* text : {"{}", "[]", "7", R"({"header":{}})", R"({"header":{},"responses":[7]})",
                           R"({"header":{},"responses":[{"response_range":{"kvs":[{"value":7}]}}]})",
                           R"({"header":{},"responses":[{"response_range":{"kvs":7}}]})"}) {
    auto txn = parse_txn(Json::parse(text));
    ASSERT_FALSE(txn) << text;
    EXPECT_EQ(txn.error().code(), Errc::kPeerProtocol);
  }
  EXPECT_FALSE(parse_range(Json::parse("[]")));
  EXPECT_EQ(number_at(Json::parse("[]"), "TTL"), 0);
  EXPECT_EQ(number_at(Json::parse(R"({"TTL":"x"})"), "TTL"), 0);
  EXPECT_EQ(number_at(Json::parse(R"({"TTL":"10"})"), "TTL"), 10);
  EXPECT_EQ(cluster_of(Json::parse(R"({"header":{"cluster_id":"255"}})")), "ff");
  EXPECT_EQ(cluster_of(Json::parse(R"({"header":7})")), "");
}

TEST(EtcdMessages, Decisions) {
  EXPECT_EQ(parse_decision(decision_text(Decision::kCommit, "aws")), Decision::kCommit);
  EXPECT_EQ(parse_decision("abort"), Decision::kAbort);
  EXPECT_EQ(parse_decision("perhaps aws").error().code(), Errc::kCorrupt);
}

TEST(EtcdEndpoints, AsPeopleWriteThem) {
  auto list = parse_endpoints(" https://a:2379, http://[fd00::1]:2379/ ,,");
  ASSERT_TRUE(list);
  EXPECT_THAT(*list, ElementsAre("https://a:2379", "http://[fd00::1]:2379"));
  EXPECT_TRUE(parse_endpoints("")->empty());
  for (const char* bad : {"a:2379", "https://", "ftp://a", "https://a/v3", "https://u:p@a"})
    EXPECT_FALSE(parse_endpoints(bad)) << bad;
}

}  // namespace
}  // namespace transship::arbiter::etcd
