#include "gateway/runtime_api.h"

#include <sys/socket.h>
#include <sys/un.h>

#include <array>
#include <cstring>

#include "base/fd.h"

namespace transship::gateway {
namespace {

constexpr size_t kLongestAnswer = 4U << 20;

Result<Fd> connect_to(const std::string& path) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) return fail(Errc::kInvalidArgument, "{} is too long for a socket", path);
  std::memcpy(address.sun_path, path.c_str(), path.size());
  Fd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd.valid()) return fail_errno(errno, "make a socket");
  if (::connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) == 0) return fd;
  return fail_errno(errno, "connect to {}", path);
}

}  // namespace

Result<std::string> ask_runtime(const std::string& socket, const std::string& command, milliseconds limit) {
  TS_CHECK(!command.contains('\n') && !command.contains(';'), "a command of two lines");
  TS_TRY_ASSIGN(Cancel never, Cancel::create());
  auto deadline = Deadline::in(limit);
  TS_TRY_ASSIGN(Fd fd, connect_to(socket));
  TS_TRY(write_all(fd.get(), command + "\n"));
  std::string answer;
  std::array<char, 16 << 10> buffer;
  for (;;) {
    TS_TRY(wait_readable(fd.get(), never, deadline, "an answer of HAProxy"));
    auto n = retry_eintr([&] { return ::read(fd.get(), buffer.data(), buffer.size()); });
    if (n < 0) return fail_errno(errno, "read HAProxy's answer");
    if (n == 0) return answer;
    answer.append(buffer.data(), static_cast<size_t>(n));
    if (answer.size() > kLongestAnswer) return fail(Errc::kCorrupt, "HAProxy's answer to {} has no end", command);
  }
}

}  // namespace transship::gateway
