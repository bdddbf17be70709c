#include "node/exposed.h"

namespace transship::node {
namespace {

local::Exposure to_proto(const migrate::Exposer& exposer, const migrate::Exposure& e, const std::string& state) {
  local::Exposure out;
  out.set_container(e.name);
  out.set_node(exposer.node_with(e.entry));
  out.set_port(e.port);
  out.set_protocol(e.protocol);
  out.set_container_port(e.container_port);
  out.set_home(exposer.node_with(e.home));
  out.set_place(exposer.place_of(e));
  for (const auto& a : e.addresses) out.add_addresses(a.address.text());
  out.set_state(state);
  out.set_health(e.health);
  return out;
}

}  // namespace

Result<local::ExposeReply> expose(migrate::Exposer& exposer, const local::ExposeRequest& request) {
  migrate::ExposeOrder order;
  order.container = request.container();
  order.container_port = request.container_port();
  order.protocol = request.protocol();
  order.node = request.node();
  order.port = request.port();
  order.health = request.health();
  TS_TRY_ASSIGN(auto e, exposer.expose(order));
  local::ExposeReply reply;
  *reply.mutable_exposure() = to_proto(exposer, e, exposer.state_of(e));
  return reply;
}

Result<local::ExposeRemoveReply> end_exposed(migrate::Exposer& exposer, const local::ExposeRemoveRequest& request) {
  migrate::EndOrder order;
  order.protocol = request.protocol();
  order.node = request.node();
  order.port = request.port();
  order.container = request.container();
  TS_TRY_ASSIGN(bool draining, exposer.end(order));
  local::ExposeRemoveReply reply;
  reply.set_draining(draining);
  return reply;
}

Result<local::ExposuresReply> list_exposures(migrate::Exposer& exposer) {
  local::ExposuresReply reply;
  for (const auto& [e, state] : exposer.list()) *reply.add_exposures() = to_proto(exposer, e, state);
  return reply;
}

}  // namespace transship::node
