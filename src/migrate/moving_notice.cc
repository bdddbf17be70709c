#include "migrate/moving_notice.h"

namespace transship::migrate {
namespace {

// Whoever is told forgets it after a minute (kPauseLimit).
constexpr milliseconds kAgainEvery{20'000};

}  // namespace

MovingNotice::MovingNotice(MovingListener& listener, network::CutoverFacts facts) : ended_(Cancel::create().value()) {
  thread_ = Thread("moving", [this, &listener, facts = std::move(facts)] {
    do {
      listener.moving(facts, false);
    } while (sleep_for(kAgainEvery, ended_));
    listener.moving(facts, true);
  });
}

void MovingNotice::end() { ended_.cancel("it runs again"); }

MovingNotice::~MovingNotice() {
  end();
  thread_.join();
}

}  // namespace transship::migrate
