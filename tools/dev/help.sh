# shellcheck shell=bash
# Help texts of ./dev. Sourced by it; works for any user on any system.

help_all() {
  cat <<'TEXT'
./dev VERB [OPTIONS]    builds, tests and runs Transship inside a cached Debian 13 root

  setup    make the Debian 13 root (every other verb does it when needed)
  build    compile
  test     unit and stress tests, layer check, tests of the tools, the model, integration tests; ends with the totals
  model    the model of a move's decision, every state of it
  demo     a Redis in use moves between two lab hosts and back
  faults   moves while daemons die, links break and disks fill up; nothing may get lost
  matrix   applications as Debian packages them move there and back under load; a table
  bench    moves compared with what other tools do; speed of our own parts
  lab      the lab of hosts in namespaces: up, down, exec, status, shape
  shell    a shell inside the root, or one command
  fmt      clang-format
  lint     clang-tidy, layer check, shellcheck, Python syntax
  asan     unit and stress tests with address and undefined-behaviour sanitizers
  tsan     unit and stress tests with the thread sanitizer
  fuzz     random bytes for whatever reads what others wrote
  clean    remove what was built; with --all the caches too

./dev VERB --help tells more. Needs root on Debian 12, Debian 13 or Ubuntu 24.04.
Exit codes: that of the command that ran inside; 2 wrong usage; 4 refused before anything was changed.
Variables: TRANSSHIP_CACHE, TRANSSHIP_MIRROR, TRANSSHIP_JOBS, http_proxy (see the head of this script).
TEXT
}

help_verb() {
  case $1 in
    setup) cat <<'TEXT' ;;
./dev setup    makes the Debian 13 root and nothing else

Installs mmdebstrap and Debian's archive keyring on this machine if they are missing, makes a Debian 13 root with
compilers, libraries, Podman, runc, crun, Redis and CRIU 4.2 or newer (CRIU and its libraries from Debian unstable, by a
pin; nothing else from there) and keeps it in $TRANSSHIP_CACHE (/var/cache/transship). Does nothing when it is there.
TEXT
    build) cat <<'TEXT' ;;
./dev build [--preset NAME] [TARGET...]    compiles; default preset release

Presets: release, debug, clang, asan, tsan, fuzz. Results are in build/NAME; programs in build/NAME/bin.
TEXT
    test) cat <<'TEXT' ;;
./dev test [--preset NAME] [--unit] [-k EXPR] [FILE...]    builds and runs the tests; default preset release

  --unit     only unit tests, the tests of the tools and the model, no stress tests and no integration tests
  -k EXPR    only tests whose name matches: a pytest expression, and for unit tests a ctest regular expression
  FILE...    only these pytest files or directories (no unit tests)

Prints every skipped test with its reason. The last line is `N passed, N failed, N skipped`. Fails if a test fails.
TEXT
    model) cat <<'TEXT' ;;
./dev model [--json FILE] [NAME...]    checks model/handover.pml with spin, every state of it (docs/model.md)
./dev model --list                     the names of all checks
./dev model --show NAME                the run that breaks the property of that check, step by step

One line for each check: variant, property, states, transitions, depth, memory, processor time, result. Fails when a property
that must hold is violated, or a deliberate mistake is not found. NAME: only checks with this in their name.
TEXT
    demo) cat <<'TEXT' ;;
./dev demo [ARGS...]    builds, then runs lab/demo.py ARGS (./dev demo -- --help shows its own options)
TEXT
    faults) cat <<'TEXT' ;;
./dev faults [--runs N] [--seed S] [--only N] [--every-point] [--json FILE] [--preset NAME]

Builds, then moves a container under load to and fro between two lab hosts while things fail at random: daemons, CRIU, runc,
the runtime at the gate, the pager and the engine's monitor are killed, the link is cut (also one way), delayed, disks fill up,
a daemon stands still for longer than every limit, its clock jumps, Podman's services are started anew. What fails, where and
when is drawn from the seed. After each run exactly one copy runs, every acknowledged write is there, and nothing is left.

A failing run says where its logs are and how to run it again. The last line is one JSON object with the totals. --every-point goes
through all fault points of docs/failure-model.md instead. ./dev faults -- --help shows all options.
TEXT
    matrix) cat <<'TEXT' ;;
./dev matrix [--app NAME]... [--moves N] [--json FILE] [--docs]

Builds, then moves real applications (databases, servers, streams, sessions, a job that only computes) to and fro between two
lab hosts, N times there and back (5), while clients of theirs check what they get. Prints a table: verdict, silence that the
clients saw, bytes, what was checked; --docs writes it into docs/applications.md. Fails when a row fails. Images are made of
Debian packages when they are needed first. ./dev matrix -- --help shows all options and the applications.
TEXT
    bench) cat <<'TEXT' ;;
./dev bench move [OPTIONS]     builds, then moves a Redis in use with Transship, Podman's archive, runc + rsync and CRIU's
                               post-copy in turns over the same link, and prints a table (./dev bench move --help)
./dev bench postgres [OPTIONS] the same with a PostgreSQL whose shared buffers are full, and Podman's archive
./dev bench network [OPTIONS]  what clients notice when the tunnel leads to the container: silence at several delays, datagrams,
                               HTTP transfers, throughput beside plain WireGuard (./dev bench network --help)
./dev bench volumes [OPTIONS]  what volumes cost: a tree against rsync -a, at first and after 1 % has changed; the gap with a large
                               volume that is written to, and the bytes (./dev bench volumes --help)
./dev bench micro [FILTER]     builds and runs memory_bench, state_bench, tree_bench (Google Benchmark programs) and wire_bench.
                               FILTER is a regular expression: only those parts, and wire_bench if its name matches

All of it is the release build. Nothing else should be busy on the machine.
TEXT
    lab) cat <<'TEXT' ;;
./dev lab up|down|exec|status|shape ...    the lab; ./dev lab VERB --help tells more

Hosts are namespaces with their own root, network and container storage. State is in $TRANSSHIP_CACHE/lab.
TEXT
    shell) cat <<'TEXT' ;;
./dev shell [COMMAND...]    a shell inside the root, in /src, or one command

Changes outside /src vanish when it ends.
TEXT
    fmt) cat <<'TEXT' ;;
./dev fmt [--check] [FILE...]    formats our C++ (src, fuzz, lab, tests); --check only reports
TEXT
    lint) cat <<'TEXT' ;;
./dev lint [FILE...]    clang-tidy, layer check, shellcheck, Python syntax; with FILE... only clang-tidy on those

clang-tidy reads .cc files and the headers of ours that they include. Files that were clean and did not change since are
not read again.
TEXT
    asan) cat <<'TEXT' ;;
./dev asan [--moves] [-k EXPR]    builds with address and undefined-behaviour sanitizers and runs the unit and stress tests

  --moves    instead of these: containers moved in every mode by daemons, pagers and runtimes that have them in them
  -k EXPR    only tests whose name matches; with --moves a pytest expression, else a ctest regular expression
TEXT
    tsan) cat <<'TEXT' ;;
./dev tsan [--moves] [-k EXPR]    builds with the thread sanitizer and runs the unit and stress tests

  --moves    instead of these: containers moved in every mode by daemons, pagers and runtimes that have it in them.
             Later arrivals on a host may find no address space for their page store: the sanitizer leaves 6 TiB, it maps 4
  -k EXPR    only tests whose name matches; with --moves a pytest expression, else a ctest regular expression
TEXT
    fuzz) cat <<'TEXT' ;;
./dev fuzz [--seconds N] [--jobs N] [TARGET...]    builds the fuzz targets with libFuzzer and runs each of them, or those
                                                   that are named, for N seconds of CPU time each (60), one at a
                                                   time unless --jobs says more
./dev fuzz --merge [TARGET...]                     puts the smallest inputs that reach most into fuzz/corpus

An input that ends a target, leaks or takes longer than ten minutes is kept in build/fuzz/findings; then the exit code is 1.
What is new is kept in build/fuzz/corpus for the next run. docs/fuzzing.md has the targets and what to do with a finding.
TEXT
    clean) cat <<'TEXT' ;;
./dev clean [--all]    removes build/; with --all also the cached roots, compiler cache, lab state and images

--all refuses while a lab or another ./dev command uses the cache.
TEXT
  esac
}
