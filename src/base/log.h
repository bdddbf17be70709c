// Log lines of the daemon: one line, key=value. Levels by who reads them: error = what the user asked for did not
// happen; warn = odd but handled; info = phases and the final summary; debug = per round. Never a secret.
#pragma once
#include <spdlog/spdlog.h>

namespace transship {

// Sets up the process-wide logger on stderr. `level`: trace, debug, info, warn, error. Call once, before threads.
void init_logging(const char* level);

}  // namespace transship

#define TS_LOG_DEBUG(...) SPDLOG_DEBUG(__VA_ARGS__)
#define TS_LOG_INFO(...) SPDLOG_INFO(__VA_ARGS__)
#define TS_LOG_WARN(...) SPDLOG_WARN(__VA_ARGS__)
#define TS_LOG_ERROR(...) SPDLOG_ERROR(__VA_ARGS__)
