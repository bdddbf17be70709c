// Tar archives whose checksums fit, whatever a fuzzer has done to them.
#pragma once
#include <string>
#include <string_view>

namespace transship::fuzz {

inline constexpr size_t kTarBlock = 512;

// Of every block that looks like a header.
inline std::string with_checksums(std::string_view bytes) {
  std::string tar(bytes);
  for (size_t at = 0; at + kTarBlock <= tar.size(); at += kTarBlock) {
    if (std::string_view(tar).substr(at + 257, 5) != "ustar") continue;
    tar.replace(at + 148, 8, "        ");
    unsigned sum = 0;
    for (char c : std::string_view(tar).substr(at, kTarBlock)) sum += static_cast<unsigned char>(c);
    for (size_t digit = 6; digit-- > 0; sum /= 8) tar[at + 148 + digit] = static_cast<char>('0' + sum % 8);
    tar[at + 154] = '\0';
  }
  return tar;
}

}  // namespace transship::fuzz
