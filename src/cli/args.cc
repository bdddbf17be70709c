#include "cli/args.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cctype>
#include <charconv>

#include "base/text.h"
#include "cli/exit_code.h"

namespace transship::cli {
namespace {

constexpr const char* kDefaultSocket = "/run/transship/transshipd.sock";

// What waits in the lanes is sent within a minute and a half at that rate. Slower, the receiving ends would take the
// silence for a dead source.
constexpr double kMinBitRate = 800e3;

constexpr const char* kFooter =
    "Examples:\n"
    "  transship ps                       what runs here, and what of it can move\n"
    "  transship plan redis --to azure    what a move would do, and what keeps it from happening\n"
    "  transship move redis --to azure\n";

std::string with_exit_codes(const char* examples) {
  return std::string(examples) + "\n" + std::string(exit_code_help());
}

CLI::App* sub(CLI::App& parent, const char* name, const char* what, const char* examples) {
  CLI::App* app = parent.add_subcommand(name, what);
  app->footer(with_exit_codes(examples));
  return app;
}

void add_json(CLI::App* app, Arguments& a) {
  app->add_flag("--json", a.json, "JSON lines instead of text, see docs/json.md");
}

// What the daemon will say as well, but here before a connection, and with exit code 2.
std::string check_container(const std::string& text) {
  size_t colon = text.find(':');
  std::string engine = colon == std::string::npos ? "" : text.substr(0, colon);
  std::string name = colon == std::string::npos ? text : text.substr(colon + 1);
  if (!is_plain_name(name) || (colon != std::string::npos && !is_plain_name(engine)))
    return fmt::format("\"{}\" is not a container: give NAME, podman:NAME or runc:ID", text.substr(0, 64));
  return {};
}

std::string check_name(const std::string& text) {
  if (is_plain_name(text)) return {};
  return fmt::format(
      "\"{}\" is not a name: letters, digits, '.', '_' and '-', at most 128, not starting with '.' or '-'",
      text.substr(0, 64));
}

std::string check_rate(const std::string& text) {
  auto rate = parse_bit_rate(text);
  return rate ? std::string() : rate.error().message();
}

// It ends up on ssh's command line, where a leading '-' would be an option.
std::string check_ssh(const std::string& text) {
  bool bad = text.empty() || text[0] == '-' ||
             std::ranges::any_of(text, [](unsigned char c) { return c <= ' ' || c == 0x7f; });
  return bad ? fmt::format("\"{}\" is not user@host", text.substr(0, 64)) : std::string();
}

// As wire::Fingerprint::parse() wants it.
std::string check_fingerprint(const std::string& text) {
  constexpr std::string_view kPrefix = "SHA256:";
  constexpr size_t kDigits = 43;
  bool good = text.starts_with(kPrefix) && text.size() == kPrefix.size() + kDigits &&
              std::all_of(text.begin() + kPrefix.size(), text.end(),
                          [](unsigned char c) { return std::isalnum(c) != 0 || c == '+' || c == '/'; });
  return good ? std::string()
              : fmt::format("\"{}\" is not a fingerprint: it must be SHA256: and 43 characters of base64",
                            text.substr(0, 64));
}

std::string check_container_port(const std::string& text) {
  auto port = parse_container_port(text);
  return port ? std::string() : port.error().message();
}
std::string check_entry(const std::string& text) {
  auto entry = parse_entry(text);
  return entry ? std::string() : entry.error().message();
}
// The daemon says exactly what may be in it.
std::string check_health(const std::string& text) {
  bool good = text.starts_with('/') && std::ranges::all_of(text, [](unsigned char c) { return c > ' ' && c < 0x7f; });
  return good ? std::string() : fmt::format("\"{}\" is not a path: it begins with /", text.substr(0, 64));
}
std::string check_entry_port(const std::string& text) {
  auto entry = parse_entry_port(text);
  return entry ? std::string() : entry.error().message();
}

CLI::Validator validator(std::string (*check)(const std::string&)) {
  return CLI::Validator([check](std::string& text) { return check(text); }, "", "");
}

struct Parser {
  Arguments a;
  std::string rate;
  std::string port;
  std::string entry;
  CLI::App app{"Moves a running container to another host without its clients noticing.", "transship"};
  std::vector<std::pair<CLI::App*, Command>> commands;

  Parser() {
    app.require_subcommand(1);
    app.fallthrough();
    app.footer(with_exit_codes(kFooter));
    a.socket = kDefaultSocket;
    app.add_option("--socket", a.socket, "Socket of the daemon on this host")
        ->envname("TRANSSHIP_SOCKET")
        ->capture_default_str()
        ->type_name("PATH");
    add_moving();
    add_history();
    add_peer();
    add_expose();
    add_network();
    add_names();
    add_node();
  }

  void add_moving() {
    CLI::App* ps = sub(app, "ps", "List containers, and why those that cannot move cannot",
                       "Examples:\n  transship ps\n  transship ps -a --json | jq 'select(.movable)'\n");
    ps->add_flag("-a,--all", a.all, "Stopped ones as well");
    add_json(ps, a);
    commands.emplace_back(ps, Command::kPs);

    CLI::App* plan =
        sub(app, "plan", "Check whether a move would work, and predict bytes, time and gap",
            "Examples:\n  transship plan redis --to azure\n  transship plan runc:cache1 --to azure --json\n");
    add_target(plan);
    add_new_ip(plan);
    add_json(plan, a);
    commands.emplace_back(plan, Command::kPlan);

    CLI::App* move =
        sub(app, "move", "Move a running container to another node",
            "Ctrl-C cancels: the source runs on, and nothing stays behind. Once more leaves without waiting.\n\n"
            "Examples:\n  transship move redis --to azure\n"
            "  transship move podman:redis --to azure --keep-source --bwlimit 500mbit\n"
            "  id=$(transship move redis --to azure --detach) && transship show \"$id\"\n");
    add_target(move);
    add_new_ip(move);
    move->add_flag("--keep-source", a.keep_source, "Keep the stopped container on the source");
    move->add_flag("-d,--detach", a.detach, "Print the move's ID and return once the destination has reserved");
    move->add_option("--bwlimit", rate, "Send at most that much: 800kbit, 100mbit, 1.5gbit")
        ->type_name("RATE")
        ->check(validator(check_rate));
    add_memory(move);
    CLI::Option* quiet = move->add_flag("-q,--quiet", a.quiet, "Print errors only");
    move->add_flag("-v,--verbose", a.verbose, "Show the checks that are fine, and every part of the time")
        ->excludes(quiet);
    add_json(move, a);
    commands.emplace_back(move, Command::kMove);
  }

  void add_target(CLI::App* command) {
    command->add_option("container", a.name, "NAME when unambiguous, podman:NAME or runc:ID")
        ->required()
        ->type_name("NAME")
        ->check(validator(check_container));
    command->add_option("--to", a.to, "Name of the peer to move it to, see transship peer ls")
        ->required()
        ->type_name("PEER")
        ->check(validator(check_name));
  }

  void add_new_ip(CLI::App* command) {
    command->add_flag("--new-ip", a.new_ip,
                      "It gets an address of the destination's own, where it is at home from then on. Open TCP "
                      "connections are closed; exposed ports lead to it as before");
  }

  void add_memory(CLI::App* move) {
    move->add_option("--mode", a.mode,
                     "pre-copy: memory travels while it runs. post-copy: it runs there at once and its memory follows. "
                     "stop-copy: it stands still until all is there. auto: pre-copy")
        ->type_name("MODE")
        ->check(CLI::IsMember({"auto", "pre-copy", "post-copy", "stop-copy"}))
        ->capture_default_str();
    move->add_option("--max-gap", a.max_gap_ms,
                     "Longest silence in milliseconds; when it cannot be kept the move ends before the freeze "
                     "(not given: 300 is aimed at, and more is a warning)")
        ->type_name("MS")
        ->check(CLI::Range(1, 3'600'000));
    move->add_option("--compress", a.compress, "Memory in transit: auto measures link and CPU")
        ->type_name("HOW")
        ->check(CLI::IsMember({"auto", "none", "lz4", "zstd"}))
        ->capture_default_str();
    move->add_flag("--no-throttle", a.no_throttle, "Never take CPU time away from a container that writes too fast");
    move->add_flag("--allow-post-copy", a.allow_post_copy,
                   "With --mode auto: when pre-copy does not converge the rest follows after the switch");
  }

  void add_history() {
    CLI::App* moves =
        sub(app, "moves", "List moves, newest first", "Examples:\n  transship moves\n  transship moves -n 3\n");
    moves->add_option("-n,--limit", a.limit, "How many")
        ->capture_default_str()
        ->check(CLI::Range(1, 10000))
        ->type_name("N");
    add_json(moves, a);
    commands.emplace_back(moves, Command::kMoves);

    CLI::App* show =
        sub(app, "show", "Show one move: phases, times, bytes, errors", "Examples:\n  transship show 1f6c0a\n");
    add_id(show);
    add_json(show, a);
    commands.emplace_back(show, Command::kShow);

    CLI::App* cancel =
        sub(app, "cancel", "Cancel a move that is not committed yet", "Examples:\n  transship cancel 1f6c0a\n");
    add_id(cancel);
    add_json(cancel, a);
    commands.emplace_back(cancel, Command::kCancel);
    add_resolve();
  }

  void add_resolve() {
    CLI::App* resolve =
        sub(app, "resolve", "Decide a move by hand whose other node is gone for good",
            "A container that waits for a node's decision stands still, and loses nothing. Do this only when that\n"
            "node will not answer any more. The wrong decision loses the container, or runs it twice: what may\n"
            "happen is said first, with the other node's last word, and has to be confirmed.\n\n"
            "With an arbiter whoever is first there has decided, and that holds. Is the arbiter itself gone for good,\n"
            "say the same on both nodes, with --without-arbiter; while it answers that is refused.\n\n"
            "Examples:\n  transship resolve 1f6c0a --commit\n  transship resolve 1f6c0a --abort --yes\n");
    add_id(resolve);
    auto* how = resolve->add_option_group("decision", "One of these");
    how->add_flag("--commit", a.commit, "On the destination: it runs here. On the source: it is the destination's");
    how->add_flag("--abort", "On the destination: it does not run here. On the source: it runs here again");
    how->require_option(1);
    resolve->add_flag("--without-arbiter", a.without_arbiter,
                      "The arbiter of the move is gone for good: do not ask it");
    resolve->add_flag("--yes", a.yes, "Do not ask");
    add_json(resolve, a);
    commands.emplace_back(resolve, Command::kResolve);
  }

  void add_id(CLI::App* command) {
    command->add_option("id", a.name, "ID of the move, see transship moves")
        ->required()
        ->type_name("ID")
        ->check(validator(check_name));
  }

  void add_peer() {
    CLI::App* peer = app.add_subcommand("peer", "Nodes that this one trusts");
    peer->require_subcommand(1);
    peer->footer(with_exit_codes("Examples:\n  transship peer ls\n  transship peer add azure 10.20.0.2\n"));
    CLI::App* add = sub(*peer, "add", "Trust a node: remember its name, address and key",
                        "Without --fingerprint or --ssh it shows both keys and asks.\n\n"
                        "Examples:\n  transship peer add azure 10.20.0.2\n"
                        "  transship peer add azure 10.20.0.2:7601 --fingerprint SHA256:...\n"
                        "  transship peer add azure --ssh root@azure.example.org   (both ways, over your own ssh)\n");
    add_peer_name(add);
    add->add_option("address", a.address, "HOST, HOST:PORT or [IPV6]:PORT")->type_name("ADDRESS");
    CLI::Option* fingerprint =
        add->add_option("--fingerprint", a.fingerprint, "Fingerprint of its key, known from elsewhere; asks nothing")
            ->type_name("FP")
            ->check(validator(check_fingerprint));
    CLI::Option* ssh =
        add->add_option("--ssh", a.ssh, "Exchange keys both ways over ssh; its host key checks stay as you have them")
            ->type_name("USER@HOST")
            ->check(validator(check_ssh))
            ->excludes(fingerprint);
    add->add_option("--own-address", a.own_address, "With --ssh: where the other node reaches this one")
        ->type_name("ADDRESS")
        ->needs(ssh);
    add->add_option("--remote-program", a.remote_program,
                    "With --ssh: how to call transship there, e.g. \"sudo transship\"")
        ->type_name("COMMAND")
        ->needs(ssh)
        ->capture_default_str();
    add_json(add, a);
    commands.emplace_back(add, Command::kPeerAdd);
    add_peer_rest(*peer);
  }

  void add_peer_rest(CLI::App& peer) {
    CLI::App* ls = sub(peer, "ls", "List trusted nodes", "Examples:\n  transship peer ls\n");
    add_json(ls, a);
    commands.emplace_back(ls, Command::kPeerLs);
    CLI::App* rm = sub(peer, "rm", "Trust a node no more", "Examples:\n  transship peer rm azure\n");
    add_peer_name(rm);
    add_json(rm, a);
    commands.emplace_back(rm, Command::kPeerRm);
    CLI::App* check = sub(peer, "check", "Measure round trip, bandwidth and clock; show versions",
                          "Examples:\n  transship peer check azure\n");
    add_peer_name(check);
    add_json(check, a);
    commands.emplace_back(check, Command::kPeerCheck);
  }

  void add_peer_name(CLI::App* command) {
    command->add_option("name", a.name, "Name of the peer")
        ->required()
        ->type_name("NAME")
        ->check(validator(check_name));
  }

  void add_expose() {
    CLI::App* expose =
        sub(app, "expose", "Lead a port of a node to a container, wherever it moves",
            "Clients connect to NODE:PORT; a move changes nothing for them, open connections included.\n"
            "With /http several containers may be behind one NODE:PORT; requests go to those that answer.\n\n"
            "Examples:\n  transship expose redis 6379 --on aws\n  transship expose dns 53/udp --on azure:5353\n"
            "  transship expose web1 8080/http --on aws:80 --health /ready\n"
            "  transship expose ls\n  transship expose rm aws:6379\n");
    expose->require_subcommand(0, 1);
    expose->add_option("container", a.name, "NAME when unambiguous, podman:NAME or runc:ID")
        ->type_name("NAME")
        ->check(validator(check_container));
    expose->add_option("port", port, "Port of the container; with /http the entry speaks HTTP, and may have several")
        ->type_name("PORT[/tcp|udp|http]")
        ->check(validator(check_container_port));
    expose->add_option("--on", entry, "The entry: this node or a peer; without a port the container's")
        ->type_name("NODE[:PORT]")
        ->check(validator(check_entry));
    expose->add_option("--health", a.health, "With /http: GET this path tells whether it can take requests")
        ->type_name("PATH")
        ->check(validator(check_health));
    add_json(expose, a);
    commands.emplace_back(expose, Command::kExpose);
    CLI::App* ls =
        sub(*expose, "ls", "List exposed ports: those of this node's containers, and this node's that lead to others",
            "Examples:\n  transship expose ls --json\n");
    add_json(ls, a);
    commands.emplace_back(ls, Command::kExposeLs);
    CLI::App* rm = sub(*expose, "rm", "Expose a port no more: on the entry, or where the container is at home",
                       "Of http, requests that run are waited for, 30 s at most.\n\n"
                       "Examples:\n  transship expose rm azure:5353/udp\n  transship expose rm aws:80/http web1\n");
    rm->add_option("entry", entry, "As transship expose ls shows it")
        ->required()
        ->type_name("NODE:PORT[/udp|http]")
        ->check(validator(check_entry_port));
    rm->add_option("container", a.name, "With /http: only this one, the others behind the entry stay")
        ->type_name("NAME")
        ->check(validator(check_container));
    add_json(rm, a);
    commands.emplace_back(rm, Command::kExposeRm);
  }

  void add_network() {
    CLI::App* network = app.add_subcommand("network", "Ways of moved containers");
    network->require_subcommand(1);
    network->footer(with_exit_codes("Examples:\n  transship network check\n"));
    CLI::App* check = sub(*network, "check", "Compare routes and rules of moved containers with what should be there",
                          "Examples:\n  transship network check --repair\n");
    check->add_flag("--repair", a.repair, "Put right what differs");
    add_json(check, a);
    commands.emplace_back(check, Command::kNetworkCheck);
  }

  void add_names() {
    CLI::App* names = sub(app, "names", "Names of containers in DNS",
                          "Examples:\n  transship names\n  transship names setup && getent hosts redis.transship\n");
    names->require_subcommand(0, 1);
    add_json(names, a);
    commands.emplace_back(names, Command::kNames);
    auto add = [&](const char* name, const char* what, Command command) {
      CLI::App* one = sub(*names, name, what, fmt::format("Examples:\n  transship names {}\n", name).c_str());
      add_json(one, a);
      commands.emplace_back(one, command);
    };
    add("ls", "List the names that this node knows", Command::kNames);
    add("setup", "Let this host's resolver ask our DNS server", Command::kNamesSetup);
    add("remove", "Put this host's resolver back as it was", Command::kNamesRemove);
  }

  void add_node() {
    CLI::App* node = app.add_subcommand("node", "This node");
    node->require_subcommand(1);
    node->footer(with_exit_codes("Examples:\n  transship node info\n"));
    CLI::App* info =
        sub(*node, "info", "Show key, versions and free resources", "Examples:\n  transship node info --json\n");
    add_json(info, a);
    commands.emplace_back(info, Command::kNodeInfo);
    CLI::App* version =
        sub(app, "version", "Show versions of this program and of the daemon", "Examples:\n  transship version\n");
    add_json(version, a);
    commands.emplace_back(version, Command::kVersion);
  }

  // The library only misses a command when the word in its place is none.
  std::string unknown_command() const {
    auto words = app.remaining(true);
    bool found = std::ranges::any_of(commands, [](const auto& command) { return command.first->parsed(); });
    return found || words.empty() ? std::string() : fmt::format("there is no command \"{}\"", words[0].substr(0, 64));
  }

  // What the library cannot say about pairs of options.
  std::string contradiction() const {
    if (a.command == Command::kPeerAdd && a.address.empty() && a.ssh.empty())
      return "peer add: give ADDRESS, or --ssh USER@HOST";
    if (a.command == Command::kExpose && (a.name.empty() || port.empty() || entry.empty()))
      return "expose: give NAME PORT --on NODE[:PORT]";
    if (a.command == Command::kExpose && !a.health.empty() && !port.ends_with("/http"))
      return "expose: --health is for PORT/http";
    if (a.command == Command::kExposeRm && !a.name.empty() && !entry.ends_with("/http"))
      return "expose rm: NAME is for NODE:PORT/http";
    if (a.command == Command::kPeerAdd && !a.ssh.empty() && a.remote_program.empty())
      return "peer add: --remote-program is empty";
    return {};
  }
};

Stop wrong_use(const std::string& what) {
  return Stop{exit_code(Outcome::kUsage), "", what + "\nRun with --help for more information.\n"};
}

}  // namespace

Result<uint64_t> parse_bit_rate(const std::string& text) {
  std::string lower = text;
  std::ranges::transform(lower, lower.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  if (lower.ends_with("/s")) lower.resize(lower.size() - 2);
  double number = 0;
  auto [end, error] = std::from_chars(lower.data(), lower.data() + lower.size(), number, std::chars_format::fixed);
  std::string_view unit(end, lower.data() + lower.size());
  double factor = unit == "kbit" ? 1e3 : unit == "mbit" ? 1e6 : unit == "gbit" ? 1e9 : 0;
  double bits = number * factor;
  // Above that it is a typing error.
  if (error != std::errc() || factor == 0 || !(bits > 0) || bits > 1e13)
    return fail(Errc::kInvalidArgument, "\"{}\" is not a rate: give for example 800kbit, 100mbit or 1.5gbit",
                text.substr(0, 64));
  if (bits < kMinBitRate)
    return fail(Errc::kInvalidArgument, "\"{}\" is too slow for a move to end: give 800kbit or more",
                text.substr(0, 64));
  return static_cast<uint64_t>(bits);
}

std::variant<Arguments, Stop> parse_arguments(const std::vector<std::string>& args) {
  Parser parser;
  // The library takes them from the end.
  std::vector<std::string> reversed(args.rbegin(), args.rend());
  try {
    parser.app.parse(reversed);
  } catch (const CLI::ParseError& e) {
    std::ostringstream out;
    std::ostringstream err;
    int code = parser.app.exit(e, out, err);
    if (std::string unknown = parser.unknown_command(); code != 0 && !unknown.empty()) return wrong_use(unknown);
    return Stop{code == 0 ? 0 : exit_code(Outcome::kUsage), out.str(), err.str()};
  }
  for (auto [app, command] : parser.commands)
    if (app->parsed()) parser.a.command = command;
  if (std::string wrong = parser.contradiction(); !wrong.empty()) return wrong_use(wrong);
  if (!parser.port.empty()) parser.a.container_port = parse_container_port(parser.port).value_or(PortOfContainer{});
  if (parser.a.command == Command::kExpose) parser.a.entry = parse_entry(parser.entry).value_or(EntryPoint{});
  if (parser.a.command == Command::kExposeRm) parser.a.entry = parse_entry_port(parser.entry).value_or(EntryPoint{});
  if (!parser.rate.empty()) parser.a.max_bits_per_second = parse_bit_rate(parser.rate).value_or(0);
  return parser.a;
}

}  // namespace transship::cli
