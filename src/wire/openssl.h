// Owners of OpenSSL's objects, and what every TLS context of ours has in common. For wire/'s own sources only.
#pragma once
#include <openssl/bio.h>
#include <openssl/evp.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>

#include <memory>
#include <string>

namespace transship::wire {

template <auto Free>
struct FreeWith {
  void operator()(auto* p) const { Free(p); }
};
using BioPtr = std::unique_ptr<BIO, FreeWith<&BIO_free_all>>;
using KeyPtr = std::unique_ptr<EVP_PKEY, FreeWith<&EVP_PKEY_free>>;
using CertificatePtr = std::unique_ptr<X509, FreeWith<&X509_free>>;
using ContextPtr = std::unique_ptr<SSL_CTX, FreeWith<&SSL_CTX_free>>;

// This thread's error queue as text, emptied; never "".
std::string take_openssl_errors();

// The verification callback of every context, in tls.cc.
int verify_peer_key(X509_STORE_CTX* store, void* unused);

// TLS 1.3 and nothing older, no tickets, no resumption, certificate required, checked by TlsStream (tls.cc). Without a
// key. nullptr when OpenSSL refuses.
ContextPtr bare_context();

}  // namespace transship::wire
