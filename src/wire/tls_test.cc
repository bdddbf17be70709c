#include "wire/tls.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <openssl/params.h>

#include "wire/openssl.h"
#include "wire/testing.h"

namespace transship::wire {
namespace {

using testing::bytes;
using testing::never;
using testing::pin;
using testing::soon;

class TlsTest : public ::testing::Test {
 protected:
  Identity aws_ = Identity::make_ephemeral().value();
  Identity azure_ = Identity::make_ephemeral().value();
  Identity stranger_ = Identity::make_ephemeral().value();
};

TEST_F(TlsTest, PinnedBothWays) {
  auto pair = testing::tls_pair(aws_, azure_.fingerprint(), azure_, pin(aws_, "aws"));
  ASSERT_TRUE(pair.client) << pair.client.error().message();
  ASSERT_TRUE(pair.server) << pair.server.error().message();
  EXPECT_EQ(pair.server->peer_name(), "aws");
  EXPECT_EQ(pair.server->peer_fingerprint(), aws_.fingerprint());
  EXPECT_EQ(pair.client->peer_fingerprint(), azure_.fingerprint());
  EXPECT_EQ(pair.client->cipher(), "TLS_AES_128_GCM_SHA256");

  ASSERT_TRUE(pair.client->write_all(bytes("hello"), soon(), never()));
  std::byte got[5];
  ASSERT_TRUE(pair.server->read_exact(got, soon(), never()));
  EXPECT_EQ(std::memcmp(got, "hello", 5), 0);
  EXPECT_FALSE(pair.server->readable_now().value());
  EXPECT_GT(pair.client->wire_bytes_written(), 5U);

  pair.client->finish();
  EXPECT_EQ(pair.server->read_some(got, soon(), never()).value(), 0U);
  EXPECT_TRUE(pair.server->readable_now().value());
}

TEST_F(TlsTest, ServerWithAnotherKeyIsNotSpokenTo) {
  auto pair = testing::tls_pair(aws_, azure_.fingerprint(), stranger_, pin(aws_, "aws"));
  ASSERT_FALSE(pair.client);
  EXPECT_EQ(pair.client.error().code(), Errc::kUnauthorized);
  EXPECT_THAT(pair.client.error().message(), ::testing::HasSubstr(stranger_.fingerprint().text()));
  EXPECT_THAT(pair.client.error().message(), ::testing::HasSubstr(azure_.fingerprint().text()));
  EXPECT_FALSE(pair.server);
}

TEST_F(TlsTest, UnpinnedClientIsRefusedAndToldSo) {
  auto pair = testing::tls_pair(stranger_, azure_.fingerprint(), azure_, pin(aws_, "aws"));
  ASSERT_FALSE(pair.server);
  EXPECT_EQ(pair.server.error().code(), Errc::kUnauthorized);
  EXPECT_THAT(pair.server.error().message(), ::testing::HasSubstr(stranger_.fingerprint().text()));
  ASSERT_TRUE(pair.client);  // TLS 1.3: the client is through before the server looks at its key
  std::byte one[1];
  auto r = pair.client->read_some(one, soon(), never());
  ASSERT_FALSE(r);
  EXPECT_EQ(r.error().code(), Errc::kUnauthorized);
  EXPECT_THAT(r.error().remedy(), ::testing::HasSubstr("peer add"));
}

TEST_F(TlsTest, RefusalIsFoundAlsoByWriting) {
  auto pair = testing::tls_pair(stranger_, azure_.fingerprint(), azure_, pin(aws_, "aws"));
  ASSERT_TRUE(pair.client);
  Result<> r;
  for (int i = 0; r && i < 100; ++i) r = pair.client->write_all(bytes("are you there?"), soon(), never());
  ASSERT_FALSE(r);
  EXPECT_EQ(r.error().code(), Errc::kUnauthorized) << r.error().message();
}

TEST_F(TlsTest, ProbeShowsTheKeyAndNothingElse) {
  testing::LoopbackServer listener;
  Result<TlsStream> accepted = fail(Errc::kInternal, "not run");
  std::thread other(
      [&] { accepted = TlsStream::server(listener.accept(), azure_, pin(aws_, "aws"), "caller", soon(), never()); });
  auto print = probe_fingerprint(listener.endpoint, soon(), never());
  other.join();
  ASSERT_TRUE(print) << print.error().message();
  EXPECT_EQ(*print, azure_.fingerprint());
  ASSERT_FALSE(accepted);
  EXPECT_EQ(accepted.error().code(), Errc::kUnauthorized) << accepted.error().message();
}

// A client of raw OpenSSL against our server.
Result<TlsStream> serve_raw_client(const Identity& server, const PinLookup& pins, SSL_CTX* client_context,
                                   std::string* client_error) {
  auto [a, b] = testing::tcp_pair();
  (void)::fcntl(a.get(), F_SETFL, 0);  // SSL_connect() waits
  Result<TlsStream> accepted = fail(Errc::kInternal, "not run");
  std::thread other(
      [&, fd = &b] { accepted = TlsStream::server(std::move(*fd), server, pins, "caller", soon(), never()); });
  std::unique_ptr<SSL, FreeWith<&SSL_free>> ssl(SSL_new(client_context));
  SSL_set_fd(ssl.get(), a.get());
  int rc = SSL_connect(ssl.get());
  char byte;
  if (rc == 1) rc = SSL_read(ssl.get(), &byte, 1);
  *client_error = rc == 1 ? "" : take_openssl_errors();
  other.join();
  return accepted;
}

TEST_F(TlsTest, Tls12IsRefused) {
  ContextPtr old(SSL_CTX_new(TLS_client_method()));
  SSL_CTX_set_max_proto_version(old.get(), TLS1_2_VERSION);
  std::string why;
  auto r = serve_raw_client(azure_, pin(aws_, "aws"), old.get(), &why);
  ASSERT_FALSE(r);
  EXPECT_EQ(r.error().code(), Errc::kPeerProtocol) << r.error().message();
  EXPECT_THAT(why, ::testing::HasSubstr("protocol version"));
}

TEST_F(TlsTest, ClientWithoutCertificateIsRefused) {
  ContextPtr bare(SSL_CTX_new(TLS_client_method()));
  std::string why;
  auto r = serve_raw_client(
      azure_, [](const Fingerprint&) { return std::optional<std::string>("anyone"); }, bare.get(), &why);
  ASSERT_FALSE(r);
  EXPECT_EQ(r.error().code(), Errc::kUnauthorized) << r.error().message();
  EXPECT_THAT(why, ::testing::HasSubstr("certificate required"));
}

// A key whose public half is that of `shown` and whose private half is not.
KeyPtr forged_key(EVP_PKEY* shown, EVP_PKEY* own) {
  std::array<unsigned char, 32> pub{};
  std::array<unsigned char, 32> priv{};
  size_t n = pub.size();
  size_t m = priv.size();
  EXPECT_EQ(EVP_PKEY_get_raw_public_key(shown, pub.data(), &n), 1);
  EXPECT_EQ(EVP_PKEY_get_raw_private_key(own, priv.data(), &m), 1);
  OSSL_PARAM params[] = {OSSL_PARAM_construct_octet_string("pub", pub.data(), n),
                         OSSL_PARAM_construct_octet_string("priv", priv.data(), m), OSSL_PARAM_construct_end()};
  std::unique_ptr<EVP_PKEY_CTX, FreeWith<&EVP_PKEY_CTX_free>> c(
      EVP_PKEY_CTX_new_from_name(nullptr, "ED25519", nullptr));
  EVP_PKEY* key = nullptr;
  EXPECT_EQ(EVP_PKEY_fromdata_init(c.get()), 1);
  EXPECT_EQ(EVP_PKEY_fromdata(c.get(), &key, EVP_PKEY_KEYPAIR, params), 1);
  return KeyPtr(key);
}

// The pinned certificate is public: showing it without its key must not help.
TEST_F(TlsTest, CertificateWithoutItsKeyIsRefused) {
  ContextPtr thief(SSL_CTX_new(TLS_client_method()));
  ASSERT_EQ(SSL_CTX_use_certificate(thief.get(), SSL_CTX_get0_certificate(aws_.context())), 1);
  auto forged = forged_key(SSL_CTX_get0_privatekey(aws_.context()), SSL_CTX_get0_privatekey(stranger_.context()));
  ASSERT_EQ(SSL_CTX_use_PrivateKey(thief.get(), forged.get()), 1);
  std::string why;
  auto r = serve_raw_client(azure_, pin(aws_, "aws"), thief.get(), &why);
  ASSERT_FALSE(r);
  EXPECT_THAT(r.error().message(), ::testing::HasSubstr("signature"));
  EXPECT_THAT(why, ::testing::HasSubstr("decrypt error"));
}

TEST_F(TlsTest, GarbageIsAnErrorNotACrash) {
  for (std::string_view garbage :
       {"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "SSH-2.0-OpenSSH_9.9\r\n", "\x16\x03\x01\xff\xff"}) {
    auto [a, b] = testing::tcp_pair();
    ASSERT_TRUE(write_all(a.get(), garbage));
    ::shutdown(a.get(), SHUT_WR);
    auto r = TlsStream::server(std::move(b), azure_, pin(aws_, "aws"), "caller", soon(), never());
    ASSERT_FALSE(r);
    EXPECT_NE(r.error().code(), Errc::kInternal);
  }
}

TEST_F(TlsTest, SilentClientIsDroppedAtTheDeadline) {
  auto [a, b] = testing::tcp_pair();
  auto r = TlsStream::server(std::move(b), azure_, pin(aws_, "aws"), "caller", soon(50), never());
  ASSERT_FALSE(r);
  EXPECT_EQ(r.error().code(), Errc::kTimeout);
}

// One byte now and then must not prolong the handshake.
TEST_F(TlsTest, DrippingClientIsDroppedAtTheDeadline) {
  auto [a, b] = testing::tcp_pair();
  std::atomic<bool> stop = false;
  std::thread drip([&, fd = a.get()] {
    std::string hello = std::string("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 11) + std::string(400, 'x');
    for (char c : hello) {
      if (stop || ::send(fd, &c, 1, MSG_NOSIGNAL) != 1) return;
      std::this_thread::sleep_for(milliseconds(5));
    }
  });
  auto start = Clock::now();
  auto r = TlsStream::server(std::move(b), azure_, pin(aws_, "aws"), "caller", soon(100), never());
  stop = true;
  drip.join();
  ASSERT_FALSE(r);
  EXPECT_EQ(r.error().code(), Errc::kTimeout);
  EXPECT_LT(Clock::now() - start, milliseconds(1'500));
}

TEST_F(TlsTest, CancelEndsAWaitAtOnce) {
  auto pair = testing::tls_pair(aws_, azure_.fingerprint(), azure_, pin(aws_, "aws"));
  ASSERT_TRUE(pair.client && pair.server);
  Cancel cancel = never();
  std::thread other([cancel]() mutable {
    std::this_thread::sleep_for(milliseconds(20));
    cancel.cancel("enough");
  });
  std::byte one[1];
  auto r = pair.client->read_some(one, soon(), cancel);
  other.join();
  ASSERT_FALSE(r);
  EXPECT_EQ(r.error().code(), Errc::kCancelled);
}

TEST_F(TlsTest, CutConnectionIsNotAnEnd) {
  auto pair = testing::tls_pair(aws_, azure_.fingerprint(), azure_, pin(aws_, "aws"));
  ASSERT_TRUE(pair.client && pair.server);
  pair.server->shutdown();  // no close_notify
  std::byte one[1];
  auto r = pair.client->read_some(one, soon(), never());
  ASSERT_FALSE(r);
  EXPECT_EQ(r.error().code(), Errc::kUnavailable);
}

TEST_F(TlsTest, HangupWatchFires) {
  auto pair = testing::tls_pair(aws_, azure_.fingerprint(), azure_, pin(aws_, "aws"));
  ASSERT_TRUE(pair.client && pair.server);
  Cancel cancel = never();
  auto watch = HangupWatch::start(*pair.server, cancel);
  ASSERT_TRUE(watch);
  EXPECT_FALSE(cancel.cancelled());
  pair.client->finish();
  EXPECT_TRUE(wait_readable(cancel.poll_fd(), never(), soon(), "the watch"));
  EXPECT_THAT(cancel.reason(), ::testing::HasSubstr("hung up"));
}

TEST_F(TlsTest, BigDataArrivesWhole) {
  auto pair = testing::tls_pair(aws_, azure_.fingerprint(), azure_, pin(aws_, "aws"));
  ASSERT_TRUE(pair.client && pair.server);
  std::vector<std::byte> sent(3'000'001);
  for (size_t i = 0; i < sent.size(); ++i) sent[i] = static_cast<std::byte>(i * 31 >> 3);
  std::thread other([&] { EXPECT_TRUE(pair.client->write_steadily(sent, kStallLimit, never())); });
  std::vector<std::byte> got(sent.size());
  EXPECT_TRUE(pair.server->read_steadily(got, kStallLimit, never()));
  other.join();
  EXPECT_TRUE(sent == got);
}

// Passes bytes on and cuts the connection after so many of them from the client.
void proxy_with_cut(Fd client, Fd server, size_t cut_after) {
  (void)::fcntl(client.get(), F_SETFL, O_NONBLOCK);
  size_t left = cut_after;
  while (true) {
    pollfd p[2] = {{client.get(), POLLIN, 0}, {server.get(), POLLIN, 0}};
    if (::poll(p, 2, 5'000) <= 0) return;
    std::byte buffer[4096];
    if (p[0].revents != 0) {
      if (left == 0) return;
      ssize_t n = ::recv(client.get(), buffer, std::min(left, sizeof buffer), 0);
      if (n <= 0) return;
      if (!write_all(server.get(), std::span(buffer).first(static_cast<size_t>(n)))) return;
      left -= static_cast<size_t>(n);
      if (left == 0) return;
    }
    if (p[1].revents != 0) {
      ssize_t n = ::recv(server.get(), buffer, sizeof buffer, 0);
      if (n <= 0) return;
      if (::send(client.get(), buffer, static_cast<size_t>(n), MSG_NOSIGNAL) != n) return;
    }
  }
}

// A small exchange, cut after each of the client's bytes: always an error, never a wrong success, never a hang.
TEST_F(TlsTest, CutAfterEachByte) {
  testing::LoopbackServer front;
  size_t total = 0;
  for (size_t cut = 1; cut < 4'000; cut += cut < 64 ? 1 : 37) {
    auto [to_server, server_end] = testing::tcp_pair();
    Fd client_end = connect_tcp(front.endpoint, soon(), never()).value();
    std::thread proxy([&, a = front.accept(), b = std::move(to_server)]() mutable {
      proxy_with_cut(std::move(a), std::move(b), cut);
    });
    bool complete = false;
    std::thread server([&, fd = std::move(server_end)]() mutable {
      auto s = TlsStream::server(std::move(fd), azure_, pin(aws_, "aws"), "caller", soon(), never());
      if (!s) return;
      std::byte got[5];
      if (!s->read_exact(got, soon(), never())) return;
      std::byte end[1];
      auto last = s->read_some(end, soon(), never());
      complete = last && *last == 0;
    });
    size_t written = 0;
    {
      auto c = TlsStream::client(std::move(client_end), aws_, azure_.fingerprint(), "callee", soon(), never());
      if (c) {
        if (c->write_all(bytes("hello"), soon(), never())) c->finish();
        written = c->wire_bytes_written();
      }
    }
    proxy.join();
    server.join();
    if (complete) {
      total = cut;
      EXPECT_GE(cut, written);
      break;
    }
  }
  EXPECT_GT(total, 500U) << "the loop never saw a whole exchange";
}

}  // namespace
}  // namespace transship::wire
