#include "network/tunnel_key.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>

#include "sys/file.h"

namespace transship::network {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

class TunnelKeyTest : public ::testing::Test {
 protected:
  TunnelKeyTest() {
    std::string pattern = ::testing::TempDir() + "/tunnelkeyXXXXXX";
    dir_ = ::mkdtemp(pattern.data());
    path_ = dir_ + "/tunnel.key";
  }
  ~TunnelKeyTest() override { std::filesystem::remove_all(dir_); }
  std::string dir_;
  std::string path_;
};

TEST_F(TunnelKeyTest, IsMadeOnceAndPrivate) {
  auto first = TunnelKey::load_or_create(path_);
  ASSERT_TRUE(first) << first.error().message();
  auto second = TunnelKey::load_or_create(path_);
  ASSERT_TRUE(second) << second.error().message();
  EXPECT_EQ(first->public_key(), second->public_key());
  EXPECT_EQ(std::filesystem::status(path_).permissions(), std::filesystem::perms(0600));
  EXPECT_EQ(*sys::read_file(path_), first->secret_text() + "\n");
  auto other = TunnelKey::load_or_create(dir_ + "/other.key");
  EXPECT_NE(first->public_key(), other->public_key());
}

TEST_F(TunnelKeyTest, OneThatOthersCanReadIsRefused) {
  ASSERT_TRUE(TunnelKey::load_or_create(path_));
  ASSERT_EQ(::chmod(path_.c_str(), 0640), 0);
  auto r = TunnelKey::load_or_create(path_);
  ASSERT_FALSE(r);
  EXPECT_EQ(r.error().code(), Errc::kRefused);
  EXPECT_THAT(r.error().remedy(), HasSubstr(path_));
}

TEST_F(TunnelKeyTest, AFileThatHoldsNoKeyIsNotQuoted) {
  for (const std::string text : {"", "c2VjcmV0", "not base64 at all, but of the right length!!"}) {
    ASSERT_TRUE(sys::write_file_atomic(path_, text));
    auto r = TunnelKey::load_or_create(path_);
    ASSERT_FALSE(r) << text;
    EXPECT_EQ(r.error().code(), Errc::kCorrupt);
    if (text.empty()) continue;
    EXPECT_THAT(r.error().message(), Not(HasSubstr(text)));
  }
}

// From RFC 7748, 6.1: what wg makes of the same secret.
TEST_F(TunnelKeyTest, PublicKeyIsThatOfX25519) {
  ASSERT_TRUE(sys::write_file_atomic(path_, "dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=\n"));
  auto key = TunnelKey::load_or_create(path_);
  ASSERT_TRUE(key) << key.error().message();
  EXPECT_EQ(key->public_key().text(), "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=");
}

TEST(TunnelPublicKey, TextIsCanonical) {
  const std::string good = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=";
  auto key = TunnelPublicKey::parse(good);
  ASSERT_TRUE(key) << key.error().message();
  EXPECT_EQ(key->text(), good);
  EXPECT_EQ(*TunnelPublicKey::from_bytes(key->bytes()), *key);
  for (std::string bad : {std::string(), good.substr(1), good + "=", " " + good.substr(1),
                          std::string("hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmp="), good.substr(0, 43) + "A"}) {
    EXPECT_FALSE(TunnelPublicKey::parse(bad)) << bad;
  }
}

TEST(TunnelPublicKey, BytesOfAnotherLengthAndPointsOfLowOrderAreRefused) {
  for (size_t length : {0U, 1U, 31U, 33U, 1000U}) {
    auto r = TunnelPublicKey::from_bytes(std::string(length, 'x'));
    ASSERT_FALSE(r) << length;
    EXPECT_THAT(r.error().message(), HasSubstr(fmt::format("32 bytes, not {}", length)));
  }
  for (char lowest : {'\0', '\1'}) {
    auto r = TunnelPublicKey::from_bytes(std::string(1, lowest) + std::string(31, '\0'));
    ASSERT_FALSE(r);
    EXPECT_EQ(r.error().code(), Errc::kInvalidArgument);
  }
}

TEST(TunnelPublicKey, AddressFollowsFromTheKey) {
  auto key = *TunnelPublicKey::parse("hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=");
  EXPECT_EQ(tunnel_prefix().text(), "fd80:ebe5:8657::");
  EXPECT_THAT(key.address().text(), StartsWith("fd80:ebe5:8657:"));
  EXPECT_EQ(key.address(), key.address());
  auto other = *TunnelPublicKey::parse("3p7bfXt9wbTTW2HC7OQ1Nz+DQ8hbeGdNrfx+FG+IK08=");
  EXPECT_NE(key.address(), other.address());
}

}  // namespace
}  // namespace transship::network
