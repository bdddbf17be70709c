// A job that only computes: counts primes by trial division on all processors, a block of numbers a round, for as long
// as it is let. After each round FILE holds "NUMBERS PRIMES SUM", which anybody can compute by other means. What it has
// found stays in its memory and is counted anew now and then: a page that is wrong ends it with 3.
//
//   primes FILE
#include <bit>
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

namespace {

constexpr std::uint64_t kBlock = 1 << 18;
constexpr std::uint64_t kMost = std::uint64_t{1} << 30;  // 128 MiB of bits: hours of work
constexpr int kCountAgain = 16;                          // rounds

bool is_prime(std::uint64_t n) {
  if (n < 4) return n > 1;
  if (n % 2 == 0 || n % 3 == 0) return false;
  for (std::uint64_t d = 5; d * d <= n; d += 6) {
    if (n % d == 0 || n % (d + 2) == 0) return false;
  }
  return true;
}

bool write_result(const std::string& path, std::uint64_t numbers, std::uint64_t primes, std::uint64_t sum) {
  const std::string fresh = path + ".new";
  std::FILE* file = std::fopen(fresh.c_str(), "w");
  if (file == nullptr) return false;
  const bool written = std::fprintf(file, "%lu %lu %lu\n", numbers, primes, sum) > 0;
  return std::fclose(file) == 0 && written && std::rename(fresh.c_str(), path.c_str()) == 0;
}

std::uint64_t count_bits(const std::vector<std::uint64_t>& words) {
  std::uint64_t total = 0;
#pragma omp parallel for reduction(+ : total)
  for (std::size_t i = 0; i < words.size(); ++i) total += static_cast<std::uint64_t>(std::popcount(words[i]));
  return total;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  std::vector<std::uint64_t> found;
  found.reserve(kMost / 64);
  std::uint64_t primes = 0;
  std::uint64_t sum = 0;
  for (std::uint64_t begin = 0; begin < kMost; begin += kBlock) {
    found.resize((begin + kBlock) / 64);
#pragma omp parallel for schedule(dynamic, 16) reduction(+ : primes, sum)
    for (std::uint64_t word = begin / 64; word < (begin + kBlock) / 64; ++word) {
      for (std::uint64_t bit = 0; bit < 64; ++bit) {
        const std::uint64_t n = word * 64 + bit;
        if (!is_prime(n)) continue;
        found[word] |= std::uint64_t{1} << bit;
        ++primes;
        sum += n;
      }
    }
    if (begin / kBlock % kCountAgain == 0 && count_bits(found) != primes) {
      std::fprintf(stderr, "memory holds %lu primes, and %lu were found\n", count_bits(found), primes);
      return 3;
    }
    if (!write_result(argv[1], begin + kBlock, primes, sum)) {
      std::perror(argv[1]);
      return 1;
    }
  }
  return 0;
}
