#include "wire/identity.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <thread>

#include "sys/file.h"

namespace transship::wire {
namespace {

class IdentityTest : public ::testing::Test {
 protected:
  IdentityTest() {
    std::string pattern = ::testing::TempDir() + "/identityXXXXXX";
    dir_ = ::mkdtemp(pattern.data());
  }
  ~IdentityTest() override { (void)sys::remove_tree(dir_); }
  std::string dir_;
};

TEST_F(IdentityTest, MadeOnceAndPrivate) {
  auto first = Identity::load_or_create(dir_ + "/keys");
  ASSERT_TRUE(first) << first.error().message();
  auto again = Identity::load_or_create(dir_ + "/keys");
  ASSERT_TRUE(again);
  EXPECT_EQ(first->fingerprint(), again->fingerprint());
  struct stat s{};
  ASSERT_EQ(::stat((dir_ + "/keys/node.key").c_str(), &s), 0);
  EXPECT_EQ(s.st_mode & 0777, 0600U);
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(dir_ + "/keys"), {}), 2);
}

TEST_F(IdentityTest, TwoAtOnceAgree) {
  std::vector<std::string> prints(4);
  std::vector<std::thread> threads;
  for (auto& print : prints)
    threads.emplace_back([&] {
      auto made = Identity::load_or_create(dir_);
      print = made ? made->fingerprint().text() : made.error().message();
    });
  for (auto& t : threads) t.join();
  EXPECT_THAT(prints[0], ::testing::StartsWith("SHA256:"));
  EXPECT_THAT(prints, ::testing::Each(prints[0]));
}

TEST_F(IdentityTest, OthersKeysDiffer) {
  EXPECT_NE(Identity::make_ephemeral()->fingerprint(), Identity::make_ephemeral()->fingerprint());
}

TEST_F(IdentityTest, KeyThatOthersCanReadIsRefused) {
  ASSERT_TRUE(Identity::load_or_create(dir_));
  ASSERT_EQ(::chmod((dir_ + "/node.key").c_str(), 0640), 0);
  auto r = Identity::load_or_create(dir_);
  ASSERT_FALSE(r);
  EXPECT_EQ(r.error().code(), Errc::kRefused);
  EXPECT_THAT(r.error().remedy(), ::testing::HasSubstr("chmod 600"));
}

TEST_F(IdentityTest, LostKeyIsNotReplacedSilently) {
  ASSERT_TRUE(Identity::load_or_create(dir_));
  ASSERT_EQ(::unlink((dir_ + "/node.key").c_str()), 0);
  auto r = Identity::load_or_create(dir_);
  ASSERT_FALSE(r);
  EXPECT_EQ(r.error().code(), Errc::kCorrupt);
}

TEST_F(IdentityTest, LostCertificateIsMadeAgainFromTheKey) {
  auto first = Identity::load_or_create(dir_);
  ASSERT_TRUE(first);
  ASSERT_EQ(::unlink((dir_ + "/node.crt").c_str()), 0);
  auto again = Identity::load_or_create(dir_);
  ASSERT_TRUE(again);
  EXPECT_EQ(first->fingerprint(), again->fingerprint());
}

TEST_F(IdentityTest, CertificateOfAnotherKeyIsRefused) {
  ASSERT_TRUE(Identity::load_or_create(dir_ + "/a"));
  ASSERT_TRUE(Identity::load_or_create(dir_ + "/b"));
  std::filesystem::copy_file(dir_ + "/b/node.crt", dir_ + "/a/node.crt",
                             std::filesystem::copy_options::overwrite_existing);
  auto r = Identity::load_or_create(dir_ + "/a");
  ASSERT_FALSE(r);
  EXPECT_EQ(r.error().code(), Errc::kCorrupt);
}

TEST_F(IdentityTest, DamagedKeyIsNamed) {
  ASSERT_TRUE(Identity::load_or_create(dir_));
  ASSERT_TRUE(sys::write_file_atomic(dir_ + "/node.key", "-----BEGIN PRIVATE KEY-----\nAAAA\n"));
  auto r = Identity::load_or_create(dir_);
  ASSERT_FALSE(r);
  EXPECT_EQ(r.error().code(), Errc::kCorrupt);
  EXPECT_THAT(r.error().message(), ::testing::HasSubstr("node.key"));
}

TEST(Fingerprint, ParsesItsOwnTextOnly) {
  std::string good = Identity::make_ephemeral()->fingerprint().text();
  ASSERT_EQ(good.size(), 7U + 43U);
  auto parsed = Fingerprint::parse(good);
  ASSERT_TRUE(parsed);
  EXPECT_EQ(parsed->text(), good);
  EXPECT_FALSE(Fingerprint::parse(""));
  EXPECT_FALSE(Fingerprint::parse(good + "="));
  EXPECT_FALSE(Fingerprint::parse(good.substr(0, good.size() - 1)));
  EXPECT_FALSE(Fingerprint::parse("MD5:" + good.substr(4)));
  EXPECT_FALSE(Fingerprint::parse(" " + good.substr(0, good.size() - 1)));
  std::string odd = good;
  odd[20] = '!';
  EXPECT_FALSE(Fingerprint::parse(odd));
  odd[20] = '=';
  EXPECT_FALSE(Fingerprint::parse(odd));
}

TEST(Fingerprint, OneKeyHasOneText) {
  // 43 characters carry 258 bits: the last two must be 0.
  EXPECT_TRUE(Fingerprint::parse("SHA256:" + std::string(43, 'A')));
  EXPECT_FALSE(Fingerprint::parse("SHA256:" + std::string(42, 'A') + "B"));
}

}  // namespace
}  // namespace transship::wire
