#include "engine/podman_api.h"

#include <curl/curl.h>

#include <algorithm>
#include <memory>

#include "base/curl_handles.h"
#include "base/text.h"

namespace transship::engine {
namespace {

constexpr size_t kMaxAnswer = 32U << 20;
constexpr size_t kMaxLine = 1U << 20;
constexpr std::string_view kBase = "http://podman/v5.0.0/libpod";

// False ends the transfer with CURLE_WRITE_ERROR.
using Sink = std::function<bool(std::string_view)>;

size_t give(char* data, size_t size, size_t count, void* to) {
  const auto& sink = *static_cast<const Sink*>(to);
  return sink({data, size * count}) ? size * count : 0;
}

// One request on a multi handle, so that the cancel signal can be polled along with it.
class Transfer {
 public:
  Result<> prepare(const std::string& socket, const ApiRequest& r, const Sink& sink) {
    static const CURLcode kInit = curl_global_init(CURL_GLOBAL_DEFAULT);
    easy_.reset(curl_easy_init());
    multi_.reset(curl_multi_init());
    headers_.reset(curl_slist_append(nullptr, "Content-Type: application/json"));
    if (kInit != CURLE_OK || !easy_ || !multi_ || !headers_) return fail(Errc::kInternal, "libcurl cannot be set up");
    CURL* c = easy_.get();
    std::string url = std::string(kBase) + r.path;
    (void)curl_easy_setopt(c, CURLOPT_URL, url.c_str());
    (void)curl_easy_setopt(c, CURLOPT_UNIX_SOCKET_PATH, socket.c_str());
    (void)curl_easy_setopt(c, CURLOPT_PROXY, "");
    (void)curl_easy_setopt(c, CURLOPT_NOSIGNAL, 1L);
    (void)curl_easy_setopt(c, CURLOPT_CUSTOMREQUEST, r.method.c_str());
    (void)curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, give);
    (void)curl_easy_setopt(c, CURLOPT_WRITEDATA, &sink);
    if (r.method == "POST") {
      (void)curl_easy_setopt(c, CURLOPT_HTTPHEADER, headers_.get());
      (void)curl_easy_setopt(c, CURLOPT_POSTFIELDSIZE_LARGE, static_cast<curl_off_t>(r.body.size()));
      (void)curl_easy_setopt(c, CURLOPT_COPYPOSTFIELDS, r.body.data());
    }
    (void)curl_multi_add_handle(multi_.get(), c);
    return {};
  }
  ~Transfer() {
    if (multi_ && easy_) (void)curl_multi_remove_handle(multi_.get(), easy_.get());
  }
  Transfer() = default;
  Transfer(const Transfer&) = delete;
  Transfer& operator=(const Transfer&) = delete;

  Result<CURLcode> run(const ApiRequest& r) {
    while (true) {
      int running = 0;
      if (auto m = curl_multi_perform(multi_.get(), &running); m != CURLM_OK)
        return fail(Errc::kInternal, "libcurl: {}", curl_multi_strerror(m));
      if (running == 0) return outcome();
      if (r.deadline.passed()) return fail(Errc::kTimeout, "no answer by its deadline");
      if (r.cancel != nullptr) TS_TRY(r.cancel->check());
      curl_waitfd cancel{};
      cancel.fd = r.cancel != nullptr ? r.cancel->poll_fd() : -1;
      cancel.events = CURL_WAIT_POLLIN;
      auto wait = std::min<int64_t>(r.deadline.remaining().count(), 60'000);
      (void)curl_multi_poll(multi_.get(), &cancel, r.cancel != nullptr ? 1 : 0, static_cast<int>(wait), nullptr);
    }
  }
  long status() const {
    long status = 0;
    (void)curl_easy_getinfo(easy_.get(), CURLINFO_RESPONSE_CODE, &status);
    return status;
  }

 private:
  Result<CURLcode> outcome() {
    int left = 0;
    while (CURLMsg* m = curl_multi_info_read(multi_.get(), &left))
      if (m->msg == CURLMSG_DONE) return m->data.result;
    return fail(Errc::kInternal, "libcurl ended a request without a result");
  }
  CurlHeaders headers_;
  CurlEasy easy_;
  CurlMulti multi_;
};

}  // namespace

Result<ApiResponse> PodmanApi::request(const ApiRequest& r) const {
  auto what = fmt::format("{} {} on {}", r.method, r.path.substr(0, r.path.find('?')), socket_);
  ApiResponse response;
  Sink append = [&](std::string_view data) {
    if (response.body.size() + data.size() > kMaxAnswer) return false;
    response.body.append(data);
    return true;
  };
  Transfer transfer;
  TS_TRY(transfer.prepare(socket_, r, append));
  auto code = transfer.run(r);
  if (!code) return std::unexpected(std::move(code).error().context(what));
  if (*code == CURLE_WRITE_ERROR)
    return fail(Errc::kPeerProtocol, "{}: the answer is longer than {}", what, format_bytes(kMaxAnswer));
  if (*code != CURLE_OK) return fail(Errc::kUnavailable, "{}: {}", what, curl_easy_strerror(*code));
  response.status = transfer.status();
  return response;
}

Result<> PodmanApi::follow(const ApiRequest& r, const std::function<void(std::string_view line)>& line) const {
  auto what = fmt::format("{} {} on {}", r.method, r.path.substr(0, r.path.find('?')), socket_);
  std::string rest;
  Sink cut = [&](std::string_view data) {
    rest.append(data);
    for (size_t end = rest.find('\n'); end != std::string::npos; end = rest.find('\n')) {
      line(std::string_view(rest).substr(0, end));
      rest.erase(0, end + 1);
    }
    return rest.size() <= kMaxLine;
  };
  Transfer transfer;
  TS_TRY(transfer.prepare(socket_, r, cut));
  auto code = transfer.run(r);
  if (!code) return std::unexpected(std::move(code).error().context(what));
  if (*code == CURLE_WRITE_ERROR) return fail(Errc::kPeerProtocol, "{}: a line is too long", what);
  if (*code != CURLE_OK) return fail(Errc::kUnavailable, "{}: {}", what, curl_easy_strerror(*code));
  if (transfer.status() >= 400) return fail(Errc::kUnavailable, "{}: status {}", what, transfer.status());
  return {};
}

Result<> PodmanApi::ping(Deadline deadline) const {
  ApiRequest r;
  r.path = "/_ping";
  r.deadline = deadline;
  TS_TRY_ASSIGN(ApiResponse response, request(r));
  if (response.status == 200) return {};
  return fail(Errc::kUnavailable, "what listens on {} is not Podman's service: status {}", socket_, response.status);
}

std::string url_escape(std::string_view text) {
  std::string out;
  for (char c : text) {
    bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_' ||
                 c == '.' || c == '~';
    out += plain ? std::string(1, c) : fmt::format("%{:02X}", static_cast<unsigned char>(c));
  }
  return out;
}

std::string api_message(const ApiResponse& response) {
  auto body = parse_json(response.body, "podman");
  auto message = body ? text_at(*body, {"message"}) : std::string();
  if (message.empty()) message = fmt::format("status {}", response.status);
  return message.substr(0, 2000);
}

std::unexpected<Error> api_error(const ApiResponse& response, std::string_view what) {
  auto code = Errc::kUnavailable;
  // One that goes while Podman looks at it is a 500, with this as the cause.
  auto body = parse_json(response.body, "podman");
  bool gone = body && text_at(*body, {"cause"}) == "no such container";
  if (response.status == 404 || gone)
    code = Errc::kNotFound;
  else if (response.status == 409)
    code = Errc::kAlreadyExists;
  else if (response.status >= 400 && response.status < 500)
    code = Errc::kInvalidArgument;
  return fail(code, "{}: podman says: {}", what, api_message(response));
}

}  // namespace transship::engine
