// Exposed ports as the operator sees them.
#pragma once
#include "migrate/exposer.h"
#include "proto/local.pb.h"

namespace transship::node {

Result<local::ExposeReply> expose(migrate::Exposer& exposer, const local::ExposeRequest& request);
Result<local::ExposeRemoveReply> end_exposed(migrate::Exposer& exposer, const local::ExposeRemoveRequest& request);
Result<local::ExposuresReply> list_exposures(migrate::Exposer& exposer);

}  // namespace transship::node
