// How the judges write their rows. Only plan/*.cc include this.
#pragma once
#include <string>
#include <utility>
#include <vector>

#include "plan/plan.h"

namespace transship::plan {

class Rows {
 public:
  void ok(std::string check, std::string found) { add(std::move(check), Verdict::kOk, std::move(found), {}); }
  void warn(std::string check, std::string found, std::string remedy) {
    add(std::move(check), Verdict::kWarn, std::move(found), std::move(remedy));
  }
  void block(std::string check, std::string found, std::string remedy) {
    add(std::move(check), Verdict::kBlock, std::move(found), std::move(remedy));
  }
  void add(std::string check, Verdict verdict, std::string found, std::string remedy) {
    rows_.push_back({std::move(check), verdict, std::move(found), std::move(remedy)});
  }
  void add(Row row) { rows_.push_back(std::move(row)); }
  std::vector<Row> take() { return std::move(rows_); }

 private:
  std::vector<Row> rows_;
};

// What the engine says about the container.
void judge_container(const ContainerSide& container, const Abilities& abilities, Rows& rows);
// What its processes use.
void judge_tasks(const TaskFindings& tasks, const std::string& engine, const Abilities& abilities, Rows& rows);
// The source by itself.
void judge_source(const NodeFacts& source, Rows& rows);
// The link, and whether the two hosts fit each other.
void judge_hosts(const PlanInput& input, Rows& rows);
// Memory, space, load; what is predicted to be needed against what is there.
void judge_room(const PlanInput& input, const Prediction& prediction, Rows& rows);
// What becomes of clients when it gets another address.
void judge_new_address(const PlanInput& input, Rows& rows);
// Names, ports, addresses on the destination, in its own words; and what follows for clients.
void judge_place(const PlanInput& input, Rows& rows);

}  // namespace transship::plan
