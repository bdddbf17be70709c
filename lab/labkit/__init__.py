"""The lab: hosts made of namespaces, joined by a router."""
