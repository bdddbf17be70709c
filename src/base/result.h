// Errors by value. Nothing in this project throws; libraries' exceptions stop at thread entries and RPC handlers.
#pragma once
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cerrno>
#include <expected>
#include <string>
#include <string_view>
#include <utility>

namespace transship {

// What a caller may decide on. Everything else about a failure is text for a person.
enum class Errc {
  kInvalidArgument,       // the request itself is wrong; the same call fails again
  kNotFound,              // no such container, peer, move, file
  kAlreadyExists,         // name, address or move is taken
  kRefused,               // a check said no (plan blocks, reservation refused, policy)
  kNotConverged,          // memory is written faster than it can be sent
  kUnavailable,           // the other party or the system could not do it now
  kTimeout,               // a deadline passed
  kCancelled,             // the user, or whoever owns the work, called it off
  kPeerProtocol,          // the peer sent something that is not allowed here
  kUnauthorized,          // the peer's key is not pinned, or is another one
  kNoSpace,               // disk, tmpfs or memory is full
  kKernelFeatureMissing,  // this kernel, CRIU or runtime cannot do it
  kCorrupt,               // data that we read back is not what was written
  kInternal,              // a bug of ours, or an exception of a library
};

std::string_view errc_name(Errc code);

class [[nodiscard]] Error {
 public:
  Error(Errc code, std::string message) : code_(code), message_(std::move(message)) {}
  Errc code() const { return code_; }
  // 0 when the error did not come from a system call.
  int sys_errno() const { return sys_errno_; }
  const std::string& message() const { return message_; }
  // What the user can do about it; empty when the message says it all.
  const std::string& remedy() const { return remedy_; }
  Error&& with_errno(int e) && {
    sys_errno_ = e;
    return std::move(*this);
  }
  Error&& with_remedy(std::string text) && {
    remedy_ = std::move(text);
    return std::move(*this);
  }
  // Adds "while doing X" in front; used at module boundaries only, outermost first in the text.
  Error&& context(std::string_view what) && {
    message_ = fmt::format("{}: {}", what, message_);
    return std::move(*this);
  }

 private:
  Errc code_;
  int sys_errno_ = 0;
  std::string message_;
  std::string remedy_;
};

// libstdc++'s std::expected is not [[nodiscard]]; this is, and nothing more.
template <class T = void>
class [[nodiscard]] Result : public std::expected<T, Error> {
 public:
  using std::expected<T, Error>::expected;
};

template <class... A>
std::unexpected<Error> fail(Errc code, fmt::format_string<A...> format, A&&... args) {
  return std::unexpected(Error(code, fmt::format(format, std::forward<A>(args)...)));
}

// The only place where errno becomes an Errc.
Errc errc_from_errno(int e);
std::string errno_text(int e);

// The caller passes errno FIRST, before any argument can overwrite it.
template <class... A>
std::unexpected<Error> fail_errno(int e, fmt::format_string<A...> format, A&&... args) {
  return std::unexpected(
      Error(errc_from_errno(e), fmt::format("{}: {}", fmt::format(format, std::forward<A>(args)...), errno_text(e)))
          .with_errno(e));
}

[[noreturn]] void check_failed(const char* condition, const char* file, int line, const std::string& text);

}  // namespace transship

#define TS_CAT2(a, b) a##b
#define TS_CAT(a, b) TS_CAT2(a, b)
// NOLINTBEGIN(bugprone-macro-parentheses): declarations and expressions cannot be parenthesized here
#define TS_TRY(expr)                                                                   \
  do {                                                                                 \
    if (auto ts_r_ = (expr); !ts_r_) return std::unexpected(std::move(ts_r_).error()); \
  } while (0)
// One per line: the temporary is named after the line.
#define TS_TRY_ASSIGN(decl, expr) TS_TRY_ASSIGN_(TS_CAT(ts_r_, __LINE__), decl, expr)
#define TS_TRY_ASSIGN_(tmp, decl, expr)                     \
  auto tmp = (expr);                                        \
  if (!tmp) return std::unexpected(std::move(tmp).error()); \
  decl = std::move(*tmp)
// The same with "what was being done" in front of the message.
#define TS_TRY_CTX(expr, what)                                                                       \
  do {                                                                                               \
    if (auto ts_r_ = (expr); !ts_r_) return std::unexpected(std::move(ts_r_).error().context(what)); \
  } while (0)
// NOLINTEND(bugprone-macro-parentheses)
// For bugs only, never for data from a peer, a file or the kernel. Stays on in release builds.
#define TS_CHECK(cond, ...)                                                                         \
  do {                                                                                              \
    if (!(cond)) ::transship::check_failed(#cond, __FILE__, __LINE__, fmt::format("" __VA_ARGS__)); \
  } while (0)
