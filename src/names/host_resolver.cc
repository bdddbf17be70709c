#include "names/host_resolver.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>

#include "base/cancel.h"
#include "base/text.h"
#include "names/resolv_conf.h"
#include "sys/file.h"
#include "sys/process.h"

namespace transship::names {
namespace {

constexpr size_t kLongestFile = 1U << 20;

// As its stub is called in resolv.conf.
constexpr std::string_view kStubs[] = {"127.0.0.53", "127.0.0.54"};

Result<> resolvectl(std::vector<std::string> words) {
  sys::Command c;
  c.argv = std::move(words);
  c.argv.insert(c.argv.begin(), "resolvectl");
  c.deadline = Deadline::in(milliseconds(10'000));
  TS_TRY(sys::run_ok(c));
  return {};
}

// Nothing: there is no file.
Result<std::string> read(const std::string& file) {
  auto text = sys::read_file(file, kLongestFile);
  if (!text && text.error().code() == Errc::kNotFound) return std::string();
  return text;
}

// The file itself, not a link to it: that stays.
std::string behind_links(const std::string& file) {
  std::error_code error;
  auto target = std::filesystem::weakly_canonical(file, error);
  return error ? file : target.string();
}

}  // namespace

HostResolver::Record HostResolver::read_record() const {
  Record r;
  auto text = sys::read_file(options_.record, 4096);
  if (!text) return r;
  for (const auto& line : split(*text, '\n')) {
    if (line == "file") r.file = true;
    if (line == "made") r.made_file = true;
    if (line == "resolved") r.resolved = true;
    if (line.starts_with("address ")) r.address = line.substr(8);
  }
  return r;
}

Result<> HostResolver::write_record(const Record& r) const {
  std::string text = fmt::format("{}{}{}address {}\n", r.file ? "file\n" : "", r.made_file ? "made\n" : "",
                                 r.resolved ? "resolved\n" : "", r.address);
  return sys::write_file_atomic(options_.record, text);
}

Result<> HostResolver::write(const std::string& text) const {
  auto path = behind_links(options_.file);
  struct stat now{};
  mode_t mode = ::stat(path.c_str(), &now) == 0 ? now.st_mode & 07777U : 0644;
  auto written = sys::write_file_atomic(path, text, mode);
  if (written) return written;
  return std::unexpected(std::move(written).error().with_remedy(
      fmt::format("put the line in yourself, before the others: nameserver {}", options_.address)));
}

// What answers the host's programs decides: systemd-resolved when resolv.conf names it, else the file.
Result<> HostResolver::apply(Record& record) const {
  TS_TRY_ASSIGN(std::string text, read(options_.file));
  bool runs = ::access(options_.resolved_dir.c_str(), F_OK) == 0;
  auto asked = nameservers(text, {options_.address});
  bool stub = std::ranges::any_of(asked, [](const auto& a) { return std::ranges::contains(kStubs, a); });
  if (runs) {
    TS_TRY(resolvectl({"dns", options_.interface, options_.address}));
    TS_TRY(resolvectl({"domain", options_.interface, "~" + options_.domain}));
    TS_TRY(resolvectl({"default-route", options_.interface, "no"}));
    record.resolved = true;
    if (stub) return {};
  }
  if (!record.file) record.made_file = ::access(options_.file.c_str(), F_OK) != 0;
  record.file = true;
  auto wanted = with_nameserver(text, options_.address);
  return wanted == text ? Result<>() : write(wanted);
}

// The record first: what a crash leaves half done is taken out as well.
Result<> HostResolver::set_up() {
  MutexLock lock(mu_);
  Record record = read_record();
  record.address = options_.address;
  Record intended = record;
  if (!record.file) {
    intended.made_file = ::access(options_.file.c_str(), F_OK) != 0;
    intended.file = true;
  }
  TS_TRY(write_record(intended));
  auto done = apply(record);
  if (!done) return std::unexpected(std::move(done).error().context("tell this host's resolver of our nameserver"));
  return write_record(record);
}

Result<> HostResolver::keep() {
  MutexLock lock(mu_);
  Record record = read_record();
  if (!record.file && !record.resolved) return {};
  if (record.resolved && !record.file) {
    // It forgets with the interface; asking is cheaper than telling.
    sys::Command c;
    c.argv = {"resolvectl", "dns", options_.interface};
    c.deadline = Deadline::in(milliseconds(10'000));
    auto now = sys::run(c);
    if (now && now->exit_code == 0 && now->out.contains(options_.address)) return {};
  }
  return apply(record);
}

Result<> HostResolver::remove() {
  MutexLock lock(mu_);
  Record record = read_record();
  // Absent with the interface.
  if (record.resolved) (void)resolvectl({"revert", options_.interface});
  if (record.file) {
    TS_TRY_ASSIGN(std::string text, read(options_.file));
    auto wanted = without_nameserver(text);
    if (record.made_file && wanted.empty())
      (void)::unlink(behind_links(options_.file).c_str());
    else if (wanted != text)
      TS_TRY(write(wanted));
  }
  (void)::unlink(options_.record.c_str());
  return {};
}

std::string HostResolver::status() const {
  MutexLock lock(mu_);
  Record record = read_record();
  std::string text = record.resolved ? "by systemd-resolved" : "";
  if (record.file) text += fmt::format("{}in {}", text.empty() ? "" : ", ", options_.file);
  return text;
}

std::vector<std::string> HostResolver::upstream() const {
  auto text = read(options_.file);
  return text ? nameservers(*text, options_.own_addresses) : std::vector<std::string>();
}

}  // namespace transship::names
