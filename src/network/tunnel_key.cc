#include "network/tunnel_key.h"

#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <sys/stat.h>

#include <algorithm>

#include "base/text.h"
#include "sys/file.h"

namespace transship::network {
namespace {

constexpr size_t kTextChars = 44;  // base64 of 32 bytes, with its one '='
constexpr std::array<uint8_t, 6> kPrefix = {0xfd, 0x80, 0xeb, 0xe5, 0x86, 0x57};
constexpr std::string_view kAddressPurpose = "transship tunnel address";

template <auto Free>
struct FreeWith {
  void operator()(auto* p) const { Free(p); }
};
using KeyPtr = std::unique_ptr<EVP_PKEY, FreeWith<&EVP_PKEY_free>>;
using KeyContextPtr = std::unique_ptr<EVP_PKEY_CTX, FreeWith<&EVP_PKEY_CTX_free>>;

const unsigned char* raw(std::string_view bytes) { return reinterpret_cast<const unsigned char*>(bytes.data()); }

std::string base64(std::string_view bytes) {
  std::string out((bytes.size() + 2) / 3 * 4 + 1, '\0');
  int n = EVP_EncodeBlock(reinterpret_cast<unsigned char*>(out.data()), raw(bytes), static_cast<int>(bytes.size()));
  out.resize(static_cast<size_t>(n));
  return out;
}

// 32 bytes, or nothing when `text` is not exactly their base64.
std::string decode(std::string_view text) {
  if (text.size() != kTextChars) return {};
  std::string out(kTextChars / 4 * 3, '\0');
  if (EVP_DecodeBlock(reinterpret_cast<unsigned char*>(out.data()), raw(text), static_cast<int>(text.size())) < 0)
    return {};
  out.resize(TunnelPublicKey::kBytes);
  std::string again = base64(out);
  if (again == text) return out;
  OPENSSL_cleanse(out.data(), out.size());
  return {};
}

// A few points give the same secret, zero, with every key: OpenSSL refuses those.
bool usable(std::string_view public_bytes) {
  KeyPtr theirs(EVP_PKEY_new_raw_public_key(EVP_PKEY_X25519, nullptr, raw(public_bytes), public_bytes.size()));
  KeyPtr any(EVP_PKEY_Q_keygen(nullptr, nullptr, "X25519"));
  KeyContextPtr context(any ? EVP_PKEY_CTX_new(any.get(), nullptr) : nullptr);
  std::array<unsigned char, TunnelPublicKey::kBytes> secret = {};
  size_t length = secret.size();
  bool ok = theirs && context && EVP_PKEY_derive_init(context.get()) == 1 &&
            EVP_PKEY_derive_set_peer(context.get(), theirs.get()) == 1 &&
            EVP_PKEY_derive(context.get(), secret.data(), &length) == 1;
  OPENSSL_cleanse(secret.data(), secret.size());
  ERR_clear_error();
  return ok;
}

Result<> make_key_file(const std::string& path) {
  KeyPtr fresh(EVP_PKEY_Q_keygen(nullptr, nullptr, "X25519"));
  std::string secret(TunnelPublicKey::kBytes, '\0');
  size_t length = secret.size();
  if (!fresh ||
      EVP_PKEY_get_raw_private_key(fresh.get(), reinterpret_cast<unsigned char*>(secret.data()), &length) != 1)
    return fail(Errc::kInternal, "make a tunnel key: OpenSSL refuses");
  std::string text = base64(secret) + "\n";
  auto written = sys::write_file_once(path, text);
  OPENSSL_cleanse(secret.data(), secret.size());
  OPENSSL_cleanse(text.data(), text.size());
  return written;
}

std::string renew_remedy(const std::string& path) {
  return fmt::format("remove {} and restart: a new one is made, and peers learn of it by themselves", path);
}

Result<> check_mode(const std::string& path) {
  struct stat s{};
  if (::stat(path.c_str(), &s) != 0) return fail_errno(errno, "look at {}", path);
  if ((s.st_mode & 077) == 0) return {};
  return std::unexpected(
      Error(Errc::kRefused,
            fmt::format("{} can be read by others (mode {:o}): it may no longer be secret", path, s.st_mode & 07777))
          .with_remedy(renew_remedy(path)));
}

std::shared_ptr<const std::string> wiped_at_the_end(std::string secret) {
  return {new std::string(std::move(secret)), [](std::string* s) {
            OPENSSL_cleanse(s->data(), s->size());
            delete s;
          }};
}

}  // namespace

IpAddress tunnel_prefix() {
  std::array<uint8_t, 16> bytes = {};
  std::ranges::copy(kPrefix, bytes.begin());
  return IpAddress::v6(bytes);
}

Result<TunnelPublicKey> TunnelPublicKey::from_bytes(std::string_view bytes) {
  if (bytes.size() != kBytes)
    return fail(Errc::kInvalidArgument, "a tunnel key has {} bytes, not {}", kBytes, bytes.size());
  if (!usable(bytes))
    return fail(Errc::kInvalidArgument, "the tunnel key {} is a point with which no secret can be agreed on",
                base64(bytes));
  TunnelPublicKey key;
  std::ranges::copy(bytes, key.bytes_.begin());
  return key;
}

Result<TunnelPublicKey> TunnelPublicKey::parse(std::string_view encoded) {
  auto decoded = decode(encoded);
  if (decoded.empty())
    return fail(Errc::kInvalidArgument, "\"{}\" is not a tunnel key: it must be {} characters of base64",
                encoded.substr(0, 80), kTextChars);
  return from_bytes(decoded);
}

std::string TunnelPublicKey::text() const { return base64(bytes()); }

IpAddress TunnelPublicKey::address() const {
  std::string hashed = std::string(kAddressPurpose) + bytes();
  std::array<unsigned char, 32> digest = {};
  TS_CHECK(EVP_Digest(hashed.data(), hashed.size(), digest.data(), nullptr, EVP_sha256(), nullptr) == 1, "SHA-256");
  std::array<uint8_t, 16> whole = {};
  auto rest = std::ranges::copy(kPrefix, whole.begin()).out;
  std::copy_n(digest.begin(), whole.end() - rest, rest);
  return IpAddress::v6(whole);
}

Result<TunnelKey> TunnelKey::load_or_create(const std::string& path) {
  struct stat s{};
  if (::lstat(path.c_str(), &s) != 0 && errno == ENOENT) TS_TRY_CTX(make_key_file(path), "tunnel key");
  TS_TRY(check_mode(path));
  TS_TRY_ASSIGN(std::string text, sys::read_file(path, 4096));
  auto secret = wiped_at_the_end(decode(trim(text)));
  OPENSSL_cleanse(text.data(), text.size());
  KeyPtr key(secret->empty() ? nullptr
                             : EVP_PKEY_new_raw_private_key(EVP_PKEY_X25519, nullptr, raw(*secret), secret->size()));
  std::string own(TunnelPublicKey::kBytes, '\0');
  size_t length = own.size();
  if (!key || EVP_PKEY_get_raw_public_key(key.get(), reinterpret_cast<unsigned char*>(own.data()), &length) != 1)
    return std::unexpected(
        Error(Errc::kCorrupt, fmt::format("{} holds no tunnel key", path)).with_remedy(renew_remedy(path)));
  TS_TRY_ASSIGN(auto public_key, TunnelPublicKey::from_bytes(own));
  return TunnelKey(std::move(secret), public_key);
}

std::string TunnelKey::secret_text() const { return base64(*secret_); }

}  // namespace transship::network
