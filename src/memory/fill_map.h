// Which pages of one process are still to be filled: where they are now, and under which address the images know them.
#pragma once
#include <cstdint>
#include <map>
#include <optional>

namespace transship::memory {

// One thread. All numbers in bytes, multiples of kPageBytes. Pieces never overlap, and neighbours stay apart: the end
// of a piece may be the end of a mapping.
class FillMap {
 public:
  struct Piece {
    uint64_t address = 0;  // in the process, now
    uint64_t bytes = 0;
    uint64_t image = 0;  // where the images have it
    uint64_t end() const { return address + bytes; }
    bool operator==(const Piece&) const = default;
  };

  // Replaces what is there.
  void add(const Piece& piece);
  // How many bytes of it were there.
  uint64_t remove(uint64_t address, uint64_t bytes);
  // mremap: the pages keep their place in the images.
  void move(uint64_t from, uint64_t to, uint64_t bytes);
  // The piece with this address, from the address on.
  std::optional<Piece> at(uint64_t address) const;
  // The same, or the first piece after it.
  std::optional<Piece> next(uint64_t address) const;
  const std::map<uint64_t, Piece>& pieces() const { return pieces_; }  // by address
  uint64_t bytes() const { return bytes_; }
  bool empty() const { return pieces_.empty(); }

 private:
  void split(uint64_t address);

  std::map<uint64_t, Piece> pieces_;  // by address
  uint64_t bytes_ = 0;
};

}  // namespace transship::memory
