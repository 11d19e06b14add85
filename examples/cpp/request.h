// A request in JSON, as POST /score takes it, as the inputs of the compiled code. Code checks nothing: a wrong length
// or id gives a score, or ends the process. So what it relies on is checked here, as `easq-rec serve` does.

#pragma once

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "json.h"

namespace easq {

[[noreturn]] inline void refuse(const std::string& column, const std::string& problem) {
  throw std::runtime_error(column + ": " + problem);
}

// Column of an input: (entries) or (entries, width), int64 or float32.
inline at::Tensor column_of(const Json& values, const Json& input) {
  const std::string name = input["name"].text();
  const bool whole = input["dtype"].text() == "int64";
  const int64_t width = input["width"].is_null() ? 1 : input["width"].integer();
  std::vector<int64_t> integers;
  std::vector<float> floats;
  const auto add = [&](const Json& value) {
    if (whole) {
      integers.push_back(value.integer());
    } else {
      floats.push_back(float(value.number()));
      if (!std::isfinite(floats.back())) refuse(name, "has a number that is not finite");
    }
  };
  for (const Json& entry : values.list()) {
    if (input["width"].is_null()) {
      add(entry);
      continue;
    }
    if (int64_t(entry.list().size()) != width) refuse(name, "needs lists of " + std::to_string(width) + " numbers");
    for (const Json& value : entry.list()) add(value);
  }
  const at::Tensor found = whole ? at::tensor(integers, at::kLong) : at::tensor(floats, at::kFloat);
  return input["width"].is_null() ? found : found.view({-1, width});
}

// The inputs of the code in their order.
inline std::vector<at::Tensor> inputs_of(const Json& manifest, const Json& request) {
  const std::string lengths = "lengths:";
  std::map<std::string, at::Tensor> columns;
  std::map<std::string, int64_t> sizes;
  for (const Json& input : manifest["inputs"].list()) {
    const std::string name = input["name"].text(), axis = input["axis"].text();
    // Slots come from the lengths, and are not sent.
    if (name == axis && axis.size() > 6 && axis.substr(axis.size() - 6) == "_slots") continue;
    at::Tensor column;
    try {
      column = column_of(request[name], input);
    } catch (const std::runtime_error& error) {
      refuse(name, error.what());
    }
    if (sizes.empty()) sizes["requests"] = column.size(0);
    // Lengths come before what they count.
    if (column.size(0) != sizes.at(axis)) refuse(name, "needs " + std::to_string(sizes.at(axis)) + " entries");
    if (name.rfind(lengths, 0) == 0) {
      if (column.numel() && (column.min().item<int64_t>() < 0 || column.max().item<int64_t>() > INT32_MAX)) {
        refuse(name, "needs numbers of 0 or more");
      }
      sizes[name.substr(lengths.size())] = column.sum().item<int64_t>();
    }
    const auto& bounds = manifest["bounds"].object();
    if (const auto bound = bounds.find(name); bound != bounds.end() && column.numel()) {
      if (column.min().item<int64_t>() < 0 || column.max().item<int64_t>() >= bound->second.integer()) {
        refuse(name, "needs ids of 0 or more and less than " + std::to_string(bound->second.integer()));
      }
    }
    columns[name] = column;
  }
  if (sizes.at("candidates") < 1) refuse("candidates", "needs at least one");
  const auto slots = [&](const std::string& group, int64_t most) {
    const int64_t longest = columns.at(lengths + group).max().item<int64_t>();
    return at::arange(std::max<int64_t>(std::min(longest, most), 2), at::kLong);
  };
  columns["history_slots"] = slots("history", manifest["max_history"].integer());
  columns["candidate_slots"] = slots("candidates", INT32_MAX);
  std::vector<at::Tensor> inputs;
  for (const Json& input : manifest["inputs"].list()) inputs.push_back(columns.at(input["name"].text()));
  return inputs;
}

}  // namespace easq
