// What libFuzzer calls, of a program with one target. With TRANSSHIP_FUZZ_SEEDS its seeds are written there, and
// nothing else is done.
#include <spdlog/spdlog.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>

#include "fuzz/target.h"

extern "C" {

int LLVMFuzzerInitialize(int* argc, char*** argv);
int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

int LLVMFuzzerInitialize(int* /*argc*/, char*** /*argv*/) {
  spdlog::set_level(spdlog::level::off);
  const char* directory = std::getenv("TRANSSHIP_FUZZ_SEEDS");
  if (directory == nullptr) return 0;
  auto written = transship::fuzz::write_seeds(directory);
  if (!written) std::fprintf(stderr, "%s\n", written.error().message().c_str());
  std::exit(written ? 0 : 1);
}

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  transship::fuzz::targets().front().run({reinterpret_cast<const char*>(data), size});
  return 0;
}

}  // extern "C"
