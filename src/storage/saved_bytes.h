// How the records are written that this layer leaves on disk: magic, version, numbers in the machine's byte order (the
// file stays on its host), at the end a checksum. The reader takes nothing for granted: a checksum can be made to fit.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

#include "base/result.h"

namespace transship::storage {

template <class T>
void append_number(std::string& to, T value) {
  to.append(reinterpret_cast<const char*>(&value), sizeof value);
}

std::string begin_record(std::string_view magic, uint32_t version);
void end_record(std::string& record);

// One thread; what it reads is borrowed.
class RecordReader {
 public:
  // After magic and version, up to the checksum. kCorrupt; `what` is what the message calls the record.
  static Result<RecordReader> open(std::string_view record, std::string_view magic, uint32_t version,
                                   std::string_view what);

  bool empty() const { return rest_.empty(); }
  size_t left() const { return rest_.size(); }
  // False: there is less than that.
  bool bytes(size_t n, std::string_view& out) {
    if (n > rest_.size()) return false;
    out = rest_.substr(0, n);
    rest_.remove_prefix(n);
    return true;
  }
  template <class T>
  bool number(T& out) {
    std::string_view raw;
    if (!bytes(sizeof out, raw)) return false;
    std::memcpy(&out, raw.data(), raw.size());
    return true;
  }

 private:
  explicit RecordReader(std::string_view rest) : rest_(rest) {}
  std::string_view rest_;
};

}  // namespace transship::storage
