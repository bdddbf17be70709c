#include "memory/fill_map.h"

#include <vector>

namespace transship::memory {

// No piece crosses `address` any more.
void FillMap::split(uint64_t address) {
  auto it = pieces_.upper_bound(address);
  if (it == pieces_.begin()) return;
  auto& piece = std::prev(it)->second;
  if (piece.address == address || piece.end() <= address) return;
  auto left = address - piece.address;
  Piece right{.address = address, .bytes = piece.bytes - left, .image = piece.image + left};
  piece.bytes = left;
  pieces_.emplace_hint(it, address, right);
}

uint64_t FillMap::remove(uint64_t address, uint64_t bytes) {
  split(address);
  split(address + bytes);
  uint64_t removed = 0;
  auto it = pieces_.lower_bound(address);
  while (it != pieces_.end() && it->first < address + bytes) {
    removed += it->second.bytes;
    it = pieces_.erase(it);
  }
  bytes_ -= removed;
  return removed;
}

void FillMap::add(const Piece& piece) {
  if (piece.bytes == 0) return;
  remove(piece.address, piece.bytes);
  pieces_.emplace(piece.address, piece);
  bytes_ += piece.bytes;
}

void FillMap::move(uint64_t from, uint64_t to, uint64_t bytes) {
  split(from);
  split(from + bytes);
  std::vector<Piece> moving;
  for (auto it = pieces_.lower_bound(from); it != pieces_.end() && it->first < from + bytes; ++it)
    moving.push_back(it->second);
  remove(from, bytes);
  // Whatever was expected there has been unmapped.
  remove(to, bytes);
  for (auto& piece : moving) {
    piece.address = piece.address - from + to;
    add(piece);
  }
}

std::optional<FillMap::Piece> FillMap::at(uint64_t address) const {
  auto found = next(address);
  return found && found->address == address ? found : std::nullopt;
}

std::optional<FillMap::Piece> FillMap::next(uint64_t address) const {
  auto it = pieces_.upper_bound(address);
  if (it != pieces_.begin()) {
    const auto& before = std::prev(it)->second;
    auto skip = address - before.address;
    if (skip < before.bytes)
      return Piece{.address = address, .bytes = before.bytes - skip, .image = before.image + skip};
  }
  return it != pieces_.end() ? std::optional(it->second) : std::nullopt;
}

}  // namespace transship::memory
