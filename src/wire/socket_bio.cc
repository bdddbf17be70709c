#include "wire/socket_bio.h"

#include <sys/socket.h>

#include <cerrno>

#include "base/fd.h"

namespace transship::wire {
namespace {

struct Socket {
  int fd;
  SocketCounters* counters;
};

Socket& socket_of(BIO* bio) { return *static_cast<Socket*>(BIO_get_data(bio)); }

// The rest of a call that sent or received `n` bytes.
int outcome(BIO* bio, ssize_t n, bool reading) {
  BIO_clear_retry_flags(bio);
  if (n >= 0) return static_cast<int>(n);
  if (errno == EAGAIN) {
    reading ? BIO_set_retry_read(bio) : BIO_set_retry_write(bio);
  } else {
    socket_of(bio).counters->error = errno;
  }
  return -1;
}

int socket_write(BIO* bio, const char* data, int size) {
  Socket& s = socket_of(bio);
  ssize_t n = retry_eintr([&] { return ::send(s.fd, data, static_cast<size_t>(size), MSG_NOSIGNAL); });
  if (n > 0) s.counters->written += static_cast<uint64_t>(n);
  return outcome(bio, n, false);
}

int socket_read(BIO* bio, char* data, int size) {
  Socket& s = socket_of(bio);
  ssize_t n = retry_eintr([&] { return ::recv(s.fd, data, static_cast<size_t>(size), 0); });
  if (n == 0) BIO_set_flags(bio, BIO_FLAGS_IN_EOF);
  return outcome(bio, n, true);
}

long socket_control(BIO* bio, int command, long /*number*/, void* /*pointer*/) {
  switch (command) {
    case BIO_CTRL_FLUSH: return 1;
    case BIO_CTRL_EOF: return BIO_test_flags(bio, BIO_FLAGS_IN_EOF) != 0 ? 1 : 0;
    default: return 0;
  }
}

int socket_destroy(BIO* bio) {
  delete static_cast<Socket*>(BIO_get_data(bio));
  BIO_set_data(bio, nullptr);
  return 1;
}

// Made once, never freed: it must outlive every BIO of the process.
BIO_METHOD* socket_method() {
  static BIO_METHOD* const kMethod = [] {
    BIO_METHOD* m = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "transship socket");
    if (m != nullptr) {
      BIO_meth_set_write(m, socket_write);
      BIO_meth_set_read(m, socket_read);
      BIO_meth_set_ctrl(m, socket_control);
      BIO_meth_set_destroy(m, socket_destroy);
    }
    return m;
  }();
  return kMethod;
}

}  // namespace

BIO* make_socket_bio(int fd, SocketCounters& counters) {
  BIO_METHOD* method = socket_method();
  BIO* bio = method != nullptr ? BIO_new(method) : nullptr;
  if (bio == nullptr) return nullptr;
  BIO_set_data(bio, new Socket{fd, &counters});
  BIO_set_init(bio, 1);
  return bio;
}

}  // namespace transship::wire
