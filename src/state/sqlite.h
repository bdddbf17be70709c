// SQLite as values: a connection, and statements that are bound, stepped and read. For state/'s own sources only.
#pragma once
#include <sqlite3.h>

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "base/result.h"

namespace transship::state {

// One thread at a time.
class Database {
 public:
  static Result<Database> open(const std::string& path);
  // A script without results.
  Result<> run(const char* sql);
  // Rows that the last statement changed.
  int changed() const { return sqlite3_changes(db_.get()); }
  sqlite3* get() const { return db_.get(); }
  const std::string& path() const { return path_; }
  // The connection's last error. `doing`: "store the peer azure".
  std::unexpected<Error> failure(int code, std::string_view doing) const;

 private:
  struct Close {
    void operator()(sqlite3* db) const { sqlite3_close_v2(db); }
  };
  std::string path_;
  std::unique_ptr<sqlite3, Close> db_;
};

// A prepared statement. Values are bound in order; columns are read by number after next() gave true.
class Statement {
 public:
  static Result<Statement> prepare(Database& db, const char* sql, std::string_view doing);
  Statement& bind(std::string_view text);
  Statement& bind(int64_t number);
  Statement& bind_blob(std::string_view bytes);
  // False when there are no more rows.
  Result<bool> next();
  // For statements without rows.
  Result<> run();
  std::string text(int column) const;
  std::string blob(int column) const;
  int64_t number(int column) const { return sqlite3_column_int64(statement_.get(), column); }

 private:
  struct Finalize {
    void operator()(sqlite3_stmt* s) const { sqlite3_finalize(s); }
  };
  Database* db_ = nullptr;
  std::string doing_;
  std::unique_ptr<sqlite3_stmt, Finalize> statement_;
  int bound_ = 0;
  int bind_error_ = SQLITE_OK;
};

// Rolled back unless commit() was called and succeeded.
class Transaction {
 public:
  static Result<Transaction> begin(Database& db);
  Transaction(Transaction&& other) noexcept : db_(std::exchange(other.db_, nullptr)) {}
  Transaction& operator=(Transaction&&) = delete;
  ~Transaction();
  Result<> commit();

 private:
  explicit Transaction(Database& db) : db_(&db) {}
  Database* db_;
};

}  // namespace transship::state
