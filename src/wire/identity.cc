#include "wire/identity.h"

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <sys/stat.h>

#include <array>

#include "base/text.h"
#include "sys/file.h"
#include "wire/openssl.h"

namespace transship::wire {
namespace {

constexpr std::string_view kPrefix = "SHA256:";
constexpr size_t kDigestBytes = 32;
constexpr size_t kBase64Chars = 43;  // of 32 bytes, without the padding
constexpr size_t kMaxPemBytes = 16U << 10;

std::string base64(std::span<const unsigned char> bytes) {
  std::string out((bytes.size() + 2) / 3 * 4 + 1, '\0');
  int n = EVP_EncodeBlock(reinterpret_cast<unsigned char*>(out.data()), bytes.data(), static_cast<int>(bytes.size()));
  out.resize(static_cast<size_t>(n));
  while (!out.empty() && out.back() == '=') out.pop_back();
  return out;
}

std::string pem_of(auto&& write) {
  BioPtr bio(BIO_new(BIO_s_mem()));
  TS_CHECK(bio && write(bio.get()) == 1, "PEM into memory");
  char* data = nullptr;
  long length = BIO_get_mem_data(bio.get(), &data);
  return {data, static_cast<size_t>(length)};
}

Result<KeyPtr> make_key() {
  KeyPtr key(EVP_PKEY_Q_keygen(nullptr, nullptr, "ED25519"));
  if (!key) return fail(Errc::kInternal, "make a node key: {}", take_openssl_errors());
  return key;
}

// The certificate carries the key and nothing that tells who the node is: strangers get to see it. It never expires:
// its lifetime is that of the pin.
Result<CertificatePtr> make_certificate(EVP_PKEY* key) {
  CertificatePtr cert(X509_new());
  if (!cert) return fail(Errc::kInternal, "make a certificate: {}", take_openssl_errors());
  uint64_t serial = 0;
  bool ok = RAND_bytes(reinterpret_cast<unsigned char*>(&serial), sizeof serial) == 1 &&
            X509_set_version(cert.get(), X509_VERSION_3) == 1 &&
            ASN1_INTEGER_set_uint64(X509_get_serialNumber(cert.get()), serial >> 1) == 1 &&
            ASN1_TIME_set_string(X509_getm_notBefore(cert.get()), "20200101000000Z") == 1 &&
            ASN1_TIME_set_string(X509_getm_notAfter(cert.get()), "99991231235959Z") == 1 &&
            X509_set_pubkey(cert.get(), key) == 1;
  X509_NAME* name = X509_get_subject_name(cert.get());
  ok = ok &&
       X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC, reinterpret_cast<const unsigned char*>("transship"), -1, -1,
                                  0) == 1 &&
       X509_set_issuer_name(cert.get(), name) == 1 && X509_sign(cert.get(), key, nullptr) > 0;
  if (!ok) return fail(Errc::kInternal, "make a certificate: {}", take_openssl_errors());
  return cert;
}

Result<ContextPtr> make_context(EVP_PKEY* key, X509* cert) {
  ContextPtr context = bare_context();
  if (!context) return fail(Errc::kInternal, "set up TLS 1.3: {}", take_openssl_errors());
  if (SSL_CTX_use_certificate(context.get(), cert) != 1 || SSL_CTX_use_PrivateKey(context.get(), key) != 1 ||
      SSL_CTX_check_private_key(context.get()) != 1)
    return fail(Errc::kCorrupt, "key and certificate of this node do not belong together: {}", take_openssl_errors());
  return context;
}

bool exists(const std::string& path) {
  struct stat s{};
  return ::lstat(path.c_str(), &s) == 0;
}

Result<KeyPtr> load_key(const std::string& path) {
  struct stat s{};
  if (::stat(path.c_str(), &s) != 0) return fail_errno(errno, "look at {}", path);
  if ((s.st_mode & 077) != 0)
    return std::unexpected(
        Error(Errc::kRefused,
              fmt::format("{} can be read by others (mode {:o}): it may no longer be secret", path, s.st_mode & 07777))
            .with_remedy(fmt::format("if nobody else can have read it: chmod 600 {}; otherwise remove it and node.crt, "
                                     "restart, and pair every peer again",
                                     path)));
  TS_TRY_ASSIGN(std::string pem, sys::read_file(path, kMaxPemBytes));
  BioPtr bio(BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())));
  KeyPtr key(PEM_read_bio_PrivateKey(bio.get(), nullptr, [](char*, int, int, void*) { return -1; }, nullptr));
  OPENSSL_cleanse(pem.data(), pem.size());
  if (!key) return fail(Errc::kCorrupt, "{} holds no private key: {}", path, take_openssl_errors());
  return key;
}

Result<CertificatePtr> load_certificate(const std::string& path) {
  TS_TRY_ASSIGN(std::string pem, sys::read_file(path, kMaxPemBytes));
  BioPtr bio(BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())));
  CertificatePtr cert(PEM_read_bio_X509(bio.get(), nullptr, nullptr, nullptr));
  if (!cert) return fail(Errc::kCorrupt, "{} holds no certificate: {}", path, take_openssl_errors());
  return cert;
}

}  // namespace

Result<Fingerprint> Fingerprint::parse(std::string_view text) {
  auto wrong = [&] {
    return fail(Errc::kInvalidArgument, "\"{}\" is not a fingerprint: it must be SHA256: and {} characters of base64",
                text.substr(0, 80), kBase64Chars);
  };
  if (!text.starts_with(kPrefix) || text.size() != kPrefix.size() + kBase64Chars) return wrong();
  std::string encoded(text.substr(kPrefix.size()));
  std::array<unsigned char, kDigestBytes + 1> raw{};
  std::string padded = encoded + "=";
  int n = EVP_DecodeBlock(raw.data(), reinterpret_cast<const unsigned char*>(padded.data()),
                          static_cast<int>(padded.size()));
  // Canonical only: one key must not have two texts.
  if (n != kDigestBytes + 1 || base64(std::span(raw).first(kDigestBytes)) != encoded) return wrong();
  return Fingerprint(std::string(text));
}

Result<Fingerprint> Fingerprint::of(const x509_st* certificate) {
  unsigned char* der = nullptr;
  int length = i2d_X509_PUBKEY(X509_get_X509_PUBKEY(certificate), &der);
  if (length <= 0) return fail(Errc::kPeerProtocol, "a certificate without a public key: {}", take_openssl_errors());
  std::array<unsigned char, kDigestBytes> digest{};
  bool ok = EVP_Digest(der, static_cast<size_t>(length), digest.data(), nullptr, EVP_sha256(), nullptr) == 1;
  OPENSSL_free(der);
  if (!ok) return fail(Errc::kInternal, "SHA-256: {}", take_openssl_errors());
  return Fingerprint(std::string(kPrefix) + base64(digest));
}

struct Identity::State {
  ContextPtr context;
  Fingerprint fingerprint;
};

namespace {
struct Material {
  KeyPtr key;
  CertificatePtr certificate;
};

Result<Material> load_or_make(const std::string& dir) {
  std::string key_path = dir + "/node.key";
  std::string cert_path = dir + "/node.crt";
  TS_TRY(sys::make_dirs(dir));
  if (!exists(key_path)) {
    if (exists(cert_path))
      return std::unexpected(
          Error(Errc::kCorrupt, fmt::format("{} is there, but {} is missing", cert_path, key_path))
              .with_remedy(fmt::format("restore the key from a backup, or remove {} to make this node a new one, and "
                                       "pair every peer again",
                                       cert_path)));
    TS_TRY_ASSIGN(KeyPtr fresh, make_key());
    TS_TRY(sys::write_file_once(key_path, pem_of([&](BIO* bio) {
                                  return PEM_write_bio_PrivateKey(bio, fresh.get(), nullptr, nullptr, 0, nullptr,
                                                                  nullptr);
                                })));
  }
  Material material;
  TS_TRY_ASSIGN(material.key, load_key(key_path));
  if (!exists(cert_path)) {
    // The certificate follows from the key; the pin is the key alone, so making it again loses nothing.
    TS_TRY_ASSIGN(CertificatePtr fresh, make_certificate(material.key.get()));
    TS_TRY(sys::write_file_once(cert_path, pem_of([&](BIO* bio) { return PEM_write_bio_X509(bio, fresh.get()); })));
  }
  TS_TRY_ASSIGN(material.certificate, load_certificate(cert_path));
  return material;
}
}  // namespace

Result<Identity> Identity::load_or_create(const std::string& dir) {
  TS_TRY_ASSIGN(Material material, load_or_make(dir));
  auto context = make_context(material.key.get(), material.certificate.get());
  if (!context) return std::unexpected(std::move(context).error().context(dir));
  TS_TRY_ASSIGN(Fingerprint print, Fingerprint::of(material.certificate.get()));
  return Identity(std::make_shared<const State>(State{std::move(*context), std::move(print)}));
}

Result<Identity> Identity::make_ephemeral() {
  TS_TRY_ASSIGN(KeyPtr key, make_key());
  TS_TRY_ASSIGN(CertificatePtr cert, make_certificate(key.get()));
  TS_TRY_ASSIGN(ContextPtr context, make_context(key.get(), cert.get()));
  TS_TRY_ASSIGN(Fingerprint print, Fingerprint::of(cert.get()));
  return Identity(std::make_shared<const State>(State{std::move(context), std::move(print)}));
}

const Fingerprint& Identity::fingerprint() const { return state_->fingerprint; }
ssl_ctx_st* Identity::context() const { return state_->context.get(); }

}  // namespace transship::wire
