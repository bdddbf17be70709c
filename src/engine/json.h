// Reading JSON that others wrote: nothing here throws, a missing or differently typed value reads as the default.
#pragma once
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "base/result.h"

namespace transship::engine {

using Json = nlohmann::json;
using JsonPath = std::initializer_list<std::string_view>;

// `who` names the writer in the error. Nested deeper than any engine writes is kPeerProtocol: writing it out again
// would recurse as deep.
Result<Json> parse_json(std::string_view text, std::string_view who);
// Never fails: bytes that are not UTF-8 are replaced.
std::string write_json(const Json& value);

// Null where there is nothing. The result lives as long as `value`.
const Json& at(const Json& value, JsonPath path);
std::string text_at(const Json& value, JsonPath path);
bool bool_at(const Json& value, JsonPath path);
int64_t int_at(const Json& value, JsonPath path);
// Only its elements that are text.
std::vector<std::string> texts_at(const Json& value, JsonPath path);

}  // namespace transship::engine
