#include "node/exposed.h"

namespace transship::node {
namespace {

local::Exposure to_proto(const migrate::Exposer& exposer, const migrate::Exposure& e) {
  local::Exposure out;
  out.set_container(e.name);
  out.set_node(exposer.node_with(e.entry));
  out.set_port(e.port);
  out.set_protocol(e.protocol);
  out.set_container_port(e.container_port);
  out.set_home(exposer.node_with(e.home));
  out.set_place(exposer.place_of(e));
  for (const auto& a : e.addresses) out.add_addresses(a.address.text());
  out.set_state(e.ending ? "ending" : e.entry_knows ? "open" : "waiting");
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
  TS_TRY_ASSIGN(auto e, exposer.expose(order));
  local::ExposeReply reply;
  *reply.mutable_exposure() = to_proto(exposer, e);
  return reply;
}

Result<local::ExposuresReply> list_exposures(const migrate::Exposer& exposer) {
  local::ExposuresReply reply;
  for (const auto& e : exposer.all()) *reply.add_exposures() = to_proto(exposer, e);
  return reply;
}

}  // namespace transship::node
