#include "state/sqlite.h"

#include <sys/stat.h>

#include "base/fd.h"

namespace transship::state {

Result<Database> Database::open(const std::string& path) {
  // Made by us first: SQLite would take 0644 and the umask.
  {
    TS_TRY_ASSIGN(Fd file, open_file(path, O_RDWR | O_CREAT | O_NOFOLLOW, 0600));
    if (::fchmod(file.get(), 0600) != 0) return fail_errno(errno, "make {} private", path);
  }
  Database d;
  d.path_ = path;
  sqlite3* raw = nullptr;
  int rc =
      sqlite3_open_v2(path.c_str(), &raw, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_NOFOLLOW, nullptr);
  d.db_.reset(raw);
  if (raw == nullptr) return fail(Errc::kNoSpace, "open {}: no memory", path);
  if (rc != SQLITE_OK) return d.failure(rc, "open");
  (void)sqlite3_extended_result_codes(raw, 1);
  // Somebody who looks into the file with a tool of his own may hold it for a moment.
  (void)sqlite3_busy_timeout(raw, 1000);
  return d;
}

Result<> Database::run(const char* sql) {
  int rc = sqlite3_exec(db_.get(), sql, nullptr, nullptr, nullptr);
  if (rc != SQLITE_OK) return failure(rc, "use");
  return {};
}

std::unexpected<Error> Database::failure(int code, std::string_view doing) const {
  auto text = fmt::format("{} in {}: {}", doing, path_, sqlite3_errmsg(db_.get()));
  switch (code & 0xFF) {
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
      return std::unexpected(Error(Errc::kUnavailable, text + " (another process has it open)")
                                 .with_remedy("is another transshipd running? systemctl status transshipd"));
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
      return std::unexpected(Error(Errc::kCorrupt, std::move(text))
                                 .with_remedy(fmt::format(
                                     "keep a copy of {0}; `sqlite3 {0} .recover` may save the peers and moves. Without "
                                     "the file this node starts with none",
                                     path_)));
    case SQLITE_FULL:
      return std::unexpected(Error(Errc::kNoSpace, std::move(text)).with_remedy("free space on that file system"));
    case SQLITE_READONLY:
    case SQLITE_PERM:
    case SQLITE_CANTOPEN: return fail(Errc::kRefused, "{}", text);
    default: return fail(Errc::kUnavailable, "{}", text);
  }
}

Result<Statement> Statement::prepare(Database& db, const char* sql, std::string_view doing) {
  sqlite3_stmt* raw = nullptr;
  int rc = sqlite3_prepare_v2(db.get(), sql, -1, &raw, nullptr);
  if (rc != SQLITE_OK) return db.failure(rc, doing);
  Statement s;
  s.db_ = &db;
  s.doing_ = doing;
  s.statement_.reset(raw);
  return s;
}

Statement& Statement::bind(std::string_view text) {
  int rc = sqlite3_bind_text64(statement_.get(), ++bound_, text.data(), text.size(), SQLITE_TRANSIENT, SQLITE_UTF8);
  if (rc != SQLITE_OK) bind_error_ = rc;
  return *this;
}

Statement& Statement::bind(int64_t number) {
  int rc = sqlite3_bind_int64(statement_.get(), ++bound_, number);
  if (rc != SQLITE_OK) bind_error_ = rc;
  return *this;
}

Statement& Statement::bind_blob(std::string_view bytes) {
  // A null pointer would make it NULL.
  int rc = bytes.empty()
               ? sqlite3_bind_zeroblob(statement_.get(), ++bound_, 0)
               : sqlite3_bind_blob64(statement_.get(), ++bound_, bytes.data(), bytes.size(), SQLITE_TRANSIENT);
  if (rc != SQLITE_OK) bind_error_ = rc;
  return *this;
}

Result<bool> Statement::next() {
  if (bind_error_ != SQLITE_OK) return db_->failure(bind_error_, doing_);
  int rc = sqlite3_step(statement_.get());
  if (rc == SQLITE_ROW) return true;
  if (rc == SQLITE_DONE) return false;
  return db_->failure(rc, doing_);
}

Result<> Statement::run() {
  TS_TRY_ASSIGN(bool row, next());
  TS_CHECK(!row, "a statement that should have no rows: {}", doing_);
  return {};
}

std::string Statement::text(int column) const {
  const auto* p = reinterpret_cast<const char*>(sqlite3_column_text(statement_.get(), column));
  if (p == nullptr) return {};
  return {p, static_cast<size_t>(sqlite3_column_bytes(statement_.get(), column))};
}

std::string Statement::blob(int column) const {
  const auto* p = static_cast<const char*>(sqlite3_column_blob(statement_.get(), column));
  if (p == nullptr) return {};
  return {p, static_cast<size_t>(sqlite3_column_bytes(statement_.get(), column))};
}

Result<Transaction> Transaction::begin(Database& db) {
  TS_TRY(db.run("BEGIN IMMEDIATE"));
  return Transaction(db);
}

Transaction::~Transaction() {
  if (db_ != nullptr) (void)db_->run("ROLLBACK");
}

Result<> Transaction::commit() {
  TS_TRY(db_->run("COMMIT"));
  db_ = nullptr;
  return {};
}

}  // namespace transship::state
