"""What there is of a lab."""

from . import cgroup, lifecycle, namespace, routes, state
from .errors import LabError


def collect(lab: str) -> dict:
    """Everything `status` shows, as plain data; `state` is "none", "starting", "up", "broken" or "leftovers"."""
    others = sorted(({*state.known_labs(), *cgroup.labs_with_cgroups()}) - {lab})
    facts = {"name": lab, "state": "none", "hosts": [], "routes": [], "leftovers": [], "other_labs": others}
    lab_state = state.load(lab)
    if lab_state is None:
        facts["leftovers"] = lifecycle.leftovers(lab)
        facts["state"] = "leftovers" if facts["leftovers"] else "none"
        return facts
    facts["hosts"] = [host_facts(lab_state, host) for host in lab_state["hosts"].values()]
    facts["up_seconds"] = lab_state.get("up_seconds")
    if not all(h["alive"] for h in facts["hosts"]):
        facts["state"] = "broken"
    else:
        facts["state"] = "starting" if facts["up_seconds"] is None else "up"
    try:
        facts["routes"] = routes.listed(lab_state)
    except LabError as e:
        facts["routes_error"] = str(e)
    return facts


def host_facts(lab_state: dict, host: dict) -> dict:
    facts = {key: host[key] for key in ("name", "role", "pid", "cgroup", "address", "address6")}
    facts["alive"] = state.alive(host)
    facts["shape"] = lab_state["shape"].get(host["name"], {})
    facts["services"] = []
    if facts["alive"]:
        try:
            facts["services"] = namespace.ask_init(host, {"op": "list"})["services"]
        except LabError as e:
            facts["services_error"] = str(e)
    return facts


def render(facts: dict) -> str:
    lines = []
    if facts["state"] == "none":
        lines.append("no lab" if facts["name"] == "lab" else f"no lab called {facts['name']!r}")
    elif facts["state"] == "leftovers":
        lines += [f"lab {facts['name']!r} is not up, but this is left of it (`down` removes it):", *facts["leftovers"]]
    else:
        lines += render_lab(facts)
    if facts["other_labs"]:
        lines.append("other labs: " + ", ".join(facts["other_labs"]))
    return "\n".join(lines)


def render_lab(facts: dict) -> list[str]:
    lines = [f"lab {facts['name']!r}: {facts['state']}"]
    for host in facts["hosts"]:
        life = f"pid {host['pid']}" if host["alive"] else "DEAD"
        shape = " ".join(f"{k} {v}" for k, v in host["shape"].items())
        services = " ".join(f"{s['name']}{'' if s['pid'] else '(down)'}" for s in host["services"])
        lines.append(f"  {host['name']:<10} {life:<11} {host['address']:<11} {host['address6']:<14} {services:<24} {shape}".rstrip())
    for route in facts["routes"]:
        via = next((h["name"] for h in facts["hosts"] if route["via"] in (h["address"], h["address6"])), route["via"])
        lines.append(f"  route {route['address']} via {via}")
    if "routes_error" in facts:
        lines.append(f"  routes unknown: {facts['routes_error']}")
    return lines
