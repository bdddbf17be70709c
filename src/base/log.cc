#include "base/log.h"

#include <spdlog/pattern_formatter.h>
#include <spdlog/sinks/stdout_sinks.h>

namespace transship {
namespace {

// Text from peers, engines and programs is in messages: it stays one line, and tells no terminal what to do.
class OneLine : public spdlog::custom_flag_formatter {
 public:
  void format(const spdlog::details::log_msg& message, const std::tm&, spdlog::memory_buf_t& to) override {
    for (char c : message.payload) {
      bool blank = c == '\n' || c == '\t';
      bool control = static_cast<unsigned char>(c) < 0x20 || c == 0x7f;
      to.push_back(blank ? ' ' : control ? '?' : c);
    }
  }
  std::unique_ptr<custom_flag_formatter> clone() const override { return std::make_unique<OneLine>(); }
};

}  // namespace

void init_logging(const char* level) {
  auto logger = spdlog::stderr_logger_mt("transship");
  auto formatter = std::make_unique<spdlog::pattern_formatter>();
  formatter->add_flag<OneLine>('*').set_pattern("%Y-%m-%dT%H:%M:%S.%e %l %*");
  logger->set_formatter(std::move(formatter));
  logger->set_level(spdlog::level::from_str(level));
  logger->flush_on(spdlog::level::info);
  spdlog::set_default_logger(std::move(logger));
}

}  // namespace transship
