// Names of containers as text for people.
#pragma once
#include "cli/terminal.h"
#include "proto/local.pb.h"

namespace transship::cli {

void print_names(const Screen& screen, const local::NamesReply& reply);
// After `names setup` or `names remove`: what asks the server now.
void print_resolver(const Screen& screen, const local::NamesReply& reply);
// "dnsmasq on 169.254.185.53 for *.transship, asked by this host (in /etc/resolv.conf)"
std::string names_sentence(const local::NamesState& state);

}  // namespace transship::cli
