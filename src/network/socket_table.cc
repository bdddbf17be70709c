#include "network/socket_table.h"

#include <utility>

#include "base/text.h"
#include "sys/file.h"

namespace transship::network {

Result<> each_socket(const std::string& path, size_t fields,
                     const std::function<Result<>(const std::vector<std::string>& words)>& work) {
  auto text = sys::read_file(path, 256U << 20);
  if (!text && text.error().code() == Errc::kNotFound && path.ends_with('6')) return {};
  if (!text) return std::unexpected(std::move(text).error());
  bool heading = true;
  for (const auto& line : split(*text, '\n')) {
    if (std::exchange(heading, false)) continue;
    std::vector<std::string> words;
    for (auto& word : split(line, ' '))
      if (!word.empty() && words.size() < fields) words.push_back(std::move(word));
    if (words.size() == fields) TS_TRY(work(words));
  }
  return {};
}

}  // namespace transship::network
