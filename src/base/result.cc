#include "base/result.h"

#include <cstdio>
#include <cstdlib>
#include <system_error>

namespace transship {

std::string_view errc_name(Errc code) {
  switch (code) {
    case Errc::kInvalidArgument: return "invalid_argument";
    case Errc::kNotFound: return "not_found";
    case Errc::kAlreadyExists: return "already_exists";
    case Errc::kRefused: return "refused";
    case Errc::kNotConverged: return "not_converged";
    case Errc::kUnavailable: return "unavailable";
    case Errc::kTimeout: return "timeout";
    case Errc::kCancelled: return "cancelled";
    case Errc::kPeerProtocol: return "peer_protocol";
    case Errc::kUnauthorized: return "unauthorized";
    case Errc::kNoSpace: return "no_space";
    case Errc::kKernelFeatureMissing: return "feature_missing";
    case Errc::kCorrupt: return "corrupt";
    case Errc::kInternal: return "internal";
  }
  return "unknown";
}

Errc errc_from_errno(int e) {
  switch (e) {
    case ENOENT:
    case ESRCH: return Errc::kNotFound;
    case EEXIST: return Errc::kAlreadyExists;
    case EINVAL:
    case ENAMETOOLONG: return Errc::kInvalidArgument;
    case ETIMEDOUT: return Errc::kTimeout;
    case ECANCELED: return Errc::kCancelled;
    case EACCES:
    case EPERM: return Errc::kRefused;
    case ENOSPC:
    case EDQUOT:
    case ENOMEM: return Errc::kNoSpace;
    case ENOSYS:
    case EOPNOTSUPP: return Errc::kKernelFeatureMissing;
    default: return Errc::kUnavailable;
  }
}

std::string errno_text(int e) { return std::generic_category().message(e); }

void check_failed(const char* condition, const char* file, int line, const std::string& text) {
  std::fprintf(stderr, "transship: bug: %s:%d: %s does not hold. %s\n", file, line, condition, text.c_str());
  std::abort();
}

}  // namespace transship
