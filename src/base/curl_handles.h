// Owners of what libcurl makes, for the layers that link it.
#pragma once
#include <curl/curl.h>

#include <memory>

namespace transship {

// CURL and CURLM are both void.
struct CurlEasyDeleter {
  void operator()(CURL* c) const { curl_easy_cleanup(c); }
};
struct CurlMultiDeleter {
  void operator()(CURLM* m) const { (void)curl_multi_cleanup(m); }
};
struct CurlHeadersDeleter {
  void operator()(curl_slist* l) const { curl_slist_free_all(l); }
};
using CurlEasy = std::unique_ptr<CURL, CurlEasyDeleter>;
using CurlMulti = std::unique_ptr<CURLM, CurlMultiDeleter>;
using CurlHeaders = std::unique_ptr<curl_slist, CurlHeadersDeleter>;

}  // namespace transship
