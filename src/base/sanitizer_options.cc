// How a program built with sanitizers reports, wherever and by whomever it is started: the environment of a daemon's
// helper, or of a runtime that an engine starts, is not ours to set. Linked into every program and test as it is, since
// nobody refers to it but the sanitizers' libraries; empty in other builds. What the variable ASAN_OPTIONS (UBSAN_,
// TSAN_) says goes before.

// Programs write their reports where the tests look for them: many have no standard error that anybody reads.
#ifdef TS_SANITIZER_LOG
#define TS_SANITIZER_LOG_PATH ":log_path=" TS_SANITIZER_LOG
#else
#define TS_SANITIZER_LOG_PATH ""
#endif

// NOLINTBEGIN(bugprone-reserved-identifier): the sanitizers look for these names.
extern "C" {

#ifdef __SANITIZE_ADDRESS__
const char* __asan_default_options();
const char* __asan_default_options() {
  return "detect_stack_use_after_return=1:strict_string_checks=1" TS_SANITIZER_LOG_PATH;
}
const char* __ubsan_default_options();
const char* __ubsan_default_options() { return "halt_on_error=1:print_stacktrace=1"; }
#endif

#ifdef __SANITIZE_THREAD__
const char* __tsan_default_options();
const char* __tsan_default_options() { return "halt_on_error=1:second_deadlock_stack=1" TS_SANITIZER_LOG_PATH; }

// The thread sanitizer sees the memcpy of a library that was not built with it, but not the atomics that order it: its
// manual calls such reports false. What these libraries do is not looked at; what our code does is, also around them.
const char* __tsan_default_suppressions();
const char* __tsan_default_suppressions() {
  return "called_from_lib:libcrypto.so.3\n"  // hash tables that are read without a lock
         "called_from_lib:libgrpc.so\n"      // its locks are its own
         "called_from_lib:libgrpc++.so\n"
         "called_from_lib:libgpr.so\n"
         "race:libabsl_\n"
         "race:absl::\n"      // called by gRPC, calls nothing of ours
         "race_top:grpc::\n"  // its templates, which are compiled into our programs
         "race_top:grpc_core::\n";
}
#endif

}  // extern "C"
// NOLINTEND(bugprone-reserved-identifier)

// Beside the address sanitizer, gcc's libubsan has a copy of its own of what writes reports, and ignores log_path.
#if defined(__SANITIZE_ADDRESS__) && defined(TS_SANITIZER_LOG)
#include <dlfcn.h>
namespace {
[[gnu::constructor]] void set_path_of_undefined_behaviour() {
  void* library = ::dlopen("libubsan.so.1", RTLD_LAZY | RTLD_NOLOAD);
  if (library == nullptr) return;
  using SetPath = void (*)(const char*);
  if (auto set_path = reinterpret_cast<SetPath>(::dlsym(library, "__sanitizer_set_report_path")); set_path != nullptr)
    set_path(TS_SANITIZER_LOG);
}
}  // namespace
#endif
