// What PodmanEngine makes for a container that is on its way here, and how it is taken back.
#include <algorithm>
#include <filesystem>

#include "base/log.h"
#include "base/text.h"
#include "engine/podman_conflicts.h"
#include "engine/podman_demands.h"
#include "engine/podman_engine.h"
#include "engine/volumes.h"

namespace transship::engine {
namespace {

constexpr milliseconds kCreateLimit{60'000};
// Of the move that made it: on a volume, which has no annotations.
constexpr const char* kArrivalLabel = "io.transship.arrival";

Deadline usual() { return Deadline::in(milliseconds(30'000)); }

// It comes with what is in it, which may be nothing: the image's files at that place are not for it.
void bring_volumes_as_they_are(PodmanSpec& spec) {
  auto volumes = spec.create.find("volumes");
  if (volumes == spec.create.end() || !volumes->is_array()) return;
  for (auto& v : *volumes) {
    Json options = Json::array();
    for (const auto& o : texts_at(v, {"Options"}))
      if (o != "copy" && o != "nocopy") options.push_back(o);
    options.push_back("nocopy");
    v["Options"] = std::move(options);
  }
}

}  // namespace

Result<std::vector<std::string>> PodmanEngine::volumes_here(const std::string& label) {
  std::string path = "/volumes/json";
  if (!label.empty()) path += "?filters=" + url_escape(Json({{"label", {label}}}).dump());
  TS_TRY_ASSIGN(Json all, get(path, "list volumes", usual()));
  std::vector<std::string> names;
  for (const auto& v : all.is_array() ? all : Json::array()) names.push_back(text_at(v, {"Name"}));
  return names;
}

Result<HostSide> PodmanEngine::host_side(const Container& wanted) {
  auto host = look_at_host(wanted);
  TS_TRY_ASSIGN(host.volumes, volumes_here(""));
  return host;
}

// Those with names of their own: an anonymous one is made, and removed, with its container.
Result<> PodmanEngine::make_volumes(const Container& wanted, const PodmanSpec& spec, Deadline deadline) {
  TS_TRY(make_bind_directories(wanted));
  for (const auto& v : spec.volumes) {
    bool there = std::ranges::any_of(wanted.mounts, [&](const Mount& m) {
      return m.type == "volume" && m.volume == v.name && m.copy_here != CopyHere::kNone;
    });
    if (there) continue;
    ApiRequest r;
    r.method = "POST";
    r.path = "/volumes/create";
    r.deadline = deadline;
    Json labels = v.labels.is_object() ? v.labels : Json::object();
    labels[kArrivalLabel] = wanted.arrival;
    r.body = write_json({{"Name", v.name}, {"Labels", labels}});
    TS_TRY_ASSIGN(ApiResponse response, call(r));
    if (response.status >= 400) return api_error(response, "create volume " + v.name);
  }
  return {};
}

Result<> PodmanEngine::remove_volumes(const Container& wanted, Deadline deadline) {
  if (wanted.arrival.empty()) return {};
  TS_TRY(remove_bind_directories(wanted));
  TS_TRY_ASSIGN(auto names, volumes_here(fmt::format("{}={}", kArrivalLabel, wanted.arrival)));
  for (const auto& name : names) {
    ApiRequest r;
    r.method = "DELETE";
    r.path = "/volumes/" + url_escape(name);
    r.deadline = deadline;
    TS_TRY_ASSIGN(ApiResponse response, call(r));
    if (response.status >= 400 && response.status != 404) return api_error(response, "remove volume " + name);
  }
  return {};
}

Result<Staged> PodmanEngine::stage(const Container& wanted, Deadline deadline, const Cancel& cancel) {
  TS_TRY_ASSIGN(PodmanSpec spec, read_spec(wanted.spec));
  if (text_at(spec.create, {"name"}) != wanted.name || text_at(spec.create, {"image"}) != wanted.image_id)
    return fail(Errc::kPeerProtocol, "the spec is for another container than {}", wanted.name);
  TS_TRY_ASSIGN(auto host, host_side(wanted));
  if (auto asked = podman_demands(wanted, spec, host); !asked.never.empty())
    return fail(Errc::kRefused, "{}", asked.never.front());
  // By its name where that is the same image here: Podman shows containers under what they were created with.
  if (auto named = get(fmt::format("/images/{}/json", url_escape(wanted.image)), "inspect image", deadline);
      named && text_at(*named, {"Id"}) == wanted.image_id)
    spec.create["image"] = wanted.image;
  if (wanted.new_address) forget_addresses(spec);
  if (!wanted.arrival.empty()) spec.create["annotations"][kArrivalAnnotation] = wanted.arrival;
  bring_volumes_as_they_are(spec);
  TS_TRY(cancel.check());
  auto made = make_volumes(wanted, spec, deadline);
  auto staged = made ? create(wanted, spec, deadline) : Result<Staged>(std::unexpected(std::move(made).error()));
  if (staged) return staged;
  if (auto gone = remove_volumes(wanted, usual()); !gone)
    TS_LOG_WARN("remove what was created: {}", gone.error().message());
  return staged;
}

Result<Staged> PodmanEngine::create(const Container& wanted, const PodmanSpec& spec, Deadline deadline) {
  TS_TRY_ASSIGN(PodmanApi own, service_.api());
  ApiRequest r;
  r.method = "POST";
  r.path = "/containers/create";
  r.body = write_json(spec.create);
  // Not given up half way: Podman goes on without us, and a container that nobody knows of would be left.
  r.deadline = Deadline::in(kCreateLimit).sooner(deadline);
  auto what = fmt::format("create container {}", wanted.name);
  auto response = own.request(r);
  if (!response) return std::unexpected(std::move(response).error().context(what));
  if (response->status >= 400) {
    auto error = api_error(*response, what);
    if (error.error().message().contains("already in use"))
      return fail(Errc::kAlreadyExists, "{}", error.error().message());
    return error;
  }
  TS_TRY_ASSIGN(Json created, parse_json(response->body, "podman"));
  Staged staged;
  staged.id = text_at(created, {"Id"});
  if (auto ok = complete(wanted, staged, deadline); !ok) {
    if (auto gone = discard(staged.id, usual()); !gone)
      TS_LOG_WARN("remove what was created: {}", gone.error().message());
    return std::unexpected(std::move(ok).error().context(what));
  }
  return staged;
}

Result<> PodmanEngine::complete(const Container& wanted, Staged& staged, Deadline deadline) {
  TS_TRY_ASSIGN(Json now, inspect_raw(staged.id, deadline));
  staged.rootfs_kind = text_at(now, {"GraphDriver", "Name"});
  staged.upper_dir = text_at(now, {"GraphDriver", "Data", "UpperDir"});
  if (text_at(now, {"Image"}) != wanted.image_id)
    return fail(Errc::kInternal, "it has image {}, not {}", text_at(now, {"Image"}), wanted.image_id);
  if (text_at(now, {"OCIRuntime"}) != options_.runtime)
    return fail(Errc::kInternal, "its runtime is {}, not {}", text_at(now, {"OCIRuntime"}), options_.runtime);
  if (staged.rootfs_kind != "overlay" || !std::filesystem::is_directory(staged.upper_dir))
    return fail(Errc::kUnavailable, "it has no overlay directory ({}, \"{}\")", staged.rootfs_kind, staged.upper_dir);
  const Json& mounts = at(now, {"Mounts"});
  for (const auto& wants : wanted.mounts) {
    if (!is_volume(wants)) continue;
    std::string path;
    for (const auto& m : mounts.is_array() ? mounts : Json::array())
      if (text_at(m, {"Destination"}) == wants.destination) path = text_at(m, {"Source"});
    if (path.empty() || !std::filesystem::is_directory(path))
      return fail(Errc::kUnavailable, "it has no directory for what is to be mounted on {} (\"{}\")", wants.destination,
                  path);
    staged.volumes.push_back({wants.destination, path});
  }
  return {};
}

Result<> PodmanEngine::finish(const std::string& id, const Container& wanted) {
  keep_bind_directories(wanted);
  if (wanted.restart_policy.empty() || wanted.restart_policy == "no") return {};
  return set_restart_policy(id, wanted.restart_policy);
}

Result<> PodmanEngine::discard_arrival(const Container& wanted, Deadline deadline) {
  auto now = inspect_raw(wanted.name, deadline);
  if (!now && now.error().code() != Errc::kNotFound) return std::unexpected(std::move(now).error());
  auto mark = now ? text_at(*now, {"Config", "Annotations", kArrivalAnnotation}) : std::string();
  if (!mark.empty() && mark == wanted.arrival) {
    // It has never been started; what has, is another one by now.
    if (text_at(*now, {"State", "Status"}) != "created") return {};
    TS_TRY(discard(text_at(*now, {"Id"}), deadline));
  }
  return remove_volumes(wanted, deadline);
}

}  // namespace transship::engine
