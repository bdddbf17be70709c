#include "base/log.h"

#include <spdlog/sinks/stdout_sinks.h>

namespace transship {

void init_logging(const char* level) {
  auto logger = spdlog::stderr_logger_mt("transship");
  logger->set_pattern("%Y-%m-%dT%H:%M:%S.%e %l %v");
  logger->set_level(spdlog::level::from_str(level));
  logger->flush_on(spdlog::level::info);
  spdlog::set_default_logger(std::move(logger));
}

}  // namespace transship
