#include "arbiter/http_client.h"

#include <curl/curl.h>

#include <algorithm>

#include "base/curl_handles.h"

namespace transship::arbiter {
namespace {

constexpr size_t kMaxAnswer = 1U << 20;
constexpr size_t kMaxIdle = 4;

size_t append(char* data, size_t size, size_t count, void* to) {
  auto& body = *static_cast<std::string*>(to);
  if (body.size() + size * count > kMaxAnswer) return 0;  // ends the transfer with CURLE_WRITE_ERROR
  body.append(data, size * count);
  return size * count;
}

Result<CurlHeaders> make_headers(const std::string& authorization) {
  CurlHeaders headers(curl_slist_append(nullptr, "Content-Type: application/json"));
  if (!authorization.empty() && headers) {
    // On failure the old list stays as it is, without what was to be added.
    if (curl_slist_append(headers.get(), ("Authorization: " + authorization).c_str()) == nullptr) headers.reset();
  }
  if (!headers) return fail(Errc::kInternal, "libcurl cannot be set up");
  return headers;
}

}  // namespace

// Connections belong to the multi handle. One request at a time.
class HttpClient::Line {
 public:
  Line() : multi_(curl_multi_init()) {}
  Result<HttpAnswer> post(const TlsFiles& tls, const std::string& url, const std::string& body,
                          const std::string& authorization, Deadline deadline, const Cancel& cancel) {
    CurlEasy easy(curl_easy_init());
    TS_TRY_ASSIGN(CurlHeaders headers, make_headers(authorization));
    if (!multi_ || !easy) return fail(Errc::kInternal, "libcurl cannot be set up");
    HttpAnswer answer;
    set_up(easy.get(), tls, url, body);
    (void)curl_easy_setopt(easy.get(), CURLOPT_HTTPHEADER, headers.get());
    (void)curl_easy_setopt(easy.get(), CURLOPT_WRITEDATA, &answer.body);
    (void)curl_multi_add_handle(multi_.get(), easy.get());
    auto code = run(deadline, cancel);
    (void)curl_easy_getinfo(easy.get(), CURLINFO_RESPONSE_CODE, &answer.status);
    (void)curl_multi_remove_handle(multi_.get(), easy.get());
    TS_TRY(code);
    if (*code == CURLE_WRITE_ERROR) return fail(Errc::kPeerProtocol, "the answer is longer than {} bytes", kMaxAnswer);
    if (*code != CURLE_OK) return fail(Errc::kUnavailable, "{}", curl_easy_strerror(*code));
    return answer;
  }

 private:
  static void set_up(CURL* c, const TlsFiles& tls, const std::string& url, const std::string& body) {
    (void)curl_easy_setopt(c, CURLOPT_URL, url.c_str());
    (void)curl_easy_setopt(c, CURLOPT_PROTOCOLS_STR, "http,https");
    (void)curl_easy_setopt(c, CURLOPT_PROXY, "");
    (void)curl_easy_setopt(c, CURLOPT_NOSIGNAL, 1L);
    (void)curl_easy_setopt(c, CURLOPT_HTTP_VERSION, static_cast<long>(CURL_HTTP_VERSION_1_1));
    (void)curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, append);
    (void)curl_easy_setopt(c, CURLOPT_POSTFIELDSIZE_LARGE, static_cast<curl_off_t>(body.size()));
    (void)curl_easy_setopt(c, CURLOPT_COPYPOSTFIELDS, body.data());
    (void)curl_easy_setopt(c, CURLOPT_SSLVERSION, static_cast<long>(CURL_SSLVERSION_TLSv1_2));
    if (!tls.ca.empty()) (void)curl_easy_setopt(c, CURLOPT_CAINFO, tls.ca.c_str());
    if (!tls.certificate.empty()) (void)curl_easy_setopt(c, CURLOPT_SSLCERT, tls.certificate.c_str());
    if (!tls.key.empty()) (void)curl_easy_setopt(c, CURLOPT_SSLKEY, tls.key.c_str());
  }
  Result<CURLcode> run(Deadline deadline, const Cancel& cancel) {
    while (true) {
      int running = 0;
      if (auto m = curl_multi_perform(multi_.get(), &running); m != CURLM_OK)
        return fail(Errc::kInternal, "libcurl: {}", curl_multi_strerror(m));
      if (running == 0) return outcome();
      if (deadline.passed()) return fail(Errc::kTimeout, "no answer in time");
      TS_TRY(cancel.check());
      curl_waitfd fd{};
      fd.fd = cancel.poll_fd();
      fd.events = CURL_WAIT_POLLIN;
      auto wait = std::min<int64_t>(deadline.remaining().count(), 60'000);
      (void)curl_multi_poll(multi_.get(), &fd, 1, static_cast<int>(wait), nullptr);
    }
  }
  Result<CURLcode> outcome() {
    int left = 0;
    while (CURLMsg* m = curl_multi_info_read(multi_.get(), &left))
      if (m->msg == CURLMSG_DONE) return m->data.result;
    return fail(Errc::kInternal, "libcurl ended a request without a result");
  }
  CurlMulti multi_;
};

HttpClient::HttpClient(TlsFiles tls) : tls_(std::move(tls)) {
  static const CURLcode kInit = curl_global_init(CURL_GLOBAL_DEFAULT);
  TS_CHECK(kInit == CURLE_OK, "libcurl cannot be set up");
}

HttpClient::~HttpClient() = default;

std::unique_ptr<HttpClient::Line> HttpClient::take_line() {
  MutexLock lock(mu_);
  if (idle_.empty()) return std::make_unique<Line>();
  auto line = std::move(idle_.back());
  idle_.pop_back();
  return line;
}

Result<HttpAnswer> HttpClient::post(const std::string& url, const std::string& body, const std::string& authorization,
                                    Deadline deadline, const Cancel& cancel) {
  auto line = take_line();
  auto answer = line->post(tls_, url, body, authorization, deadline, cancel);
  // One that was of no use goes with all its connections: the next request must not wait for a dead one again.
  if (answer) {
    MutexLock lock(mu_);
    if (idle_.size() < kMaxIdle) idle_.push_back(std::move(line));
  }
  return answer;
}

}  // namespace transship::arbiter
