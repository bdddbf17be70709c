#include "storage/saved_bytes.h"

#include <xxhash.h>

namespace transship::storage {
namespace {

uint64_t checksum_of(std::string_view text) { return XXH3_64bits(text.data(), text.size()); }

}  // namespace

std::string begin_record(std::string_view magic, uint32_t version) {
  std::string record(magic);
  append_number(record, version);
  return record;
}

void end_record(std::string& record) { append_number(record, checksum_of(record)); }

Result<RecordReader> RecordReader::open(std::string_view record, std::string_view magic, uint32_t version,
                                        std::string_view what) {
  if (record.size() < sizeof(uint64_t)) return fail(Errc::kCorrupt, "{} is cut", what);
  RecordReader end(record.substr(record.size() - sizeof(uint64_t)));
  record.remove_suffix(sizeof(uint64_t));
  uint64_t checksum = 0;
  if (!end.number(checksum) || checksum != checksum_of(record))
    return fail(Errc::kCorrupt, "{} has another checksum than when it was written: it was damaged or cut", what);
  RecordReader in(record);
  std::string_view found;
  uint32_t of = 0;
  if (!in.bytes(magic.size(), found) || found != magic || !in.number(of))
    return fail(Errc::kCorrupt, "{} is something else", what);
  if (of != version)
    return fail(Errc::kCorrupt, "{} is of version {}, this program reads version {}", what, of, version);
  return in;
}

}  // namespace transship::storage
