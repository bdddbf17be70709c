#include "cli/names_render.h"

#include "base/text.h"
#include "cli/table.h"
#include "cli/text_render.h"

namespace transship::cli {
namespace {

// Whole, so that it can be copied: with the node's name where the short one is another container's.
std::string dns_name(const local::ContainerName& name, const std::string& domain) {
  if (name.bare()) return fmt::format("{}.{}", name.name(), domain);
  return name.served() ? fmt::format("{}.{}.{}", name.name(), name.node(), domain) : std::string("-");
}

}  // namespace

std::string names_sentence(const local::NamesState& state) {
  std::string text = printable(state.server());
  if (text.empty()) return text;  // an older daemon
  if (state.server().starts_with("none"))
    return state.remedy().empty() ? text : text + "; " + printable(state.remedy());
  text += fmt::format(" for *.{}, ", printable(state.domain()));
  return text + (state.resolver().empty() ? "not asked by this host (transship names setup)"
                                          : fmt::format("asked by this host ({})", printable(state.resolver())));
}

void print_names(const Screen& screen, const local::NamesReply& reply) {
  Table table({{"NAME"}, {"CONTAINER", Fit::kCutEnd, 8}, {"ADDRESSES"}, {"NODE"}, {"SINCE"}}, {1});
  for (const local::ContainerName& name : reply.names()) {
    std::vector<std::string> addresses(name.addresses().begin(), name.addresses().end());
    table.row({{printable(dns_name(name, reply.state().domain()))},
               {printable(name.container())},
               {printable(join(addresses, " "))},
               {printable(name.node())},
               {format_time(name.since_unix_ms())}});
    if (!name.note().empty()) table.note(printable(name.note()), 0);
  }
  if (reply.names_size() > 0)
    table.print(screen);
  else
    screen.line("no container runs on this node or its peers");
  screen.line(names_sentence(reply.state()));
}

void print_resolver(const Screen& screen, const local::NamesReply& reply) {
  screen.line(names_sentence(reply.state()));
}

}  // namespace transship::cli
