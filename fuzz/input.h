// Bytes of a fuzzer, taken apart from their beginning. Never fails: what is missing is zero or empty.
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>

namespace transship::fuzz {

class Input {
 public:
  explicit Input(std::string_view bytes) : rest_(bytes) {}
  bool empty() const { return rest_.empty(); }

  template <class T>
  T number() {
    T value = 0;
    auto bytes = take(sizeof value);
    std::memcpy(&value, bytes.data(), bytes.size());
    return value;
  }
  uint8_t byte() { return number<uint8_t>(); }
  bool flag() { return (byte() & 1) != 0; }
  // Its length, two bytes, stands before it.
  std::string_view piece() { return take(number<uint16_t>()); }
  std::string text() { return std::string(piece()); }
  std::string_view take(size_t size) {
    auto bytes = rest_.substr(0, size);
    rest_.remove_prefix(bytes.size());
    return bytes;
  }
  std::string_view rest() { return take(rest_.size()); }

 private:
  std::string_view rest_;
};

// The other way round, for seeds.
class Output {
 public:
  template <class T>
  Output& number(T value) {
    bytes_.append(reinterpret_cast<const char*>(&value), sizeof value);
    return *this;
  }
  Output& byte(uint8_t value) { return number(value); }
  Output& piece(std::string_view bytes) {
    number(static_cast<uint16_t>(bytes.size()));
    return raw(bytes);
  }
  Output& raw(std::string_view bytes) {
    bytes_ += bytes;
    return *this;
  }
  std::string bytes() const { return bytes_; }

 private:
  std::string bytes_;
};

// What no text for a terminal, a log line or another program may have in it.
inline bool is_control(char c) {
  auto byte = static_cast<unsigned char>(c);
  return byte < 0x20 || byte == 0x7f;
}
inline bool is_ascii(char c) { return static_cast<unsigned char>(c) < 0x80; }

inline std::span<const std::byte> as_bytes(std::string_view text) { return std::as_bytes(std::span(text)); }

}  // namespace transship::fuzz
