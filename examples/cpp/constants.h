// The weights of a package: tables/*.npy, which are mapped and not read, and dense.safetensors.

#pragma once

#include <ATen/ATen.h>

#include <cstring>
#include <filesystem>
#include <map>
#include <regex>
#include <string>
#include <unordered_map>
#include <vector>

#include "json.h"

namespace easq {

using Constants = std::unordered_map<std::string, at::Tensor>;

// All bytes of a file, whose pages other processes share.
inline at::Tensor mapped(const std::string& path) {
  const auto bytes = std::filesystem::file_size(path);
  return at::from_file(path, /*shared=*/false, int64_t(bytes), at::TensorOptions().dtype(at::kByte));
}

inline at::Tensor viewed(const at::Tensor& bytes, at::ScalarType dtype, const std::vector<int64_t>& shape) {
  int64_t count = 1;
  for (int64_t size : shape) count *= size;
  const auto wanted = count * int64_t(c10::elementSize(dtype));
  if (bytes.numel() != wanted) {
    throw std::runtime_error(
        "a constant has " + std::to_string(bytes.numel()) + " bytes, not " + std::to_string(wanted));
  }
  return bytes.view(dtype).view(shape);
}

inline at::ScalarType type_of(const std::string& name) {
  static const std::map<std::string, at::ScalarType> types = {
      // of npy
      {"<f4", at::kFloat}, {"<f2", at::kHalf}, {"|i1", at::kChar}, {"<i8", at::kLong},
      // of safetensors
      {"F32", at::kFloat}, {"F16", at::kHalf}, {"I8", at::kChar}, {"I64", at::kLong}, {"BOOL", at::kBool},
  };
  const auto found = types.find(name);
  if (found == types.end()) throw std::runtime_error(name + ": is no type that is known here");
  return found->second;
}

// Format 1.0: magic and version of 8 bytes, length of the header, header as a literal of Python, numbers.
inline at::Tensor npy(const std::string& path) {
  const at::Tensor bytes = mapped(path);
  const auto* begin = static_cast<const char*>(bytes.const_data_ptr());
  if (bytes.numel() < 10 || std::memcmp(begin, "\x93NUMPY\x01", 7) != 0) throw std::runtime_error(path + ": is no npy");
  const int64_t head = 10 + uint8_t(begin[8]) + 256 * uint8_t(begin[9]);
  if (head > bytes.numel()) throw std::runtime_error(path + ": is torn");
  const std::string header(begin + 10, begin + head);
  static const std::regex pattern("'descr': '([^']+)', 'fortran_order': False, 'shape': \\(([0-9, ]*)\\)");
  std::smatch found;
  if (!std::regex_search(header, found, pattern)) throw std::runtime_error(path + ": another array than packages have");
  std::vector<int64_t> shape;
  std::stringstream sizes(found[2]);
  for (std::string size; std::getline(sizes, size, ',');) {
    if (size.find_first_of("0123456789") != std::string::npos) shape.push_back(std::stoll(size));
  }
  return viewed(bytes.slice(0, head), type_of(found[1]), shape);
}

// Length of the header, header in JSON, numbers.
inline Constants safetensors(const std::string& path) {
  const at::Tensor bytes = mapped(path);
  uint64_t head = 0;
  if (bytes.numel() < 8) throw std::runtime_error(path + ": is torn");
  std::memcpy(&head, bytes.const_data_ptr(), 8);
  if (head > uint64_t(bytes.numel()) - 8) throw std::runtime_error(path + ": is torn");
  const auto* begin = static_cast<const char*>(bytes.const_data_ptr()) + 8;
  const Json header = json_of(std::string(begin, begin + head));
  Constants constants;
  for (const auto& [name, entry] : header.object()) {
    if (name == "__metadata__") continue;
    const auto& offsets = entry["data_offsets"].list();
    const int64_t first = offsets.at(0).integer(), last = offsets.at(1).integer();
    if (first < 0 || first > last || last > bytes.numel() - 8 - int64_t(head)) {
      throw std::runtime_error(path + ": is torn");
    }
    std::vector<int64_t> shape;
    for (const auto& size : entry["shape"].list()) shape.push_back(size.integer());
    // A copy: the numbers of a file may lie anywhere, and code expects them where their type may begin.
    const auto own = bytes.slice(0, 8 + int64_t(head) + first, 8 + int64_t(head) + last).clone();
    constants[name] = viewed(own, type_of(entry["dtype"].text()), shape);
  }
  return constants;
}

// All constants that a manifest names.
inline Constants constants_of(const std::string& folder, const Json& manifest) {
  const std::string dense_name = "dense.safetensors";
  const Constants dense = safetensors(folder + "/" + dense_name);
  Constants constants;
  for (const auto& [name, file] : manifest["constants"].object()) {
    constants[name] = file.text() == dense_name ? dense.at(name) : npy(folder + "/" + file.text());
  }
  return constants;
}

}  // namespace easq
